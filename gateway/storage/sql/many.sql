-- among: of an account's next recipients those that match; where the look ended, and how many it looked at. One of the
-- two branches runs: an address has an index of its own
with looked as materialized (
  (select d.id, d.email_id, d.status, d.provider, d.domain from deliveries d
  where cast(:to as text) is null and d.account_id = :account_id and d.id > :after
  order by d.id limit :width)
  union all
  (select d.id, d.email_id, d.status, d.provider, d.domain from deliveries d
  where cast(:to as text) is not null and d.account_id = :account_id and d.address = :to and d.id > :after
  order by d.id limit :width)
)
select (select l.id from looked l order by l.id desc limit 1) as last, (select count(*) from looked) as seen, array(
  select l.id from looked l join emails e on e.account_id = :account_id and e.id = l.email_id
  where cast(l.status as text) = any(cast(:statuses as text[]))
    and (cast(:provider as text) is null or :provider in (l.provider, split_part(l.provider, ':', 1)))
    and (cast(:recipient_domain as text) is null or l.domain = :recipient_domain)
    and (cast(:since as timestamptz) is null or e.created_at >= :since) and (cast(:until as timestamptz) is null or e.created_at < :until)
    and (cast(:tag as text) is null or exists (
      select 1 from jsonb_array_elements(e.tags) g where :tag in (g ->> 'name', g ->> 'value', (g ->> 'name') || ':' || (g ->> 'value'))))
    and (cast(:domains as text[]) is null or lower(split_part(e.from_address, '@', -1)) = any(cast(:domains as text[])))
  order by l.id) as ids

-- lock: these recipients, in the order in which all callers lock them
select d.id, d.email_id, cast(d.status as text) as status from deliveries d
where d.account_id = :account_id and d.id = any(cast(:ids as uuid[])) order by d.id for update
