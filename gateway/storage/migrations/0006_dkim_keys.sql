-- Keys that mail from a tenant's domain is signed with: several, for they are replaced while mail is under way.

alter table domains drop column dkim_selector;
alter table domains drop column dkim_private_key;

create table dkim_keys (
  account_id uuid not null,
  id uuid not null,
  domain text not null,
  selector text not null,
  algorithm text not null check (algorithm in ('rsa', 'ed25519')),
  private_key bytea,
  record text not null,
  created_at timestamptz not null,
  activated_at timestamptz,
  retired_at timestamptz,
  primary key (account_id, id),
  unique (account_id, domain, selector),
  foreign key (account_id, domain) references domains (account_id, name) on delete cascade
);
