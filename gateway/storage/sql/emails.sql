-- add_emails: one account's e-mails of a batch
insert into emails (account_id, id, from_name, from_address, mail_from, recipients, subject, message_id, tags, metadata, size, on_unknown,
  scheduled_at, expires_at, source, topic, trace, created_at)
select :account_id, u.id, u.from_name, u.from_address, u.mail_from, cast(u.recipients as jsonb), u.subject, u.message_id,
  cast(u.tags as jsonb), cast(u.metadata as jsonb), u.size, u.on_unknown, u.scheduled_at, u.expires_at, u.source, u.topic,
  u.trace, statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:from_names as text[]), cast(:from_addresses as text[]), cast(:mail_froms as text[]),
  cast(:recipients as text[]), cast(:subjects as text[]), cast(:message_ids as text[]), cast(:tags as text[]), cast(:metadata as text[]),
  cast(:sizes as integer[]), cast(:on_unknowns as text[]), cast(:scheduled_ats as timestamptz[]), cast(:expires_ats as timestamptz[]),
  cast(:sources as text[]), cast(:topics as text[]), cast(:traces as text[]))
  as u (id, from_name, from_address, mail_from, recipients, subject, message_id, tags, metadata, size, on_unknown, scheduled_at,
  expires_at, source, topic, trace)

-- add_deliveries: their recipients; due at once, at the scheduled time, or never (suppressed)
insert into deliveries (account_id, id, email_id, kind, address, domain, status, due_at, waits_since, created_at, updated_at)
select :account_id, u.id, u.email_id, u.kind, u.address, u.domain, cast(u.status as delivery_status),
  case u.status when 'queued' then statement_timestamp() when 'scheduled' then u.scheduled_at end,
  case u.status when 'queued' then statement_timestamp() when 'scheduled' then u.scheduled_at end, statement_timestamp(), statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:email_ids as uuid[]), cast(:kinds as text[]), cast(:addresses as text[]), cast(:domains as text[]),
  cast(:statuses as text[]), cast(:scheduled_ats as timestamptz[])) as u (id, email_id, kind, address, domain, status, scheduled_at)

-- waiting: how many of an account's recipients wait to be sent to, counted up to a limit
select count(*) from (select 1 from deliveries d where d.account_id = :account_id and d.due_at is not null limit :limit) w

-- suppressed: which of these addresses are not to be written to, and with which of these scopes
select s.address, s.scope from suppressions s
where s.account_id = :account_id and s.address = any(cast(:addresses as text[])) and s.scope = any(cast(:scopes as text[]))
  and (s.expires_at is null or s.expires_at > statement_timestamp())

-- due_accounts: whose are those that are to be written to first, those of suspended accounts among them, of which there may
-- be any number: they are looked at up to the limit, and left out then; looks, locks nothing
select o.account_id, count(*) as recipients,
  exists (select 1 from accounts a where a.id = o.account_id and a.suspended_at is not null) as is_suspended
from (
  select d.account_id from deliveries d where d.due_at > '-infinity' and d.due_at <= statement_timestamp()
  order by d.due_at limit :limit) o
group by o.account_id

-- all_due_accounts: every account with somebody to write to now, for when one's many hide the others'
select a.id as account_id from accounts a cross join lateral (
  select 1 from deliveries d where d.account_id = a.id and d.due_at <= statement_timestamp() order by d.due_at limit 1) f
where a.suspended_at is null

-- claim: lease a slice of an account's due recipients, unless it is suspended; a row whose lease ran out is due again.
-- The slice is materialized: as a plain subquery some plans take it anew for each row, and each time the next rows
with due as materialized (
  select c.id, c.status from deliveries c
  where c.account_id = :account_id and c.due_at <= statement_timestamp()
    and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)
  order by c.due_at limit :limit for update skip locked
)
update deliveries d
set status = 'sending', lease_id = :lease_id, due_at = statement_timestamp() + make_interval(secs => :lease_seconds),
  attempts = d.attempts + 1, updated_at = statement_timestamp()
from due where d.account_id = :account_id and d.id = due.id
returning d.id, d.email_id, d.address, d.domain, d.attempts, d.in_data, d.lease_id, d.waits_since, due.status as before

-- claimed_emails: what is to be sent to them; `listed` are those of the addresses that are not to be written to by now,
-- each behind its scope and a space; large ones are not read yet
select e.id, e.mail_from, e.from_address, e.source, e.tags, e.on_unknown, e.expires_at, e.created_at, e.scheduled_at, e.topic, e.trace, e.size,
  case when e.size <= :at_once then c.raw end as raw,
  array(select s.scope || ' ' || s.address from suppressions s where s.account_id = :account_id and s.address = any(cast(:addresses as text[]))
    and (s.expires_at is null or s.expires_at > statement_timestamp())) as listed
from emails e join contents c on c.account_id = e.account_id and c.id = e.id
where e.account_id = :account_id and e.id = any(cast(:ids as uuid[]))

-- let_go: recipients of a claim whose answer nobody heard, so that nobody has them in hand: due at once, untried
update deliveries d set due_at = statement_timestamp(), attempts = d.attempts - 1, lease_id = null
where d.account_id = :account_id and d.due_at > statement_timestamp() and d.lease_id = :lease_id and d.status = 'sending'

-- renew: the lease goes on; rows that are missing from the answer were taken over by somebody else
update deliveries d set due_at = statement_timestamp() + make_interval(secs => :lease_seconds)
where d.account_id = :account_id and d.lease_id = :lease_id and d.id = any(cast(:ids as uuid[])) and d.status = 'sending'
returning d.id

-- enter_data: committed before DATA, so that an outcome nobody heard is known to be unknown
update deliveries d set in_data = true
where d.account_id = :account_id and d.id = :id and d.lease_id = :lease_id and d.status = 'sending'

-- give_back: claimed recipients, untried: what they were before, due when their destination may take them. Whether an
-- attempt before this one broke off in DATA (in_data) stays as it is known
update deliveries d
set status = cast(u.status as delivery_status), attempts = d.attempts - 1, lease_id = null,
  due_at = statement_timestamp() + make_interval(secs => u.again_in), updated_at = statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:lease_ids as uuid[]), cast(:statuses as text[]), cast(:again_ins as double precision[]))
  as u (id, lease_id, status, again_in)
where d.account_id = :account_id and d.id = u.id and d.lease_id = u.lease_id and d.status = 'sending'
returning d.id

-- first_in_line: of the account's recipients that are due first, those in these domains that nobody has in hand, locked.
-- So many are looked at, not found: no index leads to a domain's recipients, for each would be written with every claim,
-- lease and verdict, and only those in front of others are in anybody's way. `seconds_left`: until they are given up
with head as materialized (
  select h.id, h.domain from deliveries h
  where h.account_id = :account_id and h.due_at <= statement_timestamp()
  order by h.due_at limit :limit
)
select c.id, c.domain, c.address, e.mail_from, e.from_address as author, e.tags, cast(extract(epoch from least(e.expires_at,
    coalesce(c.waits_since, e.scheduled_at, e.created_at) + make_interval(secs => :max_age)) - statement_timestamp()) as double precision) as seconds_left
from head h
join deliveries c on c.account_id = :account_id and c.id = h.id
join emails e on e.account_id = :account_id and e.id = c.email_id
where h.domain = any(cast(:domains as text[])) and c.due_at <= statement_timestamp()
  and c.status in ('scheduled', 'queued', 'deferred') and not c.in_data
order by c.due_at for update of c skip locked

-- park: they are due later
update deliveries d set due_at = statement_timestamp() + make_interval(secs => u.again_in)
from unnest(cast(:ids as uuid[]), cast(:again_ins as double precision[])) as u (id, again_in)
where d.account_id = :account_id and d.id = u.id and d.status in ('scheduled', 'queued', 'deferred')

-- settle: verdicts of those who still hold their leases
update deliveries d
set status = cast(u.status as delivery_status), due_at = statement_timestamp() + make_interval(secs => u.again_in), lease_id = null,
  in_data = false, provider = u.provider, provider_id = u.provider_id, reply = u.reply, updated_at = statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:lease_ids as uuid[]), cast(:statuses as text[]), cast(:again_ins as double precision[]),
  cast(:providers as text[]), cast(:provider_ids as text[]), cast(:replies as text[]))
  as u (id, lease_id, status, again_in, provider, provider_id, reply)
where d.account_id = :account_id and d.id = u.id and d.lease_id = u.lease_id and d.status = 'sending'
returning d.id, u.lease_id

-- add_attempts: what was tried, whether or not it still decided anything
insert into attempts (account_id, id, delivery_id, email_id, number, provider, started_at, finished_at, outcome, code, reply, transcript,
  is_stale, rule, class, suppresses)
select :account_id, u.id, u.delivery_id, u.email_id, u.number, u.provider, u.started_at, u.finished_at, u.outcome, u.code, u.reply,
  cast(u.transcript as jsonb), u.is_stale, u.rule, u.class, u.suppresses
from unnest(cast(:ids as uuid[]), cast(:delivery_ids as uuid[]), cast(:email_ids as uuid[]), cast(:numbers as integer[]),
  cast(:providers as text[]), cast(:started_ats as timestamptz[]), cast(:finished_ats as timestamptz[]), cast(:outcomes as text[]),
  cast(:codes as smallint[]), cast(:replies as text[]), cast(:transcripts as text[]), cast(:stales as boolean[]),
  cast(:rules as text[]), cast(:classes as text[]), cast(:suppresses as boolean[]))
  as u (id, delivery_id, email_id, number, provider, started_at, finished_at, outcome, code, reply, transcript, is_stale, rule, class, suppresses)

-- probe_attempt: to be rolled back: no row = the attempt is there. Waits for a transaction that is still committing it
insert into attempts as t (account_id, id, delivery_id, email_id, number, provider, started_at, finished_at, outcome, reply, transcript)
values (:account_id, :id, :id, :id, 0, '', statement_timestamp(), statement_timestamp(), '', '', '[]')
on conflict (account_id, id) do nothing returning t.id

-- lock: an e-mail's recipients for a change by the caller
select d.id, d.status, d.address from deliveries d where d.account_id = :account_id and d.email_id = :email_id order by d.id for update

-- statuses: the same to be looked at
select d.status, d.address from deliveries d where d.account_id = :account_id and d.email_id = :email_id

-- set_status: recipients change by the caller's word: canceled (never due), queued again (due now), scheduled anew. Who was
-- put off has waited all along; who was given up or held waits from now on
update deliveries d
set status = cast(:status as delivery_status), lease_id = null, in_data = false, updated_at = statement_timestamp(),
  waits_since = case when cast(:status as text) = 'scheduled' then cast(:scheduled_at as timestamptz)
    when cast(:status as text) = 'queued' and d.status <> 'deferred' then statement_timestamp() else d.waits_since end,
  due_at = case cast(:status as text) when 'queued' then statement_timestamp() when 'scheduled' then cast(:scheduled_at as timestamptz) end
where d.account_id = :account_id and d.id = any(cast(:ids as uuid[]))

-- late: recipients that nobody has in hand and that wait for longer than so many seconds, and were not told of; locks nothing
select d.account_id, d.id from deliveries d
where d.due_at is not null and d.lease_id is null and d.delayed_told_at is null
  and d.waits_since <= statement_timestamp() - make_interval(secs => :seconds)
order by d.waits_since limit :limit

-- mark_late: those of one account that still do; whoever is at one of them now tells of it, or it is found again
with late as materialized (
  select l.id from deliveries l
  where l.account_id = :account_id and l.id = any(cast(:ids as uuid[])) and l.due_at is not null and l.lease_id is null
    and l.delayed_told_at is null and l.waits_since <= statement_timestamp() - make_interval(secs => :seconds)
  order by l.id for update skip locked
)
update deliveries d set delayed_told_at = statement_timestamp()
from late where d.account_id = :account_id and d.id = late.id
returning d.id, d.email_id, d.address, d.status, d.attempts, d.reply, d.provider, d.waits_since,
  extract(epoch from d.due_at - statement_timestamp()) as due_in

-- set_schedule: an e-mail's new time; its end keeps its distance
update emails e set scheduled_at = :scheduled_at, expires_at = e.expires_at + (:scheduled_at - e.scheduled_at)
where e.account_id = :account_id and e.id = :id

-- get: one e-mail
select e.* from emails e where e.account_id = :account_id and e.id = :id

-- raw: what was composed
select c.raw from emails e join contents c on c.account_id = e.account_id and c.id = e.id where e.account_id = :account_id and e.id = :id

-- recipients: of these e-mails
select d.* from deliveries d where d.account_id = :account_id and d.email_id = any(cast(:email_ids as uuid[])) order by d.email_id, d.id

-- attempts: of one e-mail, in order
select t.*, d.address from attempts t join deliveries d on d.account_id = t.account_id and d.id = t.delivery_id
where t.account_id = :account_id and t.email_id = :email_id order by t.id
