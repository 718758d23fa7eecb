-- beat: this worker lives; those that have not been heard of for a day are forgotten
with gone as (delete from workers w where w.beat_at < statement_timestamp() - interval '1 day' and w.id <> :id)
insert into workers as w (id, host, version, started_at, beat_at, standing)
values (:id, :host, :version, statement_timestamp(), statement_timestamp(), cast(:standing as jsonb))
on conflict (id) do update set beat_at = statement_timestamp(), standing = excluded.standing

-- leave: it has ended as it should
delete from workers w where w.id = :id

-- workers: how many live, and how many have fallen silent without having ended
select count(*) filter (where w.beat_at > statement_timestamp() - make_interval(secs => :silence)) as alive,
  count(*) filter (where w.beat_at <= statement_timestamp() - make_interval(secs => :silence)) as silent
from workers w

-- standings: what those that live told last
select w.standing, extract(epoch from statement_timestamp() - w.beat_at) as age from workers w
where w.beat_at > statement_timestamp() - make_interval(secs => :silence)

-- work: what waits besides recipients, each counted up to a limit or looked up by one end of an index
select
  (select count(*) from (
    select 1 from webhook_deliveries d where d.status = 'pending' order by d.due_at limit :limit) as found) as webhooks_pending,
  case when to_regclass('webhook_deliveries_dead') is not null then ( -- without it, all deliveries would be looked at
    select count(*) from (select 1 from webhook_deliveries d where d.status = 'dead' limit :limit) as found)
  end as webhooks_dead,
  (select count(*) from (
    select 1 from webhooks w where w.status = 'disabled' and w.deleted_at is null limit :limit) as found) as webhooks_disabled,
  coalesce(extract(epoch from statement_timestamp() - ( -- of those of which no worker has anything in hand, as in condition.sql
    select min(f.due_at) from webhooks w cross join lateral (
      select d.due_at from webhook_deliveries d where d.account_id = w.account_id and d.webhook_id = w.id and d.status = 'pending'
        and d.due_at <= statement_timestamp() order by d.due_at limit 1) f
    where w.account_id <> all(array(select a.id from accounts a where a.suspended_at is not null))
      and not exists (select 1 from webhook_deliveries u where u.account_id = w.account_id and u.webhook_id = w.id
        and u.lease_id is not null and u.due_at > statement_timestamp()))), 0) as webhook_overdue,
  (select count(*) from (select 1 from held_messages h order by h.due_at limit :limit) as found) as messages_held,
  coalesce(extract(epoch from statement_timestamp() - (
    select h.created_at from held_messages h order by h.due_at limit 1)), 0) as held_for,
  (select count(*) from (
    select 1 from mailboxes m where not m.is_active and m.expires_at < statement_timestamp() - make_interval(secs => :retention)
    order by m.expires_at limit :limit) as found) as mailboxes_reclaimable,
  coalesce(extract(epoch from statement_timestamp() - (
    select m.expires_at from mailboxes m where m.is_active and m.expires_at <= statement_timestamp()
    order by m.expires_at limit 1)), 0) as expiry_overdue,
  greatest(coalesce(extract(epoch from statement_timestamp() - (
    select k.created_at from idempotency_keys k order by k.created_at limit 1)) - :remembered, 0), 0) as keys_overdue

-- tables: what Postgres believes of our tables, without a look at them; -1 = it has never counted
select c.relname as name, greatest(c.reltuples, 0) as rows, coalesce(s.n_dead_tup, 0) as dead
from pg_class c left join pg_stat_user_tables s on s.relid = c.oid
where c.oid in (select to_regclass(u.name) from unnest(cast(:names as text[])) as u (name))

-- room: what there is of the server: bytes of the database, connections to it and of it in all
select pg_database_size(current_database()) as bytes,
  (select sum(d.numbackends) from pg_stat_database d) as connections,
  cast(current_setting('max_connections') as integer) as connections_limit

-- lags: of some accounts, in the order of ids: their logs' heads, and how far those who read them are behind. Of each one row
-- of an index is looked up; of what is to be counted, a span of the log
with page as (
  select h.account_id, h.last_seq from event_heads h join accounts a on a.id = h.account_id
  where h.account_id > :after and not a.is_void
  order by h.account_id limit :limit
), found as materialized (
  select s.account_id, s.last_seq, s.last_seq - coalesce(i.indexed_seq, 0) as unindexed, s.last_seq - coalesce(j.judged_seq, 0) as unjudged,
    s.last_seq - coalesce(c.counted_seq, 0) as uncounted,
    (select m.received_at from messages m where m.account_id = s.account_id and m.seq > coalesce(i.indexed_seq, 0)
      order by m.seq limit 1) as indexed_until,
    (select m.received_at from messages m where :judges and m.account_id = s.account_id and m.seq > coalesce(j.judged_seq, 0)
      order by m.seq limit 1) as judged_until,
    (select e.created_at from events e where e.account_id = s.account_id and e.seq > coalesce(c.counted_seq, 0)
      and e.seq <= coalesce(c.counted_seq, 0) + :span and e.type = any(cast(:types as text[]))
      order by e.seq limit 1) as counted_until
  from page s left join indexing i on i.account_id = s.account_id left join judgements j on j.account_id = s.account_id
    left join counting c on c.account_id = s.account_id
)
select count(*) as accounts, (array_agg(f.account_id order by f.account_id desc))[1] as last, coalesce(sum(f.last_seq), 0) as head,
  coalesce(sum(f.unindexed) filter (where f.indexed_until is not null), 0) as unindexed,
  coalesce(sum(f.unjudged) filter (where f.judged_until is not null), 0) as unjudged,
  coalesce(sum(f.uncounted) filter (where f.counted_until is not null), 0) as uncounted,
  coalesce(extract(epoch from statement_timestamp() - min(f.indexed_until)), 0) as indexing,
  coalesce(extract(epoch from statement_timestamp() - min(f.judged_until)), 0) as judging,
  coalesce(extract(epoch from statement_timestamp() - min(f.counted_until)), 0) as counting
from found f
