-- find: who owns the longest of these names; the first is the domain itself, the others stand above it and must be wildcards
select n.name, n.account_id, exists (
  select 1 from accounts a where a.id = n.account_id and a.suspended_at is not null) as is_suspended
from domain_names n
where n.name = any(cast(:names as text[])) and (n.name = :name or n.wildcard)
order by length(n.name) desc limit 1

-- policy: what is done with mail for nobody there; a catch-all that takes no mail any more is none
select d.unknown_recipients,
  (select m.id from mailboxes m where m.account_id = :account_id and m.id = d.catch_all and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp())) as catch_all
from domains d where d.account_id = :account_id and d.name = :name

-- is_alias: whether the account has the domain, and the last look at its DNS found this
select exists (
  select 1 from domains d where d.account_id = :account_id and d.name = :name and d.verified_at is not null
    and d.records @> cast(:wanted as jsonb))

-- hold_owner: the same as find; the domain passes to nobody else until the transaction ends
select n.account_id from domain_names n
where n.name = any(cast(:names as text[])) and (n.name = :name or n.wildcard)
order by length(n.name) desc limit 1 for share

-- take_turn: who changes who has this domain is alone with it until the transaction ends
select pg_advisory_xact_lock(hashtextextended('postroom domain ' || cast(:name as text), 0))

-- create: a claim, which proves nothing
insert into domains (account_id, name, wildcard, unknown_recipients, catch_all, created_at)
values (:account_id, :name, :wildcard, :unknown_recipients, :catch_all, statement_timestamp())
on conflict (account_id, name) do nothing

-- get: one claim; a catch-all that takes no mail any more is none
select d.name, d.wildcard, d.unknown_recipients, d.verified_at, d.failed_at, d.checked_at, d.records, d.created_at,
  (select m.id from mailboxes m where m.account_id = :account_id and m.id = d.catch_all and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp())) as catch_all
from domains d where d.account_id = :account_id and d.name = :name

-- list_desc: an account's claims, newest first
select d.name, d.wildcard, d.unknown_recipients, d.verified_at, d.failed_at, d.checked_at, d.records, d.created_at,
  (select m.id from mailboxes m where m.account_id = :account_id and m.id = d.catch_all and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp())) as catch_all
from domains d
where d.account_id = :account_id
  and (cast(:made as timestamptz) is null or (d.created_at, d.name) < (cast(:made as timestamptz), cast(:after as text)))
  and d.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and d.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by d.created_at desc, d.name desc limit :limit

-- list_asc: the same, oldest first
select d.name, d.wildcard, d.unknown_recipients, d.verified_at, d.failed_at, d.checked_at, d.records, d.created_at,
  (select m.id from mailboxes m where m.account_id = :account_id and m.id = d.catch_all and m.deleted_at is null
    and (m.expires_at is null or m.expires_at > statement_timestamp())) as catch_all
from domains d
where d.account_id = :account_id
  and (cast(:made as timestamptz) is null or (d.created_at, d.name) > (cast(:made as timestamptz), cast(:after as text)))
  and d.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and d.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by d.created_at, d.name limit :limit

-- change: what its owner wants done with mail there
update domains set wildcard = :wildcard, unknown_recipients = :unknown_recipients, catch_all = :catch_all
where account_id = :account_id and name = :name

-- widen: the same for the look-up, where the account has the domain
update domain_names set wildcard = :wildcard where account_id = :account_id and name = :name

-- release: nobody has the domain any more
delete from domain_names where account_id = :account_id and name = :name

-- delete: the claim goes
delete from domains where account_id = :account_id and name = :name

-- caught_by: a domain whose catch-all this mailbox is
select d.name from domains d where d.account_id = :account_id and d.catch_all = :mailbox_id order by d.name limit 1

-- holder: who has the domain by its own name
select n.account_id from domain_names n where n.name = :name

-- looked: what the DNS said
update domains set checked_at = statement_timestamp(), records = :records where account_id = :account_id and name = :name

-- hold: the account has the domain, whoever had it before
insert into domain_names (name, account_id, wildcard) values (:name, :account_id, :wildcard)
on conflict (name) do update set account_id = excluded.account_id, wildcard = excluded.wildcard

-- verified: its claim is proved
update domains set verified_at = statement_timestamp(), failed_at = null where account_id = :account_id and name = :name

-- failed: its claim is not, or no longer; no row = that was known
update domains set verified_at = null, failed_at = statement_timestamp()
where account_id = :account_id and name = :name and failed_at is null
