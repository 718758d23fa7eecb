-- create: a new webhook
insert into webhooks (account_id, id, url, types, mailbox_id, created_at)
values (:account_id, :id, :url, :types, :mailbox_id, statement_timestamp())
returning created_at

-- get: one webhook
select w.* from webhooks w where w.account_id = :account_id and w.id = :id and w.deleted_at is null

-- page: an account's webhooks, newest first
select w.* from webhooks w
where w.account_id = :account_id and w.deleted_at is null and (cast(:after as uuid) is null or w.id < :after)
order by w.id desc limit :limit

-- change: what it hears of and where; a webhook that is changed is active again
update webhooks set url = :url, types = :types, mailbox_id = :mailbox_id, status = 'active', disabled_reason = null, failing_since = null
where account_id = :account_id and id = :id and deleted_at is null

-- delete: it hears of nothing more
update webhooks set deleted_at = statement_timestamp() where account_id = :account_id and id = :id and deleted_at is null

-- disable: its receiver wants no more
update webhooks set status = 'disabled', disabled_reason = :reason
where account_id = :account_id and id = :id and status = 'active' and deleted_at is null

-- drop_pending: nobody waits for these any more
update webhook_deliveries d set status = 'dead', finished_at = statement_timestamp(), lease_id = null
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.status = 'pending'

-- hearing: accounts that have a webhook; looks, locks nothing
select distinct w.account_id from webhooks w where w.status = 'active' and w.deleted_at is null

-- due_accounts: accounts with somebody to tell now; looks, locks nothing
select distinct o.account_id from (
  select d.account_id from webhook_deliveries d where d.status = 'pending' and d.due_at <= statement_timestamp()
    and d.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))
  order by d.due_at limit :limit) o

-- claim: lease a slice of an account's due deliveries, unless it is suspended; a row whose lease ran out is due again.
-- The slice is materialized: as a plain subquery some plans take it anew for each row, and each time the next rows
with due as materialized (
  select c.webhook_id, c.event_id from webhook_deliveries c
  where c.account_id = :account_id and c.status = 'pending' and c.due_at <= statement_timestamp()
    and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)
  order by c.due_at limit :limit for update skip locked
)
update webhook_deliveries d
set lease_id = :lease_id, due_at = statement_timestamp() + make_interval(secs => :lease_seconds), attempts = d.attempts + 1
from due where d.account_id = :account_id and d.webhook_id = due.webhook_id and d.event_id = due.event_id
returning d.webhook_id, d.event_id, d.seq, d.attempts, d.lease_id

-- let_go: what was claimed and nobody heard of it, so that nobody has it in hand: due at once, untried
update webhook_deliveries d set due_at = statement_timestamp(), attempts = d.attempts - 1, lease_id = null
where d.account_id = :account_id and d.status = 'pending' and d.due_at > statement_timestamp() and d.lease_id = :lease_id

-- claimed_webhooks: where they go
select w.* from webhooks w where w.account_id = :account_id and w.id = any(cast(:ids as uuid[]))

-- claimed_events: what they say; a forgotten event is missing
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e where e.account_id = :account_id and e.seq = any(cast(:seqs as bigint[]))

-- settle: how an attempt ended, if the lease still stands
update webhook_deliveries d
set status = :status, lease_id = null, last_status = :last_status,
  due_at = statement_timestamp() + make_interval(secs => :again_in),
  finished_at = case when cast(:status as text) = 'pending' then null else statement_timestamp() end
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id and d.lease_id = :lease_id

-- holds: whether a delivery's lease still stands; locks nothing
select d.lease_id = :lease_id from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id

-- add_attempt: what was tried; once, however often it is written
insert into webhook_attempts (account_id, id, webhook_id, event_id, number, started_at, latency_ms, status, answer, error)
values (:account_id, :id, :webhook_id, :event_id, :number, :started_at, :latency_ms, :status, :answer, :error)
on conflict (account_id, id) do nothing

-- mark_working: it took something
update webhooks set failing_since = null where account_id = :account_id and id = :id and failing_since is not null

-- mark_failing: it did not; since when that is so
update webhooks w set failing_since = coalesce(w.failing_since, :now) where w.account_id = :account_id and w.id = :id
returning w.failing_since

-- deliveries: of one webhook, newest first
select d.* from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = :webhook_id and (cast(:status as text) is null or d.status = :status)
  and (cast(:after as uuid) is null or d.event_id < :after)
order by d.event_id desc limit :limit

-- attempts: of these deliveries, in order
select t.* from webhook_attempts t
where t.account_id = :account_id and t.webhook_id = :webhook_id and t.event_id = any(cast(:event_ids as uuid[]))
order by t.event_id, t.number, t.id
