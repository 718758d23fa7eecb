-- add: keys made together; nothing is signed with them alone before their records were seen, unless there are no others
insert into dkim_keys (account_id, id, domain, selector, algorithm, private_key, record, created_at)
select :account_id, u.id, :domain, u.selector, u.algorithm, u.private_key, u.record, statement_timestamp()
from unnest(cast(:ids as uuid[]), cast(:selectors as text[]), cast(:algorithms as text[]), cast(:private_keys as bytea[]),
  cast(:records as text[])) as u (id, selector, algorithm, private_key, record)

-- of_domains: the keys of these domains, oldest first
select k.domain, k.id, k.selector, k.algorithm, k.private_key, k.record, k.created_at, k.activated_at, k.retired_at
from dkim_keys k where k.account_id = :account_id and k.domain = any(cast(:domains as text[]))
order by k.created_at, k.algorithm desc

-- activate: its record was seen
update dkim_keys k set activated_at = statement_timestamp()
where k.account_id = :account_id and k.domain = :domain and k.selector = any(cast(:selectors as text[]))
  and k.activated_at is null and k.retired_at is null

-- retire: those that a newer one of their kind, in use, takes over from; what is not there any more cannot be stolen
update dkim_keys k set retired_at = statement_timestamp(), private_key = null
where k.account_id = :account_id and k.domain = :domain and k.retired_at is null and exists (
  select 1 from dkim_keys n where n.account_id = :account_id and n.domain = :domain and n.algorithm = k.algorithm
    and n.activated_at is not null and n.retired_at is null and n.created_at > k.created_at)

-- remove_waiting: those whose records were never seen
delete from dkim_keys k
where k.account_id = :account_id and k.domain = :domain and k.activated_at is null and k.retired_at is null

-- forget: those retired so long ago that no mail signed with them is under way
delete from dkim_keys k
where k.account_id = :account_id and k.domain = :domain and k.retired_at < statement_timestamp() - make_interval(secs => :overlap)

-- sealed: every private half, over all accounts; looks, locks nothing
select k.account_id, k.id, k.domain, k.selector, k.private_key from dkim_keys k
where k.private_key is not null order by k.domain, k.selector

-- reseal: the same private half under another SECRET_KEY, unless it was destroyed or changed meanwhile
update dkim_keys k set private_key = :anew
where k.account_id = :account_id and k.id = :id and k.private_key = :private_key
