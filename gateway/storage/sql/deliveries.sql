-- export: of the next attempts behind an id, oldest first, those that match, with the recipient they were made for; how
-- many were looked at, and where the look ended
with looked as materialized (
  select t.* from attempts t where t.account_id = :account_id and t.id > :after and t.id < :until_id order by t.id limit :width
), found as (
  select t.id, t.email_id, d.address as recipient, t.number, t.provider, t.started_at, t.finished_at, t.outcome, t.code, t.reply,
    t.transcript, t.is_stale, t.rule, t.class, t.suppresses
  from looked t join deliveries d on d.account_id = :account_id and d.id = t.delivery_id
  where (cast(:since as timestamptz) is null or t.finished_at >= :since) and (cast(:until as timestamptz) is null or t.finished_at < :until)
    and (cast(:outcome as text) is null or t.outcome = :outcome)
    and (cast(:status as delivery_status) is null or d.status = :status)
    and (cast(:provider as text) is null or :provider in (t.provider, split_part(t.provider, ':', 1)))
    and (cast(:recipient as text) is null or d.address = :recipient)
    and (cast(:email_id as uuid) is null or t.email_id = :email_id)
    and (cast(:tag as text) is null or exists (
      select 1 from emails e, jsonb_array_elements(e.tags) g where e.account_id = :account_id and e.id = t.email_id
        and :tag in (g ->> 'name', g ->> 'value', (g ->> 'name') || ':' || (g ->> 'value'))))
  order by t.id limit :limit
)
select s.seen, s.last, f.*
from (select count(*) as seen, (select l.id from looked l order by l.id desc limit 1) as last from looked) s left join found f on true
order by f.id
