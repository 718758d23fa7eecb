-- Webhooks that are disabled are counted without a look at the others.

create index concurrently webhooks_disabled on webhooks (account_id) where status = 'disabled' and deleted_at is null;
