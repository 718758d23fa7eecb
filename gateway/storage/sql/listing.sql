-- slice: of an account's next e-mails between two ids, in the order asked for, those that match; how many were looked at,
-- and between which ids. One of the four branches runs: a recipient's address has an index of its own
with looked as materialized (
  (select e.* from emails e
  where cast(:to as text) is null and not cast(:ascending as boolean) and e.account_id = :account_id and e.id > :low and e.id < :high
  order by e.id desc limit :width)
  union all
  (select e.* from emails e
  where cast(:to as text) is null and cast(:ascending as boolean) and e.account_id = :account_id and e.id > :low and e.id < :high
  order by e.id limit :width)
  union all
  (select e.* from (select d.email_id from deliveries d
    where cast(:to as text) is not null and not cast(:ascending as boolean) and d.account_id = :account_id and d.address = :to
      and d.email_id > :low and d.email_id < :high order by d.email_id desc limit :width) r
  cross join lateral (select * from emails o where o.account_id = :account_id and o.id = r.email_id limit 1) e)
  union all
  (select e.* from (select d.email_id from deliveries d
    where cast(:to as text) is not null and cast(:ascending as boolean) and d.account_id = :account_id and d.address = :to
      and d.email_id > :low and d.email_id < :high order by d.email_id limit :width) r
  cross join lateral (select * from emails o where o.account_id = :account_id and o.id = r.email_id limit 1) e)
), found as (
  select e.* from looked e
  where (cast(:since as timestamptz) is null or e.created_at >= :since) and (cast(:until as timestamptz) is null or e.created_at < :until)
    and (cast(:from_addresses as text[]) is null or lower(e.from_address) = any(cast(:from_addresses as text[])))
    and (cast(:from_domains as text[]) is null or lower(split_part(e.from_address, '@', -1)) = any(cast(:from_domains as text[])))
    and (cast(:subject as text) is null or position(lower(:subject) in lower(e.subject)) > 0)
    and (cast(:metadata_name as text) is null or e.metadata ->> :metadata_name = :metadata_value)
    and (cast(:tag as text) is null or exists (
      select 1 from jsonb_array_elements(e.tags) g where :tag in (g ->> 'name', g ->> 'value', (g ->> 'name') || ':' || (g ->> 'value'))))
    and (cast(:status as delivery_status) is null or :status = (
      select coalesce(min(d.status) filter (where d.status <= 'unknown'), max(d.status))
      from deliveries d where d.account_id = :account_id and d.email_id = e.id))
    and (cast(:provider as text) is null or exists (
      select 1 from deliveries d where d.account_id = :account_id and d.email_id = e.id
        and :provider in (d.provider, split_part(d.provider, ':', 1))))
    and (cast(:reply as text) is null or exists (
      select 1 from attempts t where t.account_id = :account_id and t.email_id = e.id and position(lower(:reply) in lower(t.reply)) > 0))
  order by case when cast(:ascending as boolean) then e.id end, e.id desc limit :limit
)
select s.seen, s.lowest, s.highest, f.*
from (select count(*) as seen, (select l.id from looked l order by l.id limit 1) as lowest,
  (select l.id from looked l order by l.id desc limit 1) as highest from looked) s
left join found f on true
order by case when cast(:ascending as boolean) then f.id end, f.id desc
