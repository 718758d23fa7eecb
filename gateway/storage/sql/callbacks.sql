-- note_messages: what providers call the mails that they took, so that their callbacks find them
insert into provider_messages (provider, provider_id, account_id, delivery_id)
select u.provider, u.provider_id, u.account_id, u.delivery_id
from unnest(cast(:providers as text[]), cast(:provider_ids as text[]), cast(:account_ids as uuid[]), cast(:delivery_ids as uuid[]))
  as u (provider, provider_id, account_id, delivery_id)
on conflict (provider, provider_id) do nothing

-- keep: a callback as it was posted; the same again changes nothing
insert into callbacks (provider, event_id, provider_id, payload) values (:provider, :event_id, :provider_id, :payload)
on conflict (provider, event_id) do nothing

-- delivery_of: whose mail a provider speaks of; the longest of its names is the most particular
select p.account_id, p.delivery_id from provider_messages p
where p.provider = :provider and p.provider_id = any(cast(:provider_ids as text[])) order by length(p.provider_id) desc limit 1

-- use: a callback's news are applied, once; no row = they were
update callbacks c set applied_at = statement_timestamp()
where c.provider = :provider and c.event_id = :event_id and c.applied_at is null

-- waiting: callbacks that came before it was written down whose mail they speak of
select c.event_id, c.payload from callbacks c
where c.provider = :provider and c.provider_id = any(cast(:provider_ids as text[])) and c.applied_at is null
order by c.received_at limit :limit

-- lock: a recipient, for news of it
select d.id, d.email_id, d.address, d.status, d.attempts, d.provider from deliveries d
where d.account_id = :account_id and d.id = :id for update

-- move: what news make of a recipient; who was about to write there again has lost the lease
update deliveries d
set status = cast(:status as delivery_status), due_at = null, lease_id = null, in_data = false, reply = :reply,
  updated_at = statement_timestamp()
where d.account_id = :account_id and d.id = :id

-- suppress: an address that is not to be written to again; an entry that is there stays as it is, unless it has ended
insert into suppressions as s (account_id, address, reason) values (:account_id, :address, :reason)
on conflict (account_id, address, scope) do update
set reason = excluded.reason, expires_at = excluded.expires_at, created_at = excluded.created_at
where s.expires_at <= statement_timestamp()

-- forget: one slice of those that are older than this
delete from callbacks c where (c.provider, c.event_id) in (
  select o.provider, o.event_id from callbacks o where o.received_at < :before order by o.received_at limit :limit for update skip locked)

-- count_of: how many were kept about one mail, counted up to a limit
select count(*) from (
  select 1 from callbacks c where c.provider = :provider and c.provider_id = :provider_id limit :limit) k

-- unapplied: reports that came by mail, of mails that are known to have been handed over by now
select c.event_id, c.provider_id, c.payload, c.received_at from callbacks c
join provider_messages p on p.provider = c.provider and p.provider_id = c.provider_id
where c.provider = 'mail' and c.applied_at is null
  and (cast(:since as timestamptz) is null or (c.received_at, c.event_id) > (cast(:since as timestamptz), cast(:after as text)))
order by c.received_at, c.event_id limit :limit

-- abandon: reports that came by mail before this, of mails of which nobody knows any more; they are not looked at again
update callbacks c set applied_at = statement_timestamp()
where c.provider = 'mail' and c.applied_at is null and c.received_at < :before
  and not exists (select 1 from provider_messages p where p.provider = c.provider and p.provider_id = c.provider_id)

-- reports: what came by mail about these deliveries
select c.event_id, c.provider_id, c.received_at, c.applied_at, length(c.payload) as size from callbacks c
where c.provider = 'mail' and c.provider_id = any(cast(:provider_ids as text[]))
order by c.received_at, c.event_id

-- report: one of them, as it came
select c.payload from callbacks c
where c.provider = 'mail' and c.event_id = :event_id and c.provider_id = any(cast(:provider_ids as text[]))

-- forget_messages: one slice of the mails that were handed over before this
delete from provider_messages m where (m.provider, m.provider_id) in (
  select o.provider, o.provider_id from provider_messages o where o.created_at < :before order by o.created_at limit :limit
  for update skip locked)
