-- What workers look at every second: reports that are not applied yet, in their order.

create index callbacks_unapplied on callbacks (received_at, event_id) where provider = 'mail' and applied_at is null;
