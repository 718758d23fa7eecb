-- What claims and lists of one webhook's deliveries look at.

create index concurrently webhook_deliveries_due_of_webhook on webhook_deliveries (account_id, webhook_id, due_at) where status = 'pending';

create index concurrently webhook_deliveries_leased on webhook_deliveries (account_id, webhook_id, due_at) where lease_id is not null;

create index concurrently webhook_deliveries_in_turn on webhook_deliveries (account_id, webhook_id, turn_id, seq)
where status = 'pending' and turn_id is not null;

create index concurrently webhook_deliveries_dead on webhook_deliveries (account_id, webhook_id, event_id) where status = 'dead';

drop index concurrently webhook_deliveries_due_of_account;
