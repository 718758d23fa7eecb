-- The index for looks over all accounts cannot be taken for one account's claims any more, which it would lead over
-- everybody else's recipients.

drop index deliveries_due;

create index deliveries_due on deliveries (due_at) where due_at > '-infinity';
