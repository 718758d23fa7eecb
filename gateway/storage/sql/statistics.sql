-- behind: accounts in the order of ids, and whether what their logs hold is to be counted; of each a span of events is looked at, none is locked
select h.account_id, case when h.last_seq >= coalesce(c.counted_seq, 0) + :span then true else exists (
    select 1 from events e
    where e.account_id = h.account_id and e.seq > coalesce(c.counted_seq, 0) and e.type = any(cast(:types as text[]))) end as has_work
from event_heads h join accounts a on a.id = h.account_id left join counting c on c.account_id = h.account_id
where h.account_id > :after and not a.is_void
order by h.account_id limit :limit

-- has_news: the same of one account
select case when h.last_seq >= coalesce(c.counted_seq, 0) + :span then true else exists (
    select 1 from events e
    where e.account_id = :account_id and e.seq > coalesce(c.counted_seq, 0) and e.type = any(cast(:types as text[]))) end
from event_heads h left join counting c on c.account_id = :account_id
where h.account_id = :account_id

-- begin: an account of which nothing is counted yet
insert into counting (account_id, counted_seq) values (:account_id, 0) on conflict (account_id) do nothing

-- take: how far it is counted; no row = somebody else is at it
select c.counted_seq from counting c where c.account_id = :account_id for update skip locked

-- advance: so far it is counted now
update counting set counted_seq = :until where account_id = :account_id

-- news: events of these types between two seqs, oldest first
select e.seq, e.type, e.email_id, e.created_at, e.data ->> 'recipient' as recipient, e.data ->> 'provider' as provider,
  e.data ->> 'from' is not null as is_new
from events e
where e.account_id = :account_id and e.seq > :after and e.seq <= :until and e.type = any(cast(:types as text[])) and e.email_id is not null
order by e.seq limit :limit

-- emails: who sent them, what they are called by, and when they were due
select e.id, e.from_address, e.tags, coalesce(e.scheduled_at, e.created_at) as due_at
from emails e where e.account_id = :account_id and e.id = any(cast(:ids as uuid[]))

-- recipients: how many recipients these e-mails have at each domain
select d.email_id, d.domain, count(*) as count from deliveries d
where d.account_id = :account_id and d.email_id = any(cast(:ids as uuid[])) group by d.email_id, d.domain

-- standings: by whom mail to the recipients of these e-mails left last, and since when it waited
select d.email_id, d.address, d.provider, d.waits_since from deliveries d
where d.account_id = :account_id and d.email_id = any(cast(:ids as uuid[]))

-- outcomes: whether recipients of these e-mails stood as taken at a seq, where the log knows
select distinct on (e.email_id, e.data ->> 'recipient') e.email_id, e.data ->> 'recipient' as recipient,
  e.type in ('email.sent', 'email.delivered') as is_taken
from events e
where e.account_id = :account_id and e.email_id = any(cast(:ids as uuid[])) and e.seq <= :until
  and e.type in ('email.sent', 'email.delivered', 'email.bounced', 'email.failed')
order by e.email_id, e.data ->> 'recipient', e.seq desc

-- units: everything that is counted in these hours and days
select s.* from unnest(cast(:is_days as boolean[]), cast(:hours as timestamptz[])) as u (is_day, hour)
join delivery_statistics s on s.account_id = :account_id and s.is_day = u.is_day and s.hour = u.hour

-- save: what these rows are now
insert into delivery_statistics as s (account_id, is_day, hour, tag, sender_domain, recipient_domain, provider, accepted, sent, delivered, deferred,
  bounced, failed, suppressed, complained, opened, clicked, unknown, taken, returned, first_bucket, latencies)
select :account_id, u.is_day, u.hour, u.tag, u.sender_domain, u.recipient_domain, u.provider, u.accepted, u.sent, u.delivered, u.deferred,
  u.bounced, u.failed, u.suppressed, u.complained, u.opened, u.clicked, u.unknown, u.taken, u.returned, u.first_bucket,
  cast(u.latencies as integer[])
from unnest(cast(:is_days as boolean[]), cast(:hours as timestamptz[]), cast(:tags as text[]), cast(:sender_domains as text[]), cast(:recipient_domains as text[]),
  cast(:providers as text[]), cast(:accepted as integer[]), cast(:sent as integer[]), cast(:delivered as integer[]),
  cast(:deferred as integer[]), cast(:bounced as integer[]), cast(:failed as integer[]), cast(:suppressed as integer[]),
  cast(:complained as integer[]), cast(:opened as integer[]), cast(:clicked as integer[]), cast(:unknown as integer[]),
  cast(:taken as integer[]), cast(:returned as integer[]), cast(:first_buckets as smallint[]), cast(:latencies as text[]))
  as u (is_day, hour, tag, sender_domain, recipient_domain, provider, accepted, sent, delivered, deferred, bounced, failed, suppressed,
  complained, opened, clicked, unknown, taken, returned, first_bucket, latencies)
on conflict (account_id, is_day, hour, tag, sender_domain, recipient_domain, provider) do update set accepted = excluded.accepted,
  sent = excluded.sent, delivered = excluded.delivered, deferred = excluded.deferred, bounced = excluded.bounced,
  failed = excluded.failed, suppressed = excluded.suppressed, complained = excluded.complained, opened = excluded.opened,
  clicked = excluded.clicked, unknown = excluded.unknown, taken = excluded.taken, returned = excluded.returned,
  first_bucket = excluded.first_bucket, latencies = excluded.latencies

-- add_arrivals: mail that came in between two seqs, added to its hours; one row an hour
insert into inbound_statistics as s (account_id, hour, received, dropped)
select :account_id, date_trunc('hour', e.created_at, 'UTC'), count(*) filter (where e.type = 'message.received'),
  count(*) filter (where e.type = 'message.dropped')
from events e
where e.account_id = :account_id and e.seq > :after and e.seq <= :until and e.type = any(cast(:types as text[]))
group by 2
on conflict (account_id, hour) do update set received = s.received + excluded.received, dropped = s.dropped + excluded.dropped
returning 1 as added

-- arrivals: mail that came in, by interval
select case cast(:interval as text) when 'hour' then s.hour when 'day' then date_trunc('day', s.hour, 'UTC')
    else cast(:since as timestamptz) end as start, sum(s.received) as received, sum(s.dropped) as dropped
from inbound_statistics s
where s.account_id = :account_id and s.hour >= :since and s.hour < :until
group by 1 order by 1

-- old_arrivals: accounts with hours of mail that came in that are to be forgotten; looks, locks nothing
select a.id as account_id from accounts a
where exists (select 1 from inbound_statistics s where s.account_id = a.id and s.hour < :before)
limit :limit

-- forget_arrivals: one slice of an account's
delete from inbound_statistics s
where s.account_id = :account_id and s.hour in (
  select f.hour from inbound_statistics f where f.account_id = :account_id and f.hour < :before order by f.hour limit :limit)

-- coverage: how far it is counted, the head, and when the first event happened that is not (null = there is none)
select coalesce(c.counted_seq, 0) as counted_seq, h.last_seq, statement_timestamp() as now, (
    select e.created_at from events e
    where e.account_id = :account_id and e.seq > coalesce(c.counted_seq, 0) and e.seq <= coalesce(c.counted_seq, 0) + :span
      and e.type = any(cast(:types as text[]))
    order by e.seq limit 1) as waiting_since, (
    select e.created_at from events e where e.account_id = :account_id and e.seq > coalesce(c.counted_seq, 0)
    order by e.seq limit 1) as next_at
from event_heads h left join counting c on c.account_id = :account_id
where h.account_id = :account_id

-- totals: sums by interval and group; of the groups those with the most mail alone. A null tag means every tag. The time
-- is given in pieces, of hours or of whole days; each is one range of the primary key, which `offset 0` keeps it
with counted as materialized (
  select case cast(:interval as text) when 'hour' then s.hour when 'day' then date_trunc('day', s.hour, 'UTC')
      else cast(:since as timestamptz) end as start,
    case cast(:group_by as text) when 'provider' then s.provider when 'sender_domain' then s.sender_domain
      when 'recipient_domain' then s.recipient_domain when 'tag' then s.tag else '' end as name,
    sum(s.accepted) as accepted, sum(s.sent) as sent, sum(s.delivered) as delivered, sum(s.deferred) as deferred,
    sum(s.bounced) as bounced, sum(s.failed) as failed, sum(s.suppressed) as suppressed, sum(s.complained) as complained,
    sum(s.opened) as opened, sum(s.clicked) as clicked, sum(s.unknown) as unknown, sum(s.taken) as taken, sum(s.returned) as returned
  from unnest(cast(:is_days as boolean[]), cast(:sinces as timestamptz[]), cast(:untils as timestamptz[])) as p (is_day, since, until)
  cross join lateral (
    select t.* from delivery_statistics t
    where t.account_id = :account_id and t.is_day = p.is_day and t.hour >= p.since and t.hour < p.until
      and (t.tag = :tag or cast(:tag as text) is null and t.tag not in ('', '~')) offset 0) s
  where (cast(:provider as text) is null or s.provider = :provider)
    and (cast(:sender_domain as text) is null or s.sender_domain = :sender_domain)
    and (cast(:recipient_domain as text) is null or s.recipient_domain = :recipient_domain)
  group by 1, 2
), best as (
  select c.name, row_number() over (order by sum(c.accepted + c.taken + c.bounced + c.failed) desc, c.name) as place
  from counted c group by c.name order by 2 limit :limit
)
select c.*, b.place from counted c join best b on b.name = c.name order by c.start, b.place

-- latencies: how many of these groups took how long; as above
select d.start, d.name, d.first_bucket + u.n - 1 as bucket, sum(u.count) as count
from (
  select case cast(:interval as text) when 'hour' then s.hour when 'day' then date_trunc('day', s.hour, 'UTC')
      else cast(:since as timestamptz) end as start,
    case cast(:group_by as text) when 'provider' then s.provider when 'sender_domain' then s.sender_domain
      when 'recipient_domain' then s.recipient_domain when 'tag' then s.tag else '' end as name,
    s.first_bucket, s.latencies
  from unnest(cast(:is_days as boolean[]), cast(:sinces as timestamptz[]), cast(:untils as timestamptz[])) as p (is_day, since, until)
  cross join lateral (
    select t.* from delivery_statistics t
    where t.account_id = :account_id and t.is_day = p.is_day and t.hour >= p.since and t.hour < p.until
      and (t.tag = :tag or cast(:tag as text) is null and t.tag not in ('', '~')) offset 0) s
  where s.taken > 0
    and (cast(:provider as text) is null or s.provider = :provider)
    and (cast(:sender_domain as text) is null or s.sender_domain = :sender_domain)
    and (cast(:recipient_domain as text) is null or s.recipient_domain = :recipient_domain)
) d cross join lateral unnest(d.latencies) with ordinality as u (count, n)
where d.name = any(cast(:names as text[]))
group by 1, 2, 3

-- old_accounts: accounts with hours that are to be forgotten; looks, locks nothing
select a.id as account_id from accounts a
where exists (select 1 from delivery_statistics s where s.account_id = a.id and s.is_day = false and s.hour < :before)
limit :limit

-- forget: one slice of an account's, days that began as long ago among them
delete from delivery_statistics s
where s.account_id = :account_id and s.hour < :before
  and (s.is_day, s.hour, s.tag, s.sender_domain, s.recipient_domain, s.provider) in (
    select f.is_day, f.hour, f.tag, f.sender_domain, f.recipient_domain, f.provider from delivery_statistics f
    where f.account_id = :account_id and f.hour < :before order by f.is_day desc, f.hour limit :limit)

-- queue: recipients that wait to be written to, of all accounts, by status; those that are due first are counted up to a limit
select w.status, count(*) as count from (
  select cast(d.status as text) as status from deliveries d where d.due_at > '-infinity' order by d.due_at limit :limit) w
group by w.status

-- oldest_due: for how many seconds somebody has been due and was not taken in hand; 0 = nobody is, but for suspended accounts
select coalesce(extract(epoch from statement_timestamp() - (
  select d.due_at from deliveries d where d.due_at > '-infinity' and d.due_at <= statement_timestamp()
    and d.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))
  order by d.due_at limit 1)), 0)

-- waiting: recipients of an account that wait to be written to, those due first counted up to a limit: in all, and by status,
-- by their domain and by the provider that made the last attempt (empty = none yet); groups with the most first
with w as materialized (
  select cast(d.status as text) as status, d.domain, coalesce(d.provider, '') as provider, d.due_at, d.waits_since, d.reply, d.updated_at,
    d.due_at <= statement_timestamp() as is_due
  from deliveries d where d.account_id = :account_id and d.due_at is not null order by d.due_at limit :limit
), counted as (
  select case when grouping(w.status) = 0 then 'status' when grouping(w.domain) = 0 then 'domain'
      when grouping(w.provider) = 0 then 'provider' else 'all' end as kind,
    coalesce(w.status, w.domain, w.provider, '') as name, count(*) as recipients, count(*) filter (where w.is_due) as due,
    count(*) filter (where w.status = 'sending') as sending, count(*) filter (where w.status = 'deferred') as deferred,
    min(w.due_at) filter (where w.is_due) as oldest_due_at, min(w.waits_since) filter (where w.waits_since <= statement_timestamp()) as waits_since,
    min(w.due_at) filter (where not w.is_due and w.status <> 'sending') as next_at,
    (array_agg(w.reply order by w.updated_at desc) filter (where w.reply is not null))[1] as reply
  from w group by grouping sets ((), (w.status), (w.domain), (w.provider))
)
select * from (
  select c.*, row_number() over (partition by c.kind order by c.recipients desc, c.name) as place from counted c) p
where p.place <= :groups order by p.kind, p.place
