-- by_index: within a transaction: the tables are never read from end to end, whatever statistics say
set local enable_seqscan = off

-- indexed: how far an account's messages are in the index; no row = not at all
select i.indexed_seq from indexing i where i.account_id = :account_id

-- segments_of_account_desc: segments that hold messages of an account, newest first, between two seqs; one look at the index for each
with recursive s (seq) as (
  (select t.seq from message_texts t where t.account_id = :account_id and t.seq > :low and t.seq < :high order by t.seq desc limit 1)
  union all
  select (select t.seq from message_texts t where t.account_id = :account_id and t.seq < s.seq / :span * :span and t.seq > :low and t.seq < :high order by t.seq desc limit 1)
  from s where s.seq is not null
)
select s.seq / :span as segment from s where s.seq is not null limit :limit

-- segments_of_account_asc: segments that hold messages of an account, oldest first, between two seqs; one look at the index for each
with recursive s (seq) as (
  (select t.seq from message_texts t where t.account_id = :account_id and t.seq > :low and t.seq < :high order by t.seq limit 1)
  union all
  select (select t.seq from message_texts t where t.account_id = :account_id and t.seq >= (s.seq / :span + 1) * :span and t.seq > :low and t.seq < :high order by t.seq limit 1)
  from s where s.seq is not null
)
select s.seq / :span as segment from s where s.seq is not null limit :limit

-- segments_of_mailbox_desc: segments that hold messages of a mailbox, newest first, between two seqs; one look at the index for each
with recursive s (seq) as (
  (select t.seq from messages t where t.account_id = :account_id and t.mailbox_id = :mailbox_id and t.seq > :low and t.seq < :high order by t.seq desc limit 1)
  union all
  select (select t.seq from messages t where t.account_id = :account_id and t.mailbox_id = :mailbox_id and t.seq < s.seq / :span * :span and t.seq > :low and t.seq < :high order by t.seq desc limit 1)
  from s where s.seq is not null
)
select s.seq / :span as segment from s where s.seq is not null limit :limit

-- segments_of_mailbox_asc: segments that hold messages of a mailbox, oldest first, between two seqs; one look at the index for each
with recursive s (seq) as (
  (select t.seq from messages t where t.account_id = :account_id and t.mailbox_id = :mailbox_id and t.seq > :low and t.seq < :high order by t.seq limit 1)
  union all
  select (select t.seq from messages t where t.account_id = :account_id and t.mailbox_id = :mailbox_id and t.seq >= (s.seq / :span + 1) * :span and t.seq > :low and t.seq < :high order by t.seq limit 1)
  from s where s.seq is not null
)
select s.seq / :span as segment from s where s.seq is not null limit :limit

-- found_desc: messages that the index finds, newest first; a query for each segment, in that order, each looked at only while
-- the page is not full, for nothing sorts them all. `offset 0` keeps the account's condition out of the choice of an index
select g.* from unnest(cast(:queries as text[])) as w (query)
cross join lateral (
  select f.seq
  from (select t.account_id, t.seq from message_texts t where t.words @@ cast(w.query as tsquery) offset 0) f
  where f.account_id = :account_id and f.seq > :low and f.seq < :high
  order by f.seq desc offset 0) f
cross join lateral (
  select m.* from messages m where m.account_id = :account_id and m.seq = f.seq
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
  limit 1) g
limit :limit

-- found_asc: messages that the index finds, oldest first; a query for each segment, in that order, each looked at only while
-- the page is not full, for nothing sorts them all. `offset 0` keeps the account's condition out of the choice of an index
select g.* from unnest(cast(:queries as text[])) as w (query)
cross join lateral (
  select f.seq
  from (select t.account_id, t.seq from message_texts t where t.words @@ cast(w.query as tsquery) offset 0) f
  where f.account_id = :account_id and f.seq > :low and f.seq < :high
  order by f.seq offset 0) f
cross join lateral (
  select m.* from messages m where m.account_id = :account_id and m.seq = f.seq
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
  limit 1) g
limit :limit

-- labelled: messages of an account that have any label, between two seqs, and whether they have all of those asked for
select m.seq, m.labels @> cast(:labelled as text[]) as is_asked_for from messages m
where m.account_id = :account_id and m.labels <> '{}' and m.seq > :low and m.seq < :high limit :limit

-- found_among_desc: of some messages, each with its segment's query, those that it finds, newest first; each row is looked up
select m.* from unnest(cast(:seqs as bigint[]), cast(:queries as text[])) as w (seq, query)
cross join lateral (
  select t.seq from message_texts t
  where t.account_id = :account_id and t.seq = w.seq and t.words @@ cast(w.query as tsquery) offset 0) f
join messages m on m.seq = f.seq
where m.account_id = :account_id
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq desc limit :limit

-- found_among_asc: of some messages, each with its segment's query, those that it finds, oldest first; each row is looked up
select m.* from unnest(cast(:seqs as bigint[]), cast(:queries as text[])) as w (seq, query)
cross join lateral (
  select t.seq from message_texts t
  where t.account_id = :account_id and t.seq = w.seq and t.words @@ cast(w.query as tsquery) offset 0) f
join messages m on m.seq = f.seq
where m.account_id = :account_id
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq limit :limit

-- of_account_desc: messages of an account between two seqs that pass the filters, newest first
select m.* from messages m
where m.account_id = :account_id and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq desc limit :limit

-- of_account_asc: messages of an account between two seqs that pass the filters, oldest first
select m.* from messages m
where m.account_id = :account_id and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq limit :limit

-- of_mailbox_desc: the same of a mailbox between two seqs that pass the filters, newest first
select m.* from messages m
where m.account_id = :account_id and m.mailbox_id = :mailbox_id and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq desc limit :limit

-- of_mailbox_asc: the same of a mailbox between two seqs that pass the filters, oldest first
select m.* from messages m
where m.account_id = :account_id and m.mailbox_id = :mailbox_id and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq limit :limit

-- of_labelled_desc: the same where a label is asked for, by the index of those that have any between two seqs that pass the filters, newest first
select m.* from messages m
where m.account_id = :account_id and m.labels <> '{}'
  and (cast(:mailbox_id as uuid) is null or m.mailbox_id = :mailbox_id) and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq desc limit :limit

-- of_labelled_asc: the same where a label is asked for, by the index of those that have any between two seqs that pass the filters, oldest first
select m.* from messages m
where m.account_id = :account_id and m.labels <> '{}'
  and (cast(:mailbox_id as uuid) is null or m.mailbox_id = :mailbox_id) and m.seq > :low and m.seq < :high
  and (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:attached as boolean) is null or (m.attachment_count > 0) = :attached)
  and m.labels @> cast(:labelled as text[]) and not m.labels && cast(:unlabelled as text[])
  and (cast(:since as timestamptz) is null or m.received_at >= :since)
  and (cast(:until as timestamptz) is null or m.received_at < :until)
  and m.size >= :size_min and m.size <= :size_max
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
order by m.seq limit :limit

-- behind: accounts with messages that are not in the index, in the order of ids; looks, locks nothing
select h.account_id, exists (
    select 1 from messages m where m.account_id = h.account_id and m.seq > coalesce(i.indexed_seq, 0)) as has_work
from event_heads h join accounts a on a.id = h.account_id left join indexing i on i.account_id = h.account_id
where h.account_id > :after and not a.is_void
order by h.account_id limit :limit

-- begin: an account whose messages nobody has read yet
insert into indexing (account_id, indexed_seq) values (:account_id, 0) on conflict (account_id) do nothing

-- take: how far it is; no row = somebody else is reading
select i.indexed_seq from indexing i where i.account_id = :account_id for update skip locked

-- head: the newest seq: every message up to it can be seen by the next statement
select h.last_seq from event_heads h where h.account_id = :account_id

-- next: messages behind a seq and up to another, oldest first, with the sizes of their contents
select m.seq, m.size from messages m
where m.account_id = :account_id and m.seq > :after and m.seq <= :until order by m.seq limit :limit

-- slice: the same messages, whole, with their contents
select m.*, c.raw from messages m left join contents c on c.account_id = m.account_id and c.id = m.content_id
where m.account_id = :account_id and m.seq > :after and m.seq <= :until order by m.seq

-- add: what messages can be found by; those deleted meanwhile are left out, and those being deleted wait
insert into message_texts as t (account_id, seq, words)
select m.account_id, m.seq, cast(u.words as tsvector)
from unnest(cast(:seqs as bigint[]), cast(:words as text[])) as u (seq, words)
join messages m on m.account_id = :account_id and m.seq = u.seq
order by m.seq for key share of m
on conflict (account_id, seq) do nothing

-- advance: so far it is now
update indexing set indexed_seq = :until where account_id = :account_id

-- parents: earlier messages of the same mailbox by their Message-ID
select u.n, g.seq, g.thread_id
from unnest(cast(:queries as text[]), cast(:mailbox_ids as uuid[]), cast(:seqs as bigint[])) with ordinality as u (query, mailbox_id, seq, n)
cross join lateral (
  select m.seq, m.thread_id
  from (select t.account_id, t.seq from message_texts t where t.words @@ cast(u.query as tsquery) offset 0) f
  join messages m on m.account_id = :account_id and m.seq = f.seq
  where f.account_id = :account_id and f.seq < u.seq and m.mailbox_id = u.mailbox_id
  order by m.seq desc limit 1) g

-- same_subject: earlier messages of one mailbox with the same base subject, newest first
select m.seq, m.thread_id, m.from_address, m.recipients, m.envelope
from unnest(cast(:queries as text[])) as w (query)
cross join lateral (select t.account_id, t.seq from message_texts t where t.words @@ cast(w.query as tsquery) offset 0) f
join messages m on m.account_id = :account_id and m.seq = f.seq
where f.account_id = :account_id and f.seq < :before and m.mailbox_id = :mailbox_id
order by m.seq desc limit :limit

-- set_thread: a message belongs to another conversation
update messages set thread_id = :thread_id where account_id = :account_id and id = :id

-- set_reading: what a message shows, read at last
update messages set from_name = :from_name, from_address = :from_address, recipients = :recipients, subject = :subject,
  snippet = :snippet, codes = :codes, links = :links, attachment_count = :attachment_count, message_id = :message_id,
  thread_id = :thread_id, parse = :parse, warnings = :warnings
where account_id = :account_id and id = :id
