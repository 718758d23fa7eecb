-- lock: those who add to or change one account's rules take turns; mail goes on meanwhile
select 1 from accounts a where a.id = :account_id for no key update

-- create: a new rule, if there are not too many
insert into bounce_rules (account_id, id, priority, words, enhanced, code, kind, suppresses, action, note, created_at, updated_at)
select :account_id, :id, :priority, :words, :enhanced, :code, :kind, :suppresses, :action, :note, statement_timestamp(), statement_timestamp()
where (select count(*) from bounce_rules r where r.account_id = :account_id) < :most

-- get: one rule
select r.id, r.priority, r.words, r.enhanced, r.code, r.kind, r.suppresses, r.action, r.note, r.created_at, r.updated_at from bounce_rules r
where r.account_id = :account_id and r.id = :id

-- change: all of it anew
update bounce_rules r set priority = :priority, words = :words, enhanced = :enhanced, code = :code, kind = :kind,
  suppresses = :suppresses, action = :action, note = :note, updated_at = statement_timestamp()
where r.account_id = :account_id and r.id = :id

-- delete: it decides nothing any more
delete from bounce_rules r where r.account_id = :account_id and r.id = :id

-- all: in the order in which they are looked at
select r.id, r.priority, r.words, r.enhanced, r.code, r.kind, r.suppresses, r.action, r.note, r.created_at, r.updated_at from bounce_rules r
where r.account_id = :account_id order by r.priority, r.id
