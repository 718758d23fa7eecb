-- Recipients that wait for long are told of, once.

alter table deliveries add column waits_since timestamptz;
alter table deliveries add column delayed_told_at timestamptz;

update deliveries d set waits_since = coalesce(e.scheduled_at, e.created_at)
from emails e where e.account_id = d.account_id and e.id = d.email_id and d.due_at is not null;

create index deliveries_late on deliveries (waits_since)
  where due_at is not null and lease_id is null and delayed_told_at is null;
