-- server: what the server is, how safely it stores, and how many may connect
select current_setting('server_version') as version, cast(current_setting('server_version_num') as integer) as number,
  pg_is_in_recovery() as is_replica, clock_timestamp() as now,
  current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
  current_setting('synchronous_commit') as synchronous_commit,
  cast(current_setting('max_connections') as integer)
    - cast(current_setting('superuser_reserved_connections') as integer)
    - coalesce(cast(nullif(current_setting('reserved_connections', true), '') as integer), 0) as room,
  (select rolconnlimit from pg_roles where rolname = current_user) as role_limit,
  (select datconnlimit from pg_database where datname = current_database()) as database_limit

-- connections: who is connected: in all, as this role, to this database; and of them those of Postroom to this database
select count(*) as everybody,
  count(*) filter (where a.usename = current_user) as as_role,
  count(*) filter (where a.datname = current_database()) as to_database,
  count(*) filter (where a.datname = current_database() and a.application_name = 'postroom') as ours
from pg_stat_activity a where a.datid is not null

-- held: domains that accounts have proved to own, by name
select n.name, n.account_id from domain_names n
where cast(:names as text[]) is null or n.name = any(cast(:names as text[]))
order by n.name limit :limit

-- count_held: how many there are
select count(*) from domain_names

-- oldest_due: since when the recipient waits that should have been written to first; null = nobody waits.
-- What suspended accounts have to send waits for them
select min(d.due_at) from deliveries d where d.due_at > '-infinity' and d.due_at <= statement_timestamp()
  and d.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))

-- oldest_webhook: the same of webhooks of which no worker has anything in hand: what a slow receiver has yet to hear waits
-- for nobody but that
select min(f.due_at) from webhooks w cross join lateral (
  select d.due_at from webhook_deliveries d where d.account_id = w.account_id and d.webhook_id = w.id and d.status = 'pending'
    and d.due_at <= statement_timestamp() order by d.due_at limit 1) f
where w.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))
  and not exists (select 1 from webhook_deliveries u where u.account_id = w.account_id and u.webhook_id = w.id
    and u.lease_id is not null and u.due_at > statement_timestamp())

-- webhooks: how many there are, fail for now, and were given up
select count(*) filter (where w.status = 'active') as active,
  count(*) filter (where w.status = 'active' and w.failing_since is not null) as failing,
  count(*) filter (where w.status = 'disabled') as disabled
from webhooks w where w.deleted_at is null

-- dead: deliveries to webhooks that were given up, counted up to a limit
select count(*) from (select 1 from webhook_deliveries d where d.status = 'dead' limit :limit) as found

-- fates: what became of the recipients of each account's e-mails since then (an id: ids begin with their time)
select a.id as account_id, f.* from accounts a cross join lateral (
  select count(*) as recipients,
    count(*) filter (where d.status in ('sent', 'delivered', 'complained')) as taken,
    count(*) filter (where d.status = 'complained') as complained,
    count(*) filter (where d.status = 'suppressed') as suppressed
  from deliveries d where d.account_id = a.id and d.email_id >= :since) as f
where not a.is_void and f.recipients > 0

-- upkeep: how large the database is, how old its oldest transaction number and its oldest open transaction are
select pg_database_size(current_database()) as bytes,
  (select cast(age(d.datfrozenxid) as bigint) from pg_database d where d.datname = current_database()) as frozen_age,
  current_setting('autovacuum') = 'on' as autovacuum,
  clock_timestamp() - least(
    (select min(a.xact_start) from pg_stat_activity a
      where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'),
    (select min(p.prepared) from pg_prepared_xacts p where p.database = current_database())) as oldest_transaction

-- slots: replication slots, and how much WAL each keeps
select cast(s.slot_name as text) as name, s.active as is_active, cast(coalesce(case when not pg_is_in_recovery()
  then pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) end, 0) as bigint) as retained
from pg_replication_slots s

-- tables: our tables, their rows as Postgres estimates them, and their size with all that belongs to them
select cast(s.relname as text) as name, s.n_live_tup as living, s.n_dead_tup as dead, pg_total_relation_size(s.relid) as bytes
from pg_stat_user_tables s where s.schemaname = current_schema()
