-- accounts: all that anybody reads the log of, slice by slice
select a.id from accounts a where not a.is_void and a.id > :after order by a.id limit :limit

-- jump: the log goes on behind a gap; the seq it ended with in the backup. Holds the account's head until the commit
update event_heads set last_seq = last_seq + :gap where account_id = :account_id
returning last_seq - :gap as ended

-- due: recipients that may have been tried since the backup, a slice; nobody else is at work
select d.id, d.email_id, d.address, d.attempts, d.reply, d.provider, e.on_unknown
from deliveries d join emails e on e.account_id = :account_id and e.id = d.email_id
where d.account_id = :account_id and d.due_at is not null and d.id > :after
  and (d.due_at <= statement_timestamp() or d.lease_id is not null)
order by d.id limit :limit

-- hold: nobody knows whether these were sent
update deliveries d
set status = 'unknown', due_at = null, lease_id = null, in_data = false, updated_at = statement_timestamp()
where d.account_id = :account_id and d.id = any(cast(:ids as uuid[]))
