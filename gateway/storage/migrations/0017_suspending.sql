-- Accounts can be suspended and deleted; keys tell when they were last used.

alter table accounts add column suspended_at timestamptz;
alter table accounts add column deleted_at timestamptz;

alter table api_keys add column last_used_at timestamptz;
