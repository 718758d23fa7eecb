-- take_address: the address leads here from now on; no row = it leads somewhere already
insert into addresses as a (address, account_id, mailbox_id) values (:address, :account_id, :mailbox_id)
on conflict (address) do nothing returning a.address

-- routes: where mail for these addresses goes
select a.address, a.account_id, a.mailbox_id from addresses a where a.address = any(cast(:addresses as text[]))

-- retake_address: an address whose mailbox is over leads to the same account's new one
update addresses set mailbox_id = :mailbox_id
where address = :address and account_id = :account_id and mailbox_id = :old_mailbox_id

-- release_addresses: mail for a reclaimed mailbox is mail for nobody
delete from addresses where account_id = :account_id and address = :address and mailbox_id = :mailbox_id

-- create: the mailbox itself; its life counts from the database's clock
insert into mailboxes (account_id, id, address, expires_at, metadata, created_at, sender_policy)
values (:account_id, :id, :address, statement_timestamp() + make_interval(secs => :ttl_seconds), :metadata, statement_timestamp(), :sender_policy)
returning created_at, expires_at

-- live: which of these take mail now (those of a suspended account do not); locked against expiry and deletion until the transaction ends, in the order of ids
select m.id from mailboxes m
where m.account_id = :account_id and m.id = any(cast(:ids as uuid[])) and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp())
  and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)
order by m.id for share

-- living: which of these take mail now; looks, locks nothing
select m.id from mailboxes m
where m.account_id = :account_id and m.id = any(cast(:ids as uuid[])) and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp())
  and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)

-- standing: the same with what their owner wants done with doubtful senders and what the account holds already
select m.id, m.sender_policy, h.stored_bytes,
  case when h.minute_began = date_trunc('minute', statement_timestamp()) then h.minute_messages else 0 end as minute_messages
from mailboxes m join event_heads h on h.account_id = m.account_id
where m.account_id = :account_id and m.id = any(cast(:ids as uuid[])) and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp())
  and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)

-- get: one mailbox, unless it is gone
select m.id, m.address, m.expires_at, m.metadata, m.created_at, m.sender_policy,
  (m.expires_at is null or m.expires_at > statement_timestamp()) as is_live,
  (select count(*) from messages g where g.account_id = :account_id and g.mailbox_id = m.id) as message_count,
  coalesce((select e.seq from events e where e.account_id = :account_id and e.mailbox_id = m.id and e.type = 'mailbox.created' order by e.seq limit 1),
    (select o.seq - 1 from events o where o.account_id = :account_id order by o.seq limit 1), 0) as cursor
from mailboxes m
where m.account_id = :account_id and m.id = :id and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp() - make_interval(secs => :retention))

-- cursor: seq of its mailbox.created; where that is forgotten, of what the log begins behind
select coalesce((select e.seq from events e where e.account_id = :account_id and e.mailbox_id = :id and e.type = 'mailbox.created' order by e.seq limit 1),
  (select o.seq - 1 from events o where o.account_id = :account_id order by o.seq limit 1), 0)

-- by_address: the newest mailbox that had the address
select m.id from mailboxes m
where m.account_id = :account_id and m.address = :address and m.deleted_at is null order by m.created_at desc, m.id desc limit 1

-- list_desc: mailboxes that are not gone, newest first; of these states (null = any), with all these words (in small letters)
-- somewhere in the address or the metadata
select m.id, m.address, m.expires_at, m.metadata, m.created_at, m.sender_policy,
  (m.expires_at is null or m.expires_at > statement_timestamp()) as is_live,
  (select count(*) from messages g where g.account_id = :account_id and g.mailbox_id = m.id) as message_count,
  coalesce((select e.seq from events e where e.account_id = :account_id and e.mailbox_id = m.id and e.type = 'mailbox.created' order by e.seq limit 1),
    (select o.seq - 1 from events o where o.account_id = :account_id order by o.seq limit 1), 0) as cursor
from mailboxes m
where m.account_id = :account_id and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp() - make_interval(secs => :retention))
  and (cast(:after as uuid) is null or m.id < :after) and m.id > :first and m.id < :last
  and m.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and m.created_at < coalesce(cast(:until as timestamptz), 'infinity')
  and (cast(:live as boolean) is null or cast(:live as boolean) = (m.expires_at is null or m.expires_at > statement_timestamp()))
  and not exists (select 1 from unnest(cast(:words as text[])) as w (word) where strpos(lower(m.address || ' ' || cast(m.metadata as text)), w.word) = 0)
order by m.id desc limit :limit

-- list_asc: the same, oldest first
select m.id, m.address, m.expires_at, m.metadata, m.created_at, m.sender_policy,
  (m.expires_at is null or m.expires_at > statement_timestamp()) as is_live,
  (select count(*) from messages g where g.account_id = :account_id and g.mailbox_id = m.id) as message_count,
  coalesce((select e.seq from events e where e.account_id = :account_id and e.mailbox_id = m.id and e.type = 'mailbox.created' order by e.seq limit 1),
    (select o.seq - 1 from events o where o.account_id = :account_id order by o.seq limit 1), 0) as cursor
from mailboxes m
where m.account_id = :account_id and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp() - make_interval(secs => :retention))
  and (cast(:after as uuid) is null or m.id > :after) and m.id > :first and m.id < :last
  and m.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and m.created_at < coalesce(cast(:until as timestamptz), 'infinity')
  and (cast(:live as boolean) is null or cast(:live as boolean) = (m.expires_at is null or m.expires_at > statement_timestamp()))
  and not exists (select 1 from unnest(cast(:words as text[])) as w (word) where strpos(lower(m.address || ' ' || cast(m.metadata as text)), w.word) = 0)
order by m.id limit :limit

-- lock: one mailbox for a change; where the sweep was quicker the row tells, for this statement's clock stood while it waited
select m.id, m.is_active and (m.expires_at is null or m.expires_at > statement_timestamp()) as is_live from mailboxes m
where m.account_id = :account_id and m.id = :id and m.deleted_at is null
  and (m.expires_at is null or m.expires_at > statement_timestamp() - make_interval(secs => :retention))
for update

-- set_life: it lives so long from now on; null = for ever
update mailboxes set expires_at = statement_timestamp() + make_interval(secs => :ttl_seconds) where account_id = :account_id and id = :id

-- set_metadata: the owner's own words
update mailboxes set metadata = :metadata where account_id = :account_id and id = :id

-- set_sender_policy: what becomes of mail whose sender is not who it says, from the next mail on
update mailboxes set sender_policy = :sender_policy where account_id = :account_id and id = :id

-- delete: it is gone at once; its rows go later
update mailboxes set deleted_at = statement_timestamp(), expires_at = to_timestamp(0), is_active = false
where account_id = :account_id and id = :id and deleted_at is null

-- due_accounts: accounts with a mailbox to expire; looks, locks nothing
select distinct d.account_id from (
  select m.account_id from mailboxes m where m.is_active and m.expires_at <= statement_timestamp() order by m.expires_at limit :limit) d

-- expire: one slice of an account's expired mailboxes, but for those with mail that is held for a moment: it is shown first;
-- materialized, for as a plain subquery some plans take it anew for each row, and each time the next rows
with due as materialized (
  select d.id from mailboxes d
  where d.account_id = :account_id and d.is_active and d.expires_at <= statement_timestamp() and not exists (
    select 1 from held_messages h where h.account_id = :account_id and h.mailbox_id = d.id
      and h.created_at > statement_timestamp() - interval '60 seconds')
  order by d.expires_at limit :limit for update skip locked
)
update mailboxes m set is_active = false from due where m.account_id = :account_id and m.id = due.id
returning m.id

-- gone: mailboxes whose rows may go, deleted ones first, then the longest expired; those with mail that is held keep it,
-- unless they are deleted; looks, locks nothing
select m.account_id, m.id, m.address from mailboxes m
where not m.is_active and m.expires_at < statement_timestamp() - make_interval(secs => :retention)
  and (m.deleted_at is not null or not exists (
    select 1 from held_messages h where h.account_id = m.account_id and h.mailbox_id = m.id))
order by m.expires_at limit :limit

-- count_gone: how many those are, and the messages in them; reads all of them, for an operator who waits for it
select count(*) as mailboxes, coalesce(sum((
  select count(*) from messages g where g.account_id = m.account_id and g.mailbox_id = m.id)), 0)::bigint as messages
from mailboxes m
where not m.is_active and m.expires_at < statement_timestamp() - make_interval(secs => :retention)
  and (m.deleted_at is not null or not exists (
    select 1 from held_messages h where h.account_id = m.account_id and h.mailbox_id = m.id))

-- reclaim: the row of a mailbox that has no messages any more
delete from mailboxes m where m.account_id = :account_id and m.id = :id and not m.is_active
