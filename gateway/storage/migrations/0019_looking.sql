-- What the dashboard looks at: mail that came in by the hour, and how the ways out stand in each worker.

create table inbound_statistics (
  account_id uuid not null,
  hour timestamptz not null,
  received integer not null,
  dropped integer not null,
  primary key (account_id, hour)
) with (fillfactor = 70);

alter table workers add column standing jsonb not null default '{}';
