-- create: a new template
insert into templates (account_id, id, name, subject, html, text, variables, created_at, updated_at)
values (:account_id, :id, :name, :subject, :html, :text, :variables, statement_timestamp(), statement_timestamp())

-- get: one template
select t.id, t.name, t.subject, t.html, t.text, t.variables, t.created_at, t.updated_at from templates t
where t.account_id = :account_id and t.id = :id

-- change: all of it anew
update templates t set name = :name, subject = :subject, html = :html, text = :text, variables = :variables,
  updated_at = statement_timestamp()
where t.account_id = :account_id and t.id = :id

-- delete: it goes; what was sent by it stays
delete from templates t where t.account_id = :account_id and t.id = :id

-- page_desc: newest first
select t.id, t.name, t.subject, t.html, t.text, t.variables, t.created_at, t.updated_at from templates t
where t.account_id = :account_id and (cast(:after as uuid) is null or t.id < :after)
  and t.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and t.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by t.id desc limit :limit

-- page_asc: the same, oldest first
select t.id, t.name, t.subject, t.html, t.text, t.variables, t.created_at, t.updated_at from templates t
where t.account_id = :account_id and (cast(:after as uuid) is null or t.id > :after)
  and t.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and t.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by t.id limit :limit
