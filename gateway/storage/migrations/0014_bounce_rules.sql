-- An account's own rules for refusals, and which rule each refused attempt was read by.

create table bounce_rules (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,
  priority integer not null,
  words text not null,
  enhanced text not null,
  code text not null,
  kind text not null,
  suppresses boolean not null,
  action text,
  note text not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (account_id, id)
);

alter table attempts add column rule text;
alter table attempts add column class text;
alter table attempts add column suppresses boolean;
