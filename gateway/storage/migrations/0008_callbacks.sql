-- What providers post about mail that they took.

create table callbacks (
  provider text not null,
  event_id text not null,
  provider_id text,
  payload bytea not null,
  received_at timestamptz not null default now(),
  applied_at timestamptz,
  primary key (provider, event_id)
);
create index callbacks_waiting on callbacks (provider, provider_id) where applied_at is null;
create index callbacks_age on callbacks (received_at);
