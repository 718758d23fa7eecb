-- Who judges an account's messages now: a claim that runs out, so that two workers do not do the same.

alter table judgements add column due_at timestamptz not null default to_timestamp(0);
