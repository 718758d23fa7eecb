-- export: attempts behind an id, oldest first, with the recipient they were made for
select t.id, t.email_id, d.address as recipient, t.number, t.provider, t.started_at, t.finished_at, t.outcome, t.code, t.reply,
  t.transcript, t.is_stale, t.rule, t.class, t.suppresses
from attempts t join deliveries d on d.account_id = t.account_id and d.id = t.delivery_id
where t.account_id = :account_id and t.id > :after and t.id < :until
  and (cast(:since as timestamptz) is null or t.finished_at >= :since) and (cast(:before as timestamptz) is null or t.finished_at < :before)
order by t.id limit :limit
