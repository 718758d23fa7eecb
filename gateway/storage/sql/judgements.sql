-- unjudged: accounts in the order of ids, and whether they have messages behind the last judged one; looks, locks nothing
select h.account_id, exists (
    select 1 from messages m where m.account_id = h.account_id and m.seq > coalesce(j.judged_seq, 0)) as has_work
from event_heads h join accounts a on a.id = h.account_id left join judgements j on j.account_id = h.account_id
where h.account_id > :after and not a.is_void
order by h.account_id limit :limit

-- has_unjudged: the same of one account
select exists (select 1 from messages m where m.account_id = :account_id
  and m.seq > coalesce((select j.judged_seq from judgements j where j.account_id = :account_id), 0))

-- claim: whoever gets a row judges the account's messages behind that seq until the claim runs out
insert into judgements as j (account_id, judged_seq, due_at)
values (:account_id, 0, statement_timestamp() + make_interval(secs => :lease))
on conflict (account_id) do update set due_at = excluded.due_at where j.due_at <= statement_timestamp()
returning j.judged_seq

-- head: the newest seq: every message up to it can be seen by the next statement
select h.last_seq from event_heads h where h.account_id = :account_id

-- slice: messages to judge, oldest first; those that came too long ago are passed over, large contents are left out
select m.seq, m.id, m.content_id, m.size, m.mail_from, m.envelope, case when m.size <= :small then c.raw end as raw
from messages m join contents c on c.account_id = m.account_id and c.id = m.content_id
where m.account_id = :account_id and m.seq > :after and m.seq <= :until and m.auth = '{}'
  and m.received_at > statement_timestamp() - make_interval(secs => :age)
order by m.seq limit :limit

-- raw: one content
select c.raw from contents c where c.account_id = :account_id and c.id = :id

-- advance: so far it is now, and the claim is over; no row = somebody else has got further
update judgements set judged_seq = :until, due_at = to_timestamp(0)
where account_id = :account_id and judged_seq = :after returning account_id

-- set_auth: what their senders could prove; those that went meanwhile are missing from the answer
update messages as g set auth = cast(u.auth as jsonb)
from unnest(cast(:ids as uuid[]), cast(:auths as text[])) as u (id, auth)
where g.account_id = :account_id and g.id = u.id and g.auth = '{}' and not exists (
  select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
returning g.id, g.mailbox_id, g.seq

-- due_accounts: accounts with mail that is held and that nobody judges; looks, locks nothing
select distinct d.account_id from (
  select h.account_id from held_messages h
  where h.due_at <= statement_timestamp() - make_interval(secs => :overdue) order by h.due_at limit :limit) d

-- claim_held: held mail, oldest first, for as long as the lease; materialized as in the sweep of mailboxes
with due as materialized (
  select d.id from held_messages d
  where d.account_id = :account_id and d.due_at <= statement_timestamp() - make_interval(secs => :overdue)
  order by d.due_at limit :limit for update skip locked
)
update held_messages h set due_at = statement_timestamp() + make_interval(secs => :lease)
from due where h.account_id = :account_id and h.id = due.id
returning h.id, h.mailbox_id, h.content_id, cast(h.message as text) as message, h.policy, h.created_at,
  cast(extract(epoch from statement_timestamp() - h.created_at) as double precision) as age

-- hold_mailbox: the mailbox, live or expired, against deletion and expiry until the transaction ends; no row = it is deleted
select m.id from mailboxes m where m.account_id = :account_id and m.id = :mailbox_id and m.deleted_at is null for share

-- let_go: whoever gets the row decides over the message; no row = somebody else has
delete from held_messages h where h.account_id = :account_id and h.id = :id returning h.content_id

-- let_go_of_mailbox: nobody waits for them any more
delete from held_messages h where h.account_id = :account_id and h.mailbox_id = :mailbox_id returning h.content_id

-- show: a message that was held takes its place in the log now, last before COMMIT. It came while its mailbox lived, so
-- nobody asks whether that still does.
with given as materialized (
  select * from json_to_record(cast(:message as json)) as (id uuid, event_id uuid, mailbox_id uuid, content_id uuid, size integer,
    mail_from text, envelope text, from_name text, from_address text, recipients text, subject text, snippet text, codes text,
    links text, attachment_count integer, message_id text, thread_id uuid, tag text, parse text, warnings text, transcript text, data text)
), head as (
  update event_heads set last_seq = last_seq + 1, stored_bytes = stored_bytes + given.size,
    minute_messages = 1 + case when minute_began = date_trunc('minute', statement_timestamp()) then minute_messages else 0 end,
    minute_began = date_trunc('minute', statement_timestamp())
  from given where account_id = :account_id
  returning last_seq as seq
), stored as (
  insert into messages as g (account_id, id, mailbox_id, content_id, seq, received_at, size, mail_from, envelope, from_name, from_address,
    recipients, subject, snippet, codes, links, attachment_count, message_id, thread_id, tag, parse, warnings, transcript, auth, labels)
  select :account_id, d.id, d.mailbox_id, d.content_id, head.seq, :received_at, d.size, d.mail_from, cast(d.envelope as jsonb),
    d.from_name, d.from_address, cast(d.recipients as jsonb), d.subject, d.snippet, cast(d.codes as jsonb), cast(d.links as jsonb),
    d.attachment_count, d.message_id, d.thread_id, d.tag, d.parse, cast(d.warnings as jsonb), cast(d.transcript as jsonb),
    cast(:auth as jsonb), cast(:labels as text[])
  from given d, head
), written as (
  insert into events as e (account_id, seq, id, type, mailbox_id, message_id, data, created_at)
  select :account_id, head.seq, d.event_id, 'message.received', d.mailbox_id, d.id,
    cast('{"seq":' || head.seq || ',"received_at":"' || to_char(cast(:received_at as timestamptz) at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US') || 'Z",' || d.data as json),
    statement_timestamp()
  from given d, head
  returning e.id, e.seq, e.type, e.mailbox_id
), told as (
  insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at, turn_id)
  select w.account_id, w.id, e.id, e.seq, e.type, statement_timestamp(), statement_timestamp(),
    case when w.ordered then e.mailbox_id end
  from written e, webhooks w
  where w.account_id = :account_id and w.status = 'active' and w.deleted_at is null
    and ('*' = any(w.types) or e.type = any(w.types)) and (w.mailbox_id is null or w.mailbox_id = e.mailbox_id)
  returning 1
)
select head.seq, (select count(*) from told) as told from head
