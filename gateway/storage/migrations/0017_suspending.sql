-- Accounts can be suspended and deleted; keys tell when they were last used.

alter table accounts add column suspended_at timestamptz;
alter table accounts add column deleted_at timestamptz;
create index accounts_suspended on accounts (id) where suspended_at is not null;

alter table api_keys add column last_used_at timestamptz;
create index api_keys_revoked on api_keys (revoked_at) where revoked_at is not null;
