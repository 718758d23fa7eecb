-- find: who owns the longest of these names; the first is the domain itself, the others stand above it and must be wildcards
select n.name, n.account_id from domain_names n
where n.name = any(cast(:names as text[])) and (n.name = :name or n.wildcard)
order by length(n.name) desc limit 1

-- policy: what is done with mail for nobody there
select d.unknown_recipients, d.catch_all from domains d where d.account_id = :account_id and d.name = :name
