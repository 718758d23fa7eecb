-- add_contents: raw mail as it came; what is there already (handed in again under its id) is missing from the answer
insert into contents as c (account_id, id, raw, size)
select :account_id, u.id, u.raw, u.size
from unnest(cast(:ids as uuid[]), cast(:raws as bytea[]), cast(:sizes as integer[])) as u (id, raw, size)
on conflict (account_id, id) do nothing returning c.id

-- probe_content: to be rolled back: no row = the content is there. Waits for a transaction that is still committing it
insert into contents as c (account_id, id, raw, size) values (:account_id, :id, '', 0)
on conflict (account_id, id) do nothing returning c.id

-- drop_contents: contents that no message refers to, shown or held
delete from contents c
where c.account_id = :account_id and c.id = any(cast(:ids as uuid[])) and not exists (
  select 1 from messages g where g.account_id = :account_id and g.content_id = c.id) and not exists (
  select 1 from held_messages h where h.account_id = :account_id and h.content_id = c.id)

-- lock_contents: deleting messages that share a content takes turns
select c.id from contents c where c.account_id = :account_id and c.id = any(cast(:ids as uuid[])) order by c.id for update

-- store: contents and messages of one account's batch, last before COMMIT. Expiry is enforced here, by the database's clock.
-- A content that is there already takes its messages with it; so does a mailbox that is over. With :whole it is all
-- mailboxes or none, and the statement may be a transaction of its own: then a mailbox that the sweep, for which it
-- waited, has marked meanwhile is over, too, though its time had not come when the statement began.
with given as materialized (
  select * from rows from (json_to_recordset(cast(:rows as json)) as (id uuid, event_id uuid, mailbox_id uuid, content_id uuid,
    size integer, mail_from text, envelope text, from_name text, from_address text, recipients text, subject text, snippet text,
    codes text, links text, attachment_count integer, message_id text, thread_id uuid, tag text, parse text, warnings text, transcript text, data text))
    with ordinality as u (id, event_id, mailbox_id, content_id, size, mail_from, envelope, from_name, from_address, recipients,
    subject, snippet, codes, links, attachment_count, message_id, thread_id, tag, parse, warnings, transcript, data, n)
), held as materialized (
  select m.id from mailboxes m
  where m.account_id = :account_id and m.id = any(cast(:mailbox_ids as uuid[])) and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp()) and (m.is_active or not :whole)
  order by m.id for share
), open as (
  select h.id from held h where not :whole or (select count(*) from held) = cardinality(cast(:mailbox_ids as uuid[]))
), added as (
  insert into contents as c (account_id, id, raw, size)
  select :account_id, u.id, u.raw, u.size
  from unnest(cast(:content_ids as uuid[]), cast(:raws as bytea[]), cast(:sizes as integer[])) as u (id, raw, size)
  where u.id in (select g.content_id from given g join open o on o.id = g.mailbox_id)
  on conflict (account_id, id) do nothing returning c.id
), due as (
  select g.*, row_number() over (order by g.n) as place, statement_timestamp() as received_at
  from given g join open o on o.id = g.mailbox_id
  where g.content_id in (select a.id from added a) or not g.content_id = any(cast(:content_ids as uuid[]))
), head as (
  update event_heads set last_seq = last_seq + (select count(*) from due),
    stored_bytes = stored_bytes + (select coalesce(sum(d.size), 0) from due d),
    minute_messages = (select count(*) from due)
      + case when minute_began = date_trunc('minute', statement_timestamp()) then minute_messages else 0 end,
    minute_began = date_trunc('minute', statement_timestamp())
  where account_id = :account_id
  returning last_seq - (select count(*) from due) as base
), stored as (
  insert into messages as g (account_id, id, mailbox_id, content_id, seq, received_at, size, mail_from, envelope, from_name, from_address,
    recipients, subject, snippet, codes, links, attachment_count, message_id, thread_id, tag, parse, warnings, transcript)
  select :account_id, d.id, d.mailbox_id, d.content_id, head.base + d.place, d.received_at, d.size, d.mail_from, cast(d.envelope as jsonb),
    d.from_name, d.from_address, cast(d.recipients as jsonb), d.subject, d.snippet, cast(d.codes as jsonb), cast(d.links as jsonb),
    d.attachment_count, d.message_id, d.thread_id, d.tag, d.parse, cast(d.warnings as jsonb), cast(d.transcript as jsonb)
  from due d, head
), written as (
  insert into events as e (account_id, seq, id, type, mailbox_id, message_id, data, created_at)
  select :account_id, head.base + d.place, d.event_id, 'message.received', d.mailbox_id, d.id,
    cast('{"seq":' || (head.base + d.place) || ',"received_at":"' || to_char(d.received_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US') || 'Z",' || d.data as json),
    d.received_at
  from due d, head
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
select array(select d.id from due d) as stored, (select count(*) from held) as held, (select count(*) from told) as told

-- get: one message, of one mailbox only where :mailbox_id is given; with a deleted mailbox its messages are gone at once
select g.*, c.raw from messages g join contents c on c.account_id = g.account_id and c.id = g.content_id
where g.account_id = :account_id and g.id = :id and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)

-- summary: the same without its content
select g.* from messages g
where g.account_id = :account_id and g.id = :id and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)

-- raw: its content alone
select c.raw from messages g join contents c on c.account_id = g.account_id and c.id = g.content_id
where g.account_id = :account_id and g.id = :id and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)

-- of_mailbox_desc: a mailbox's messages, newest first
select g.* from messages g
where g.account_id = :account_id and g.mailbox_id = :mailbox_id and (cast(:after as bigint) is null or g.seq < :after)
  and (cast(:seen as boolean) is null or g.seen = :seen)
order by g.seq desc limit :limit

-- of_mailbox_asc: the same, oldest first
select g.* from messages g
where g.account_id = :account_id and g.mailbox_id = :mailbox_id and (cast(:after as bigint) is null or g.seq > :after)
  and (cast(:seen as boolean) is null or g.seen = :seen)
order by g.seq limit :limit

-- of_account_desc: all of an account's messages, newest first
select g.* from messages g
where g.account_id = :account_id and (cast(:after as bigint) is null or g.seq < :after)
  and (cast(:seen as boolean) is null or g.seen = :seen)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
order by g.seq desc limit :limit

-- of_account_asc: the same, oldest first
select g.* from messages g
where g.account_id = :account_id and (cast(:after as bigint) is null or g.seq > :after)
  and (cast(:seen as boolean) is null or g.seen = :seen)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
order by g.seq limit :limit

-- lock: one message for a change
select g.mailbox_id, g.content_id, g.seen, g.labels from messages g
where g.account_id = :account_id and g.id = :id and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
for update

-- set_seen: read or not
update messages set seen = :seen where account_id = :account_id and id = :id

-- set_labels: the owner's own words
update messages set labels = :labels where account_id = :account_id and id = :id

-- delete: these messages
delete from messages g where g.account_id = :account_id and g.id = any(cast(:ids as uuid[])) returning g.id, g.mailbox_id, g.content_id, g.size, g.seq

-- delete_texts: what they could be found by
delete from message_texts t where t.account_id = :account_id and t.seq = any(cast(:seqs as bigint[]))

-- free: so many bytes less are the account's; last before COMMIT, like every change of a head
update event_heads set stored_bytes = greatest(stored_bytes - :freed, 0) where account_id = :account_id

-- hold: messages that nobody sees before their sender is judged; their mailboxes are locked already
insert into held_messages as h (account_id, id, mailbox_id, content_id, message, policy, created_at, due_at)
select :account_id, u.id, u.mailbox_id, u.content_id, cast(u.message as json), u.policy, statement_timestamp(), statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:mailbox_ids as uuid[]), cast(:content_ids as uuid[]), cast(:messages as text[]),
  cast(:policies as text[])) as u (id, mailbox_id, content_id, message, policy)

-- hold_whole: the same with their contents, as a statement of its own, for mailboxes that nobody has locked: all of
-- them or none, as in `store`. A row of the void's log is written along with it, so that it costs what `store` does.
with given as materialized (
  select u.* from unnest(cast(:ids as uuid[]), cast(:mailbox_ids as uuid[]), cast(:content_ids as uuid[]), cast(:messages as text[]),
    cast(:policies as text[])) with ordinality as u (id, mailbox_id, content_id, message, policy, n)
), held as materialized (
  select m.id from mailboxes m
  where m.account_id = :account_id and m.id = any(cast(:mailbox_ids as uuid[])) and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp()) and m.is_active
  order by m.id for share
), open as (
  select h.id from held h where (select count(*) from held) = (select count(distinct g.mailbox_id) from given g)
), added as (
  insert into contents as c (account_id, id, raw, size)
  select :account_id, u.id, u.raw, u.size
  from unnest(cast(:added_ids as uuid[]), cast(:raws as bytea[]), cast(:sizes as integer[])) as u (id, raw, size)
  where u.id in (select g.content_id from given g join open o on o.id = g.mailbox_id)
  on conflict (account_id, id) do nothing returning c.id
), due as (
  select g.*, row_number() over (order by g.n) as place from given g join open o on o.id = g.mailbox_id
  where g.content_id in (select a.id from added a)
), head as (
  update event_heads set last_seq = last_seq + (select count(*) from due),
    minute_messages = case when minute_began = date_trunc('minute', statement_timestamp()) then minute_messages else 0 end,
    minute_began = date_trunc('minute', statement_timestamp())
  where account_id = :void_id
  returning last_seq - (select count(*) from due) as base
), waiting as (
  insert into held_messages as h (account_id, id, mailbox_id, content_id, message, policy, created_at, due_at)
  select :account_id, d.id, d.mailbox_id, d.content_id, cast(d.message as json), d.policy, statement_timestamp(), statement_timestamp()
  from due d
), written as (
  insert into events as e (account_id, seq, id, type, mailbox_id, message_id, data, created_at)
  select :void_id, head.base + d.place, d.id, 'message.received', :void_id, d.id, '{}', statement_timestamp() from due d, head
)
select (select count(*) from held) as held

-- slice: a mailbox's oldest messages
select g.id, g.size from messages g where g.account_id = :account_id and g.mailbox_id = :mailbox_id order by g.seq limit :limit

-- old_in_void: dropped mail that has lain long enough
select g.id, g.content_id from messages g
where g.account_id = :account_id and g.received_at < :before order by g.seq limit :limit

-- bytes_in_void: what dropped mail holds
select coalesce(sum(length(c.raw)), 0) from contents c where c.account_id = any(cast(:account_ids as uuid[]))
