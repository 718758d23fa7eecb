-- Workers say that they live; e-mails know the trace of the request that they came by.

create table workers (
  id uuid primary key,
  host text not null,
  version text not null,
  started_at timestamptz not null,
  beat_at timestamptz not null
);

alter table emails add column trace text;
