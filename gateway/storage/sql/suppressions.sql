-- put: list these addresses, whatever was said of them before; one whose time is over already is not answered.
-- In the order of addresses and scopes, so that two that list the same never wait for each other
insert into suppressions as s (account_id, address, scope, reason, expires_at, created_at)
select :account_id, u.address, u.scope, u.reason, u.expires_at, statement_timestamp()
from unnest(cast(:addresses as text[]), cast(:scopes as text[]), cast(:reasons as text[]), cast(:expires_ats as timestamptz[]))
  as u (address, scope, reason, expires_at)
where u.expires_at is null or u.expires_at > statement_timestamp()
order by u.address, u.scope
on conflict (account_id, address, scope) do update set reason = excluded.reason, expires_at = excluded.expires_at,
  created_at = case when s.expires_at <= statement_timestamp() then excluded.created_at else s.created_at end
returning s.address, s.scope, s.reason, s.expires_at, s.created_at

-- bounced: list addresses that do not exist; what is on the list, for whichever reason, stays as it is
insert into suppressions as s (account_id, address, reason, created_at)
select :account_id, u.address, 'bounce', statement_timestamp()
from unnest(cast(:addresses as text[])) as u (address) order by u.address
on conflict (account_id, address, scope) do update
set reason = excluded.reason, expires_at = null, created_at = excluded.created_at where s.expires_at <= statement_timestamp()

-- unsubscribe: its recipient wants no such mail any more; one that is there and has no end stays as it is: no row.
-- The account may be gone, for links last longer
insert into suppressions as s (account_id, address, scope, reason, created_at)
select a.id, cast(:address as text), cast(:scope as text), 'unsubscribe', statement_timestamp() from accounts a where a.id = :account_id
on conflict (account_id, address, scope) do update set reason = excluded.reason, expires_at = null,
  created_at = case when s.expires_at <= statement_timestamp() then excluded.created_at else s.created_at end
where s.expires_at is not null
returning s.address

-- resubscribe: and wants it again; what was listed for another reason stays
delete from suppressions s
where s.account_id = :account_id and s.address = :address and s.scope = :scope and s.reason = 'unsubscribe'
  and (s.expires_at is null or s.expires_at > statement_timestamp())

-- get: one, while it counts
select s.address, s.scope, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and s.address = :address and s.scope = :scope
  and (s.expires_at is null or s.expires_at > statement_timestamp())

-- delete: it may be written to again
delete from suppressions s
where s.account_id = :account_id and s.address = :address and s.scope = :scope
  and (s.expires_at is null or s.expires_at > statement_timestamp())

-- page_desc: those that count, newest first
select s.address, s.scope, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and (s.expires_at is null or s.expires_at > statement_timestamp())
  and (cast(:made as timestamptz) is null
    or (s.created_at, s.address, s.scope) < (cast(:made as timestamptz), cast(:after as text), cast(:after_scope as text)))
  and (cast(:reason as text) is null or s.reason = :reason) and (cast(:address as text) is null or s.address = :address)
  and (cast(:scope as text) is null or s.scope = :scope)
  and s.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and s.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by s.created_at desc, s.address desc, s.scope desc limit :limit

-- page_asc: the same, oldest first
select s.address, s.scope, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and (s.expires_at is null or s.expires_at > statement_timestamp())
  and (cast(:made as timestamptz) is null
    or (s.created_at, s.address, s.scope) > (cast(:made as timestamptz), cast(:after as text), cast(:after_scope as text)))
  and (cast(:reason as text) is null or s.reason = :reason) and (cast(:address as text) is null or s.address = :address)
  and (cast(:scope as text) is null or s.scope = :scope)
  and s.created_at >= coalesce(cast(:since as timestamptz), '-infinity') and s.created_at < coalesce(cast(:until as timestamptz), 'infinity')
order by s.created_at, s.address, s.scope limit :limit

-- behind: a slice of the whole list, by address
select s.address, s.scope, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and (s.address, s.scope) > (cast(:after as text), cast(:after_scope as text))
  and (s.expires_at is null or s.expires_at > statement_timestamp())
order by s.address, s.scope limit :limit

-- over_accounts: accounts with rows whose time is over
select distinct o.account_id from (
  select s.account_id from suppressions s where s.expires_at <= :before order by s.expires_at limit :limit) o

-- forget: one slice of an account's rows whose time is over; what is being listed anew just now is left alone
delete from suppressions s where s.account_id = :account_id and (s.address, s.scope) in (
  select o.address, o.scope from suppressions o
  where o.account_id = :account_id and o.expires_at <= :before limit :limit for update skip locked)
