-- create: a new webhook
insert into webhooks (account_id, id, url, types, mailbox_id, ordered, created_at)
values (:account_id, :id, :url, :types, :mailbox_id, :ordered, statement_timestamp())
returning created_at

-- get: one webhook
select w.* from webhooks w where w.account_id = :account_id and w.id = :id and w.deleted_at is null

-- page_desc: an account's webhooks, newest first
select w.* from webhooks w
where w.account_id = :account_id and w.deleted_at is null and (cast(:after as uuid) is null or w.id < :after)
  and w.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and w.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by w.id desc limit :limit

-- page_asc: the same, oldest first
select w.* from webhooks w
where w.account_id = :account_id and w.deleted_at is null and (cast(:after as uuid) is null or w.id > :after)
  and w.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and w.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by w.id limit :limit

-- change: what it hears of, where and how, and whether it does
update webhooks set url = :url, types = :types, mailbox_id = :mailbox_id, ordered = :ordered, status = 'active', disabled_reason = null, failing_since = null
where account_id = :account_id and id = :id and deleted_at is null

-- change_disabled: the same of one that stays disabled
update webhooks set url = :url, types = :types, mailbox_id = :mailbox_id, ordered = :ordered
where account_id = :account_id and id = :id and deleted_at is null

-- rotate: another secret; those before sign on until their time is over, the four newest of them
update webhooks set secret_generation = secret_generation + 1,
  earlier_secrets_until = case when previous_secret_until is null then '{}' else (array_prepend(previous_secret_until, earlier_secrets_until))[1:3] end,
  previous_secret_until = statement_timestamp() + make_interval(secs => :seconds)
where account_id = :account_id and id = :id and deleted_at is null
returning *

-- delete: it hears of nothing more
update webhooks set deleted_at = statement_timestamp() where account_id = :account_id and id = :id and deleted_at is null

-- disable: its receiver wants no more
update webhooks set status = 'disabled', disabled_reason = :reason
where account_id = :account_id and id = :id and status = 'active' and deleted_at is null

-- drop_pending: nobody waits for these any more; a slice
update webhook_deliveries d set status = 'dead', finished_at = statement_timestamp(), lease_id = null
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.status = 'pending' and d.event_id = any(array(
  select p.event_id from webhook_deliveries p
  where p.account_id = :account_id and p.webhook_id = :webhook_id and p.status = 'pending' order by p.due_at limit :limit))

-- silenced: webhooks that are told nothing and for which something waits all the same
select w.id from webhooks w where w.account_id = :account_id and (w.status = 'disabled' or w.deleted_at is not null) and exists (
  select 1 from webhook_deliveries d where d.account_id = :account_id and d.webhook_id = w.id and d.status = 'pending')

-- hearing: accounts that have a webhook; looks, locks nothing
select distinct w.account_id from webhooks w where w.status = 'active' and w.deleted_at is null

-- due_accounts: whose are those that are due first, suspended accounts among them, as in those of recipients; looks, locks
-- nothing
select o.account_id, count(*) as deliveries,
  exists (select 1 from accounts a where a.id = o.account_id and a.suspended_at is not null) as is_suspended
from (
  select d.account_id from webhook_deliveries d where d.status = 'pending' and d.due_at <= statement_timestamp()
  order by d.due_at limit :limit) o
group by o.account_id

-- all_due_accounts: every account with somebody to tell now, for when one's many hide the others'. The limit leads to one row
-- of each webhook by its index: with EXISTS some plans read all that is due
select distinct w.account_id from webhooks w cross join lateral (
  select 1 from webhook_deliveries d where d.account_id = w.account_id and d.webhook_id = w.id and d.status = 'pending'
    and d.due_at <= statement_timestamp() order by d.due_at limit 1) f
where w.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))

-- due_webhooks: of an account that is not suspended, those with something due; a deleted one may have it, too, for a moment
select w.id from webhooks w where w.account_id = :account_id
  and not exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null) and exists (
  select 1 from webhook_deliveries d where d.account_id = :account_id and d.webhook_id = w.id and d.status = 'pending'
    and d.due_at <= statement_timestamp())

-- lock_webhooks: who claims of a webhook does so alone, so that no two claims together pass its limit; those that somebody
-- else has are left to them
select w.* from webhooks w where w.account_id = :account_id and w.id = any(cast(:ids as uuid[]))
order by w.id for no key update skip locked

-- lock_webhook: a verdict that others wait for stands apart from claims
select 1 from webhooks w where w.account_id = :account_id and w.id = :id for no key update

-- under_way: how many deliveries of each are being told, by whichever worker
select d.webhook_id, count(*) as deliveries from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = any(cast(:ids as uuid[])) and d.status = 'pending' and d.lease_id is not null
  and d.due_at > statement_timestamp()
group by d.webhook_id

-- put_off: what must wait for another of its turn is due when that one is, and at once when that one ends (`wake`); not
-- sooner than in a while, so that many are not looked at again and again
with waiting as materialized (
  select d.webhook_id, d.event_id, (select b.due_at from webhook_deliveries b
    where b.account_id = :account_id and b.webhook_id = d.webhook_id and b.turn_id = d.turn_id and b.status = 'pending'
      and b.seq < d.seq order by b.seq limit 1) as until
  from webhook_deliveries d
  where d.account_id = :account_id and d.webhook_id = any(cast(:ids as uuid[])) and d.status = 'pending'
    and d.due_at <= statement_timestamp() and d.turn_id is not null and d.lease_id is null
  order by d.webhook_id, d.due_at limit :limit
)
update webhook_deliveries d set due_at = greatest(w.until, statement_timestamp() + make_interval(secs => :seconds))
from waiting w
where d.account_id = :account_id and d.webhook_id = w.webhook_id and d.event_id = w.event_id and d.status = 'pending'
  and d.lease_id is null and w.until is not null

-- claim: lease due deliveries of locked webhooks, so many of each as it has room for; a row whose lease ran out is due again.
-- They are materialized: as a plain subquery some plans take them anew for each row, and each time the next rows
with due as materialized (
  select n.webhook_id, n.event_id
  from unnest(cast(:ids as uuid[]), cast(:rooms as integer[])) as h (id, room) cross join lateral (
    select c.webhook_id, c.event_id from webhook_deliveries c
    where c.account_id = :account_id and c.webhook_id = h.id and c.status = 'pending' and c.due_at <= statement_timestamp()
      and (c.turn_id is null or not exists (
        select 1 from webhook_deliveries b where b.account_id = :account_id and b.webhook_id = c.webhook_id
          and b.turn_id = c.turn_id and b.status = 'pending' and b.seq < c.seq))
    order by c.due_at, c.seq limit h.room for update of c skip locked) n
)
update webhook_deliveries d
set lease_id = :lease_id, due_at = statement_timestamp() + make_interval(secs => :lease_seconds), attempts = d.attempts + 1
from due where d.account_id = :account_id and d.webhook_id = due.webhook_id and d.event_id = due.event_id
returning d.webhook_id, d.event_id, d.seq, d.attempts, d.told_before, d.turn_id, d.lease_id

-- let_go: what was claimed and nobody heard of it, so that nobody has it in hand: due at once, untried
update webhook_deliveries d set due_at = statement_timestamp(), attempts = d.attempts - 1, lease_id = null
where d.account_id = :account_id and d.status = 'pending' and d.due_at > statement_timestamp() and d.lease_id = :lease_id

-- claimed_events: what they say; a forgotten event is missing
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e where e.account_id = :account_id and e.seq = any(cast(:seqs as bigint[]))

-- settle: how an attempt ended, if the lease still stands
update webhook_deliveries d
set status = :status, lease_id = null, last_status = :last_status,
  due_at = statement_timestamp() + make_interval(secs => :again_in),
  finished_at = case when cast(:status as text) = 'pending' then null else statement_timestamp() end
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id and d.lease_id = :lease_id

-- wake: the next of a turn that waits for nothing but it
update webhook_deliveries d set due_at = statement_timestamp()
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.turn_id = :turn_id and d.status = 'pending'
  and d.lease_id is null and d.attempts = d.told_before
  and d.seq = (select n.seq from webhook_deliveries n
    where n.account_id = :account_id and n.webhook_id = :webhook_id and n.turn_id = :turn_id and n.status = 'pending'
    order by n.seq limit 1)

-- holds: whether a delivery's lease still stands; locks nothing
select d.lease_id = :lease_id from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id

-- add_attempt: what was tried; once, however often it is written
insert into webhook_attempts (account_id, id, webhook_id, event_id, number, started_at, latency_ms, status, answer, error)
values (:account_id, :id, :webhook_id, :event_id, :number, :started_at, :latency_ms, :status, :answer, :error)
on conflict (account_id, id) do nothing

-- mark_working: it took something
update webhooks set failing_since = null where account_id = :account_id and id = :id and failing_since is not null

-- mark_failing: it did not, for the first time
update webhooks w set failing_since = :now where w.account_id = :account_id and w.id = :id and w.failing_since is null

-- failing_since: since when it does not
select w.failing_since from webhooks w where w.account_id = :account_id and w.id = :id

-- deliveries_desc: of one webhook, newest first
select d.* from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = :webhook_id and (cast(:status as text) is null or d.status = :status)
  and (cast(:after as uuid) is null or d.event_id < :after) and d.event_id > :first and d.event_id < :last
  and d.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and d.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by d.event_id desc limit :limit

-- deliveries_asc: the same, oldest first
select d.* from webhook_deliveries d
where d.account_id = :account_id and d.webhook_id = :webhook_id and (cast(:status as text) is null or d.status = :status)
  and (cast(:after as uuid) is null or d.event_id > :after) and d.event_id > :first and d.event_id < :last
  and d.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and d.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by d.event_id limit :limit

-- delivery: one of them
select d.* from webhook_deliveries d where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id

-- attempts: the last ones at each of these deliveries, in order
select t.* from unnest(cast(:event_ids as uuid[])) as u (event_id) cross join lateral (
  select a.* from webhook_attempts a where a.account_id = :account_id and a.webhook_id = :webhook_id and a.event_id = u.event_id
  order by a.number desc, a.id desc limit :limit) t
order by t.event_id, t.number, t.id

-- told_of: whether an event can still be told
select 1 from events e where e.account_id = :account_id and e.seq = :seq

-- tell_again: a delivery is due now; one that had ended begins anew, one that is being told is left alone
update webhook_deliveries d
set due_at = statement_timestamp(), status = 'pending', finished_at = null,
  told_before = case when d.status = 'pending' then d.told_before else d.attempts end
where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = :event_id and d.lease_id is null

-- tell_dead_again: a slice of those given up since then whose event is still in the log, oldest first
with dead as materialized (
  select d.event_id from webhook_deliveries d
  where d.account_id = :account_id and d.webhook_id = :webhook_id and d.status = 'dead'
    and (cast(:since as timestamptz) is null or d.created_at >= :since)
    and exists (select 1 from events e where e.account_id = :account_id and e.seq = d.seq)
  order by d.event_id limit :limit for update of d
)
update webhook_deliveries d
set due_at = statement_timestamp(), status = 'pending', finished_at = null, told_before = d.attempts
from dead where d.account_id = :account_id and d.webhook_id = :webhook_id and d.event_id = dead.event_id

-- test: an event of an account's log that is told to one webhook alone, whatever that hears of
with head as (
  update event_heads set last_seq = last_seq + 1 where account_id = :account_id returning last_seq as seq
), written as (
  insert into events as e (account_id, seq, id, type, data, created_at)
  select :account_id, head.seq, :event_id, :type, cast(:data as json), statement_timestamp() from head
  returning e.id, e.seq, e.type
), told as (
  insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at)
  select :account_id, :webhook_id, e.id, e.seq, e.type, statement_timestamp(), statement_timestamp() from written e
  returning 1
)
select head.seq, (select count(*) from told) as told from head

-- accounts: those that have, or had, webhooks, in the order of ids; looks, locks nothing
select distinct w.account_id from webhooks w where w.account_id > :after order by w.account_id limit :limit

-- forgotten: a slice of an account's deliveries whose event is not in the log any more, oldest first
select d.webhook_id, d.event_id, d.seq, d.status = 'pending' as is_open from webhook_deliveries d
where d.account_id = :account_id and d.seq > :after and d.seq < :oldest
order by d.seq limit :limit

-- remove_attempts: at these deliveries
delete from webhook_attempts t where t.account_id = :account_id and (t.webhook_id, t.event_id) in (
  select u.webhook_id, u.event_id from unnest(cast(:webhook_ids as uuid[]), cast(:event_ids as uuid[])) as u (webhook_id, event_id))

-- remove_deliveries: these, unless somebody asked to have one told again
delete from webhook_deliveries d where d.account_id = :account_id and d.status <> 'pending' and (d.webhook_id, d.event_id) in (
  select u.webhook_id, u.event_id from unnest(cast(:webhook_ids as uuid[]), cast(:event_ids as uuid[])) as u (webhook_id, event_id))

-- remove_deleted: webhooks that were deleted long ago and of which nothing is left
delete from webhooks w where w.account_id = :account_id and w.deleted_at < statement_timestamp() - make_interval(secs => :seconds)
  and not exists (select 1 from webhook_deliveries d where d.account_id = :account_id and d.webhook_id = w.id)

-- bereft: webhooks whose mailbox is gone for good and that wait for nothing
select w.id from webhooks w where w.account_id = :account_id and w.status = 'active' and w.deleted_at is null and w.mailbox_id is not null
  and not exists (select 1 from mailboxes m where m.account_id = :account_id and m.id = w.mailbox_id)
  and not exists (select 1 from webhook_deliveries d where d.account_id = :account_id and d.webhook_id = w.id and d.status = 'pending')
