-- create: a new account
insert into accounts (id, name) values (:id, :name)

-- first: the oldest account of a person or a program
select a.id, a.name from accounts a where not a.is_void order by a.id limit 1

-- by_name: an account by its name, the oldest if several have it
select a.id, a.name from accounts a where not a.is_void and a.name = :name order by a.id limit 1

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

-- key: one API key
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at from api_keys k where k.account_id = :account_id and k.id = :id

-- usable_key: one API key, if it may still be used
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at from api_keys k
where k.account_id = :account_id and k.id = :id and k.revoked_at is null and (k.expires_at is null or k.expires_at > statement_timestamp())

-- keys: an account's API keys, newest first
select k.id, k.name, k.scopes, k.domains, k.expires_at, k.revoked_at, k.created_at from api_keys k
where k.account_id = :account_id and k.revoked_at is null and (cast(:before as uuid) is null or k.id < :before)
order by k.id desc limit :limit

-- revoke_key: the key is not valid any more
update api_keys set revoked_at = statement_timestamp() where account_id = :account_id and id = :id and revoked_at is null

-- drop_credentials: nobody can be found by these objects' tokens any more
delete from credentials where account_id = :account_id and object_id = any(cast(:object_ids as uuid[]))
