-- append: one account's events of a transaction, last before COMMIT: head, events and webhook deliveries in one statement
with head as (
  update event_heads set last_seq = last_seq + cardinality(cast(:ids as uuid[]))
  where account_id = :account_id
  returning last_seq - cardinality(cast(:ids as uuid[])) as base
), written as (
  insert into events as e (account_id, seq, id, type, mailbox_id, email_id, message_id, data, created_at)
  select :account_id, head.base + u.n, u.id, u.type, u.mailbox_id, u.email_id, u.message_id, cast(u.data as json), statement_timestamp()
  from head, unnest(cast(:ids as uuid[]), cast(:types as text[]), cast(:mailbox_ids as uuid[]), cast(:email_ids as uuid[]),
    cast(:message_ids as uuid[]), cast(:data as text[])) with ordinality as u (id, type, mailbox_id, email_id, message_id, data, n)
  returning e.id, e.seq, e.type, e.mailbox_id, e.email_id
), told as (
  insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at, turn_id)
  select w.account_id, w.id, e.id, e.seq, e.type, statement_timestamp(), statement_timestamp(),
    case when w.ordered then coalesce(e.mailbox_id, e.email_id) end
  from written e, webhooks w
  where w.account_id = :account_id and w.status = 'active' and w.deleted_at is null
    and (e.type = any(w.types) or ('*' = any(w.types) and e.type not in (
      'account.created', 'account.updated', 'api_key.created', 'api_key.revoked', 'bounce_rule.created',
      'bounce_rule.deleted', 'bounce_rule.updated', 'domain.created', 'domain.deleted', 'domain.keys_rotated',
      'domain.updated', 'suppression.created', 'suppression.deleted', 'suppression.imported', 'template.created',
      'template.deleted', 'template.updated', 'webhook.created', 'webhook.deleted', 'webhook.rotated', 'webhook.updated')))
    and (w.mailbox_id is null or w.mailbox_id = e.mailbox_id)
  returning 1
)
select head.base, (select count(*) from told) as told from head

-- open_head: a new account's log
insert into event_heads (account_id) values (:account_id)

-- heads: last seq of each of these accounts
select account_id, last_seq from event_heads where account_id = any(cast(:account_ids as uuid[]))

-- bounds: oldest and newest seq of an account's log
select (select e.seq from events e where e.account_id = :account_id order by e.seq limit 1) as oldest,
  (select h.last_seq from event_heads h where h.account_id = :account_id) as newest

-- following: the first seq behind a cursor
select e.seq from events e where e.account_id = :account_id and e.seq > :after order by e.seq limit 1

-- after: events behind a cursor, oldest first
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e
where e.account_id = :account_id and e.seq > :after
order by e.seq limit :limit

-- page: events behind a cursor that match, oldest first; the seq up to which was looked comes from `bounds`
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e
where e.account_id = :account_id and e.seq > :after and e.seq <= :until
  and (cast(:types as text[]) is null or e.type = any(cast(:types as text[])))
  and (cast(:mailbox_id as uuid) is null or e.mailbox_id = :mailbox_id)
  and (cast(:email_id as uuid) is null or e.email_id = :email_id)
order by e.seq limit :limit

-- page_of_mailbox: the same for one mailbox, by its own index
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e
where e.account_id = :account_id and e.mailbox_id = :mailbox_id and e.seq > :after and e.seq <= :until
  and (cast(:types as text[]) is null or e.type = any(cast(:types as text[])))
order by e.seq limit :limit

-- page_of_email: the same for one e-mail, by its own index
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e
where e.account_id = :account_id and e.email_id = :email_id and e.seq > :after and e.seq <= :until
  and (cast(:types as text[]) is null or e.type = any(cast(:types as text[])))
order by e.seq limit :limit

-- one: a single event
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e where e.account_id = :account_id and e.seq = :seq

-- tell_of: whether a mailbox's events say anything about a message
select exists (select 1 from events e where e.account_id = :account_id and e.mailbox_id = :mailbox_id and e.message_id = :message_id)

-- redact: what the events of deleted messages say shrinks to ids
update events as e set data = json_build_object('id', e.message_id, 'redacted', true)
where e.account_id = :account_id and e.mailbox_id = :mailbox_id and e.message_id = any(cast(:message_ids as uuid[]))

-- aged_accounts: accounts whose oldest event is older than the retention; looks, locks nothing
select h.account_id from event_heads h
where h.account_id > :after and exists (
  select 1 from (select e.created_at, e.seq from events e where e.account_id = h.account_id order by e.seq limit 1) first
  where first.created_at < :before and first.seq < h.last_seq)
order by h.account_id limit :limit

-- oldest: the first rows of an account's log
select e.seq, e.created_at from events e where e.account_id = :account_id order by e.seq limit :limit

-- forget: the log's beginning, up to and with a seq, but never its newest row
delete from events e
where e.account_id = :account_id and e.seq <= :until
  and e.seq < (select h.last_seq from event_heads h where h.account_id = :account_id)

-- trace: of the request that caused the e-mail or the message
select coalesce((select e.trace from emails e where e.account_id = :account_id and e.id = cast(:email_id as uuid)),
  (select m.envelope ->> 'trace' from messages m where m.account_id = :account_id and m.id = cast(:message_id as uuid)))
