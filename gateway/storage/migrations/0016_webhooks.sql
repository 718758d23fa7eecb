-- Webhooks: so many deliveries of one are under way and no more, one after the other where that is asked for, given up
-- ones can be told again, and several secrets may be on their way out.

alter table webhooks add column ordered boolean not null default false;

alter table webhooks add column earlier_secrets_until timestamptz[] not null default '{}';

alter table webhook_deliveries add column turn_id uuid;

alter table webhook_deliveries add column told_before integer not null default 0;
