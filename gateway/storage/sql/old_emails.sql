-- accounts_with_emails: accounts that have e-mails with ids before this one; looks, locks nothing
select a.id from accounts a
where a.id > :after and exists (select 1 from emails e where e.account_id = a.id and e.id < :until)
order by a.id limit :limit

-- accounts_with_attempts: the same for attempts
select a.id from accounts a
where a.id > :after and exists (select 1 from attempts t where t.account_id = a.id and t.id < :until)
order by a.id limit :limit

-- emails: a slice of an account's e-mails, oldest first; over = every recipient came to its end more than so many seconds ago
select e.id, e.size, not exists (
  select 1 from deliveries d where d.account_id = :account_id and d.email_id = e.id and (d.due_at is not null or d.status = 'unknown'
    or d.updated_at > statement_timestamp() - make_interval(secs => :seconds))) as is_over
from emails e where e.account_id = :account_id and e.id > :after and e.id < :until
order by e.id limit :limit

-- lock: their recipients, in the order in which callers lock them, too; open = not over, by now
select d.id, d.email_id, d.address, d.provider, d.provider_id, (d.due_at is not null or d.status = 'unknown'
  or d.updated_at > statement_timestamp() - make_interval(secs => :seconds)) as is_open
from deliveries d where d.account_id = :account_id and d.email_id = any(cast(:ids as uuid[]))
order by d.id for update

-- remove_provider_messages: what providers called them
delete from provider_messages p where p.account_id = :account_id and (p.provider, p.provider_id) in (
  select u.provider, u.provider_id from unnest(cast(:providers as text[]), cast(:provider_ids as text[])) as u (provider, provider_id))

-- remove_reports: what came by mail about these deliveries; it may hold the mail itself
delete from callbacks c where c.provider = 'mail' and c.provider_id = any(cast(:provider_ids as text[]))

-- remove_attempts_of: of these e-mails
delete from attempts t where t.account_id = :account_id and t.email_id = any(cast(:ids as uuid[]))

-- remove_contents: of these e-mails
delete from contents c where c.account_id = :account_id and c.id = any(cast(:ids as uuid[]))

-- remove_deliveries: of these e-mails
delete from deliveries d where d.account_id = :account_id and d.email_id = any(cast(:ids as uuid[]))

-- remove_emails: themselves
delete from emails e where e.account_id = :account_id and e.id = any(cast(:ids as uuid[]))

-- attempts: a slice of an account's attempts, oldest first; open = their recipient has not come to its end
select t.id, exists (
  select 1 from deliveries d where d.account_id = :account_id and d.id = t.delivery_id
    and (d.due_at is not null or d.status = 'unknown')) as is_open
from attempts t where t.account_id = :account_id and t.id > :after and t.id < :until
order by t.id limit :limit

-- remove_attempts: by their ids
delete from attempts t where t.account_id = :account_id and t.id = any(cast(:ids as uuid[]))
