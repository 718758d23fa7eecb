-- usage: what an account holds
select h.stored_bytes, case when h.minute_began = date_trunc('minute', statement_timestamp()) then h.minute_messages else 0 end as minute_messages
from event_heads h where h.account_id = :account_id

-- due: whether to tell that a quota is spent, which is told once in a while; no row = it was told not long ago
update event_heads set quota_told_at = statement_timestamp()
where account_id = :account_id and (quota_told_at is null or quota_told_at < statement_timestamp() - make_interval(secs => :pause))
returning quota_told_at

-- live_mailboxes: how many there are, counted no further than to the limit
select count(*) from (select 1 from mailboxes m where m.account_id = :account_id and m.is_active limit :limit) c

-- api_keys: how many the account has, counted no further than to the limit
select count(*) from (select 1 from api_keys o where o.account_id = :account_id and o.revoked_at is null limit :limit) c

-- domains: how many the account has, counted no further than to the limit
select count(*) from (select 1 from domains o where o.account_id = :account_id limit :limit) c

-- webhooks: how many the account has, counted no further than to the limit
select count(*) from (select 1 from webhooks o where o.account_id = :account_id and o.deleted_at is null limit :limit) c

-- templates: how many the account has, counted no further than to the limit
select count(*) from (select 1 from templates o where o.account_id = :account_id limit :limit) c

-- suppressions: how many the account has, counted no further than to the limit
select count(*) from (select 1 from suppressions o where o.account_id = :account_id limit :limit) c
