-- Whether a claim to a domain was found wrong, so that it is told once.

alter table domains add column failed_at timestamptz;
