-- Looks leave out what is suspended accounts'; the longest revoked keys are forgotten.

create index concurrently accounts_suspended on accounts (id) where suspended_at is not null;
create index concurrently api_keys_revoked on api_keys (revoked_at) where revoked_at is not null;
