-- put: list these addresses, whatever was said of them before; one whose time is over already is not answered.
-- In the order of addresses, so that two that list the same never wait for each other
insert into suppressions as s (account_id, address, reason, expires_at, created_at)
select :account_id, u.address, u.reason, u.expires_at, statement_timestamp()
from unnest(cast(:addresses as text[]), cast(:reasons as text[]), cast(:expires_ats as timestamptz[])) as u (address, reason, expires_at)
where u.expires_at is null or u.expires_at > statement_timestamp()
order by u.address
on conflict (account_id, address) do update set reason = excluded.reason, expires_at = excluded.expires_at,
  created_at = case when s.expires_at <= statement_timestamp() then excluded.created_at else s.created_at end
returning s.address, s.reason, s.expires_at, s.created_at

-- bounced: list addresses that do not exist; what is on the list, for whichever reason, stays as it is
insert into suppressions as s (account_id, address, reason, created_at)
select :account_id, u.address, 'bounce', statement_timestamp()
from unnest(cast(:addresses as text[])) as u (address) order by u.address
on conflict (account_id, address) do update
set reason = excluded.reason, expires_at = null, created_at = excluded.created_at where s.expires_at <= statement_timestamp()

-- get: one, while it counts
select s.address, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and s.address = :address and (s.expires_at is null or s.expires_at > statement_timestamp())

-- delete: it may be written to again
delete from suppressions s
where s.account_id = :account_id and s.address = :address and (s.expires_at is null or s.expires_at > statement_timestamp())

-- page_desc: those that count, newest first
select s.address, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and (s.expires_at is null or s.expires_at > statement_timestamp())
  and (cast(:made as timestamptz) is null or (s.created_at, s.address) < (cast(:made as timestamptz), cast(:after as text)))
  and (cast(:reason as text) is null or s.reason = :reason) and (cast(:address as text) is null or s.address = :address)
order by s.created_at desc, s.address desc limit :limit

-- page_asc: the same, oldest first
select s.address, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and (s.expires_at is null or s.expires_at > statement_timestamp())
  and (cast(:made as timestamptz) is null or (s.created_at, s.address) > (cast(:made as timestamptz), cast(:after as text)))
  and (cast(:reason as text) is null or s.reason = :reason) and (cast(:address as text) is null or s.address = :address)
order by s.created_at, s.address limit :limit

-- behind: a slice of the whole list, by address
select s.address, s.reason, s.expires_at, s.created_at from suppressions s
where s.account_id = :account_id and s.address > :after and (s.expires_at is null or s.expires_at > statement_timestamp())
order by s.address limit :limit
