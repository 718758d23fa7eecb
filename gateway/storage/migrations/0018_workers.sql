-- Workers say that they live; e-mails know the trace of the request that they came by; webhooks that are disabled are
-- counted without a look at the others.

create table workers (
  id uuid primary key,
  host text not null,
  version text not null,
  started_at timestamptz not null,
  beat_at timestamptz not null
);

create index webhooks_disabled on webhooks (account_id) where status = 'disabled' and deleted_at is null;

alter table emails add column trace text;
