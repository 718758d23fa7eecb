-- standing: of the newest copies: how many mails they are, how many of them unread
with copies as materialized (
  (select g.content_id, g.seen from messages g
   where g.account_id = :account_id and cast(:mailbox_id as uuid) is null
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
  union all
  (select g.content_id, g.seen from messages g
   where g.account_id = :account_id and g.mailbox_id = :mailbox_id
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
)
select count(*) as total, count(*) filter (where not m.seen) as unread
from (select bool_and(c.seen) as seen from copies c group by c.content_id) m

-- tags: the words that the account's owner, or the address behind a +, has put on the newest copies, and how many mails have each
with copies as materialized (
  (select g.content_id, array_append(g.labels, g.tag) as words from messages g
   where g.account_id = :account_id and cast(:mailbox_id as uuid) is null
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
  union all
  (select g.content_id, array_append(g.labels, g.tag) from messages g
   where g.account_id = :account_id and g.mailbox_id = :mailbox_id
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
)
select w.word, count(distinct c.content_id) as mails
from copies c cross join lateral unnest(c.words) as w (word)
where w.word is not null group by w.word order by w.word limit :limit

-- matching: of the newest copies, the mails that are wanted, newest first. Each term looks into one place (`anybody` at
-- whoever the header names, to be looked at again by who can read a header); `found` says which mails a term has found
-- already, in the index of words. A tag is looked for as it is, all else as a part of what is there, in any case.
with copies as materialized (
  (select g.seq, g.content_id, g.seen, g.envelope ->> 'rcpt_to' as rcpt_to,
     nullif(lower(array_to_string(array_append(g.labels, g.tag), chr(31))), '') as tags
   from messages g
   where g.account_id = :account_id and cast(:mailbox_id as uuid) is null
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
  union all
  (select g.seq, g.content_id, g.seen, g.envelope ->> 'rcpt_to',
     nullif(lower(array_to_string(array_append(g.labels, g.tag), chr(31))), '')
   from messages g
   where g.account_id = :account_id and g.mailbox_id = :mailbox_id
     and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
   order by g.seq desc limit :window)
), mails as materialized (
  select c.content_id, min(c.seq) as seq, bool_and(c.seen) as seen, string_agg(c.rcpt_to, ' ') as rcpt_to,
    string_to_array(coalesce(string_agg(c.tags, chr(31)), ''), chr(31)) as tags
  from copies c group by c.content_id
)
select m.content_id, m.seen
from mails m join messages g on g.account_id = :account_id and g.seq = m.seq
where (cast(:seen as boolean) is null or m.seen = :seen)
  and (cast(:tagged as boolean) is null or (m.tags <> '{}') = :tagged)
  and m.tags @> cast(:with_tags as text[]) and not m.tags && cast(:without_tags as text[])
  and (cast(:attached as boolean) is null or (g.attachment_count > 0) = :attached)
  and (cast(:since as timestamptz) is null or g.received_at >= :since)
  and (cast(:until as timestamptz) is null or g.received_at <= :until)
  and g.size > :larger and g.size < :smaller
  and not exists (
    select 1 from unnest(cast(:places as text[]), cast(:patterns as text[]), cast(:negated as boolean[])) with ordinality as t (place, pattern, negated, n)
    where t.negated = (
      (t.n, m.content_id) in (select f.n, f.id from unnest(cast(:found_by as bigint[]), cast(:found as uuid[])) as f (n, id))
      or case t.place
        when 'from' then concat_ws(' ', g.from_name, g.from_address) ilike t.pattern
        when 'to' then g.recipients::text ilike t.pattern
        when 'subject' then g.subject ilike t.pattern
        when 'message-id' then coalesce(g.message_id, '') ilike t.pattern
        when 'text' then regexp_replace(concat_ws(' ', g.subject, g.snippet, g.from_name, g.from_address, g.recipients::text, m.rcpt_to),
          '[\s<>",;()]+', ' ', 'g') ilike t.pattern
        else m.rcpt_to ilike t.pattern or regexp_replace((
            select encode(substring(c.raw from 1 for :head), 'escape') from contents c
            where c.account_id = :account_id and c.id = m.content_id),
          '\r?\n[ \t]+', ' ', 'g') ilike t.pattern
      end))
order by m.seq desc

-- newest: the mail that came last
select g.content_id from messages g
where g.account_id = :account_id and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
order by g.seq desc limit 1

-- named: mails by their own ids, or by those of any copy
select distinct g.content_id from messages g
where g.account_id = :account_id and (g.id = any(cast(:ids as uuid[])) or g.content_id = any(cast(:ids as uuid[])))
  and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)

-- shown: mails with the row of their first copy, what all copies say together, and the header, in the order asked for
select g.*, e.rcpt_to, e.read, e.words, substring(c.raw from 1 for
  coalesce(nullif(position('\x0d0a0d0a'::bytea in substring(c.raw from 1 for :head)), 0), cast(:head as integer))) as head
from unnest(cast(:ids as uuid[])) with ordinality as u (id, n)
cross join lateral (
  select m.* from messages m
  where m.account_id = :account_id and m.content_id = u.id and (cast(:mailbox_id as uuid) is null or m.mailbox_id = :mailbox_id)
    and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)
  order by m.seq limit 1) g
cross join lateral (
  select jsonb_agg(m.envelope -> 'rcpt_to' order by m.seq) as rcpt_to, bool_and(m.seen) as read,
    jsonb_agg(array_append(m.labels, m.tag) order by m.seq) as words
  from messages m
  where m.account_id = :account_id and m.content_id = u.id and (cast(:mailbox_id as uuid) is null or m.mailbox_id = :mailbox_id)
    and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = m.mailbox_id and b.deleted_at is not null)) e
join contents c on c.account_id = :account_id and c.id = u.id
order by u.n

-- copies: all copies of these mails, oldest first
select g.id, g.size, g.seen, g.labels from messages g
where g.account_id = :account_id and g.content_id = any(cast(:ids as uuid[]))
  and (cast(:mailbox_id as uuid) is null or g.mailbox_id = :mailbox_id)
  and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
order by g.seq

-- copies_after: all copies behind a seq and up to another, oldest first
(select g.id, g.seq, g.size, g.seen, g.labels from messages g
 where g.account_id = :account_id and cast(:mailbox_id as uuid) is null and g.seq > :after and g.seq <= :until
   and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
 order by g.seq limit :limit)
union all
(select g.id, g.seq, g.size, g.seen, g.labels from messages g
 where g.account_id = :account_id and g.mailbox_id = :mailbox_id and g.seq > :after and g.seq <= :until
   and not exists (select 1 from mailboxes b where b.account_id = :account_id and b.id = g.mailbox_id and b.deleted_at is not null)
 order by g.seq limit :limit)
order by 2 limit :limit

-- last: the newest seq of the account's log
select h.last_seq from event_heads h where h.account_id = :account_id
