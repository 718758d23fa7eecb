-- create: a new account
insert into accounts (id, name) values (:id, :name)

-- first: the oldest account of a person or a program
select a.id, a.name from accounts a where not a.is_void order by a.id limit 1

-- by_name: an account by its name, the oldest if several have it
select a.id, a.name from accounts a where not a.is_void and a.deleted_at is null and a.name = :name order by a.id limit 1

-- named: accounts that are meant by a name or an id, the oldest first
select a.id, a.name, a.created_at, a.suspended_at, a.deleted_at from accounts a
where not a.is_void and a.deleted_at is null and (a.name = :name or a.id = cast(:id as uuid)) order by a.id limit 2

-- list: accounts of people and programs, oldest first
select a.id, a.name, a.created_at, a.suspended_at, a.deleted_at from accounts a
where not a.is_void and (cast(:after as uuid) is null or a.id > :after) order by a.id limit :limit

-- suspend: its keys open nothing from now on, and its mail waits
update accounts set suspended_at = statement_timestamp() where id = :account_id and not is_void and suspended_at is null

-- resume: it is at work again
update accounts set suspended_at = null where id = :account_id and suspended_at is not null and deleted_at is null

-- wait_anew: what could not be sent while its account was suspended did not wait for that time
update deliveries d set waits_since = statement_timestamp()
where d.account_id = :account_id and d.due_at is not null and d.waits_since < statement_timestamp()

-- mark_deleted: it is worth nothing from now on, and its rows go; never the void, nor the account that mail for nobody belongs to
update accounts a set deleted_at = statement_timestamp(), suspended_at = coalesce(a.suspended_at, statement_timestamp())
where a.id = :account_id and not a.is_void and a.deleted_at is null
  and a.id <> (select f.id from accounts f where not f.is_void order by f.id limit 1)

-- is_suspended: whether it takes no mail and sends none
select exists (select 1 from accounts a where a.id = :account_id and a.suspended_at is not null)
-- voids: the accounts that dropped mail goes through
select a.id from accounts a where a.is_void order by a.id

-- create_key: a new API key's description
insert into api_keys (account_id, id, name, scopes, domains, expires_at, created_at)
values (:account_id, :id, :name, :scopes, :domains, :expires_at, statement_timestamp())
returning created_at

-- create_credential: a bearer token can be found by its hash from now on
insert into credentials (hash, account_id, kind, object_id) values (:hash, :account_id, :kind, :object_id)

-- credential: whose token is it?
select c.account_id, c.kind, c.object_id from credentials c where c.hash = :hash

-- holder: whose token is it, if it may still be used; key_id is null for a mailbox's
select c.account_id, k.id as key_id, case when c.kind = 'mailbox' then c.object_id end as mailbox_id, k.scopes, k.domains,
  a.suspended_at is not null as is_suspended
from credentials c join accounts a on a.id = c.account_id
left join api_keys k on c.kind = 'key' and k.account_id = c.account_id and k.id = c.object_id
  and k.revoked_at is null and (k.expires_at is null or k.expires_at > statement_timestamp())
where c.hash = :hash and a.deleted_at is null and (c.kind = 'mailbox' or k.id is not null)

-- standing: which of these keys and mailboxes' tokens may still be used
select c.account_id, c.object_id
from unnest(cast(:account_ids as uuid[]), cast(:object_ids as uuid[])) as u (account_id, object_id)
join credentials c on c.account_id = u.account_id and c.object_id = u.object_id
join accounts a on a.id = u.account_id and a.suspended_at is null
left join api_keys k on c.kind = 'key' and k.account_id = c.account_id and k.id = c.object_id
  and k.revoked_at is null and (k.expires_at is null or k.expires_at > statement_timestamp())
where c.kind = 'mailbox' or k.id is not null

-- used: these keys were used within the last moments; written at most once in a while
with used as materialized (
  select k.account_id, k.id from unnest(cast(:account_ids as uuid[]), cast(:ids as uuid[])) as u (account_id, id)
  join api_keys k on k.account_id = u.account_id and k.id = u.id
  where k.last_used_at is null or k.last_used_at < statement_timestamp() - make_interval(secs => :seconds)
  order by k.account_id, k.id for update of k skip locked
)
update api_keys k set last_used_at = statement_timestamp() from used where k.account_id = used.account_id and k.id = used.id

-- rename: what it is called by
update api_keys set name = :name where account_id = :account_id and id = :id and revoked_at is null

-- forget_keys: one slice of the keys that were revoked before
delete from api_keys k using (
  select o.account_id, o.id from api_keys o where o.revoked_at < :before order by o.revoked_at limit :limit) o
where k.account_id = o.account_id and k.id = o.id

-- key: one API key
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at, k.last_used_at from api_keys k where k.account_id = :account_id and k.id = :id

-- keys_desc: an account's API keys, newest first
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at, k.last_used_at from api_keys k
where k.account_id = :account_id and k.revoked_at is null and (cast(:after as uuid) is null or k.id < :after)
  and k.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and k.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by k.id desc limit :limit

-- keys_asc: the same, oldest first
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at, k.last_used_at from api_keys k
where k.account_id = :account_id and k.revoked_at is null and (cast(:after as uuid) is null or k.id > :after)
  and k.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and k.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by k.id limit :limit

-- revoke_key: the key is not valid any more
update api_keys set revoked_at = statement_timestamp() where account_id = :account_id and id = :id and revoked_at is null

-- drop_credentials: nobody can be found by these objects' tokens any more
delete from credentials where account_id = :account_id and object_id = any(cast(:object_ids as uuid[]))
