-- newest: the last seq up to one
select e.seq from events e where e.account_id = :account_id and e.seq <= :until order by e.seq desc limit 1

-- span: changes of an account's set-up among a span of its log, newest first
select e.seq, e.id, e.type, e.mailbox_id, e.email_id, e.message_id, cast(e.data as text) as data, e.created_at
from events e
where e.account_id = :account_id and e.seq > :after and e.seq <= :until and e.type = any(cast(:types as text[]))
order by e.seq desc limit :limit
