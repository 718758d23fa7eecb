-- claim: first statement of a transaction that creates; no row = the key is taken (waits for one that is being committed)
insert into idempotency_keys as k (account_id, endpoint, key, fingerprint, status, answer, created_at)
values (:account_id, :endpoint, :key, :fingerprint, :status, :answer, statement_timestamp())
on conflict (account_id, endpoint, key) do update
set fingerprint = excluded.fingerprint, status = excluded.status, answer = excluded.answer, created_at = excluded.created_at
where k.created_at < statement_timestamp() - make_interval(secs => :seconds)
returning k.key

-- keep: the answer, where it was not known when the key was claimed
update idempotency_keys set answer = :answer where account_id = :account_id and endpoint = :endpoint and key = :key

-- give_back: the key is free again, in the transaction that claimed it
delete from idempotency_keys k where k.account_id = :account_id and k.endpoint = :endpoint and k.key = :key

-- find: what was answered the first time
select k.fingerprint, k.status, k.answer from idempotency_keys k
where k.account_id = :account_id and k.endpoint = :endpoint and k.key = :key

-- old_accounts: accounts with forgotten keys; looks, locks nothing
select distinct o.account_id from (
  select k.account_id from idempotency_keys k where k.created_at < :before order by k.created_at limit :limit) o

-- forget: one slice of an account's forgotten keys
delete from idempotency_keys k where k.account_id = :account_id and k.created_at < :before and (k.endpoint, k.key) in (
  select f.endpoint, f.key from idempotency_keys f where f.account_id = :account_id and f.created_at < :before limit :limit)

-- claim_all: the keys of a batch, in order, first thing in its transaction; those missing from the answer are taken
insert into idempotency_keys as k (account_id, endpoint, key, fingerprint, status, answer, created_at)
select :account_id, u.endpoint, u.key, u.fingerprint, u.status, cast(u.answer as jsonb), statement_timestamp()
from unnest(cast(:endpoints as text[]), cast(:keys as text[]), cast(:fingerprints as bytea[]), cast(:statuses as smallint[]),
  cast(:answers as text[])) as u (endpoint, key, fingerprint, status, answer)
order by u.endpoint, u.key
on conflict (account_id, endpoint, key) do update
set fingerprint = excluded.fingerprint, status = excluded.status, answer = excluded.answer, created_at = excluded.created_at
where k.created_at < statement_timestamp() - make_interval(secs => :seconds)
returning k.endpoint, k.key
