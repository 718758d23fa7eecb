-- Lists of suppressed addresses are shown newest first.

create index suppressions_by_time on suppressions (account_id, created_at, address);
