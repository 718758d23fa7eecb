-- An address may be suppressed for some of an account's mail alone, and e-mails say what can be left.

alter table suppressions add column scope text not null default '';
alter table suppressions drop constraint suppressions_pkey;
alter table suppressions add primary key (account_id, address, scope);
drop index suppressions_by_time;
create index suppressions_by_time on suppressions (account_id, created_at, address, scope);
create index suppressions_over on suppressions (expires_at) where expires_at is not null;

alter table emails add column topic text;
