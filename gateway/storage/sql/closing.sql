-- due: deleted accounts, the longest deleted first, once whoever had their work in hand has seen it; looks, locks nothing
select a.id from accounts a
where a.suspended_at is not null and a.deleted_at <= statement_timestamp() - make_interval(secs => :grace)
order by a.deleted_at limit :limit

-- in_hand: whether a worker still holds something of the account's
select exists (select 1 from deliveries d where d.account_id = :account_id and d.due_at > statement_timestamp() and d.lease_id is not null)
  or exists (select 1 from webhook_deliveries w where w.account_id = :account_id and w.status = 'pending'
    and w.due_at > statement_timestamp() and w.lease_id is not null)

-- credentials: one slice of the account's
with gone as (
  delete from credentials where account_id = :account_id and ctid = any(array(
    select t.ctid from credentials t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- domain_names: one slice of the account's
with gone as (
  delete from domain_names where account_id = :account_id and ctid = any(array(
    select t.ctid from domain_names t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- rehearsals: one slice of the account's
with gone as (
  delete from rehearsals where account_id = :account_id and ctid = any(array(
    select t.ctid from rehearsals t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- held_messages: one slice of the account's
with gone as (
  delete from held_messages where account_id = :account_id and ctid = any(array(
    select t.ctid from held_messages t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- messages: one slice of the account's
with gone as (
  delete from messages where account_id = :account_id and ctid = any(array(
    select t.ctid from messages t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- message_texts: one slice of the account's
with gone as (
  delete from message_texts where account_id = :account_id and ctid = any(array(
    select t.ctid from message_texts t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- contents: one slice of the account's
with gone as (
  delete from contents where account_id = :account_id and ctid = any(array(
    select t.ctid from contents t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- webhook_attempts: one slice of the account's
with gone as (
  delete from webhook_attempts where account_id = :account_id and ctid = any(array(
    select t.ctid from webhook_attempts t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- webhook_deliveries: one slice of the account's
with gone as (
  delete from webhook_deliveries where account_id = :account_id and ctid = any(array(
    select t.ctid from webhook_deliveries t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- webhooks: one slice of the account's
with gone as (
  delete from webhooks where account_id = :account_id and ctid = any(array(
    select t.ctid from webhooks t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- attempts: one slice of the account's
with gone as (
  delete from attempts where account_id = :account_id and ctid = any(array(
    select t.ctid from attempts t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- emails: one slice of the account's
with gone as (
  delete from emails where account_id = :account_id and ctid = any(array(
    select t.ctid from emails t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- dkim_keys: one slice of the account's
with gone as (
  delete from dkim_keys where account_id = :account_id and ctid = any(array(
    select t.ctid from dkim_keys t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- domains: one slice of the account's
with gone as (
  delete from domains where account_id = :account_id and ctid = any(array(
    select t.ctid from domains t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- idempotency_keys: one slice of the account's
with gone as (
  delete from idempotency_keys where account_id = :account_id and ctid = any(array(
    select t.ctid from idempotency_keys t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- suppressions: one slice of the account's
with gone as (
  delete from suppressions where account_id = :account_id and ctid = any(array(
    select t.ctid from suppressions t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- bounce_rules: one slice of the account's
with gone as (
  delete from bounce_rules where account_id = :account_id and ctid = any(array(
    select t.ctid from bounce_rules t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- templates: one slice of the account's
with gone as (
  delete from templates where account_id = :account_id and ctid = any(array(
    select t.ctid from templates t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- delivery_statistics: one slice of the account's
with gone as (
  delete from delivery_statistics where account_id = :account_id and ctid = any(array(
    select t.ctid from delivery_statistics t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- inbound_statistics: one slice of the account's
with gone as (
  delete from inbound_statistics where account_id = :account_id and ctid = any(array(
    select t.ctid from inbound_statistics t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- api_keys: one slice of the account's
with gone as (
  delete from api_keys where account_id = :account_id and ctid = any(array(
    select t.ctid from api_keys t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- events: one slice of the account's
with gone as (
  delete from events where account_id = :account_id and ctid = any(array(
    select t.ctid from events t where t.account_id = :account_id limit :limit)) returning 1
)
select count(*) from gone

-- mailboxes: one slice of the account's, with their addresses, which have no index by account
with gone as (
  delete from mailboxes where account_id = :account_id and ctid = any(array(
    select t.ctid from mailboxes t where t.account_id = :account_id limit :limit)) returning address
), freed as (
  delete from addresses a using gone where a.address = gone.address and a.account_id = :account_id
)
select count(*) from gone

-- deliveries: one slice of the account's, with what providers call their last attempts, which has no index by account
with gone as (
  delete from deliveries where account_id = :account_id and ctid = any(array(
    select t.ctid from deliveries t where t.account_id = :account_id limit :limit)) returning provider, provider_id
), forgotten as (
  delete from provider_messages m using gone
  where m.provider = gone.provider and m.provider_id = gone.provider_id and m.account_id = :account_id
)
select count(*) from gone

-- addresses: the account's among a page of everybody's, behind one; the page's last, and no row where there is none
with page as materialized (
  select t.address, t.account_id from addresses t where t.address > :address order by t.address limit :limit
), gone as (
  delete from addresses d using page p where p.account_id = :account_id and d.account_id = :account_id and d.address = p.address
  returning 1
)
select l.address, (select count(*) from gone) as removed from page l order by l.address desc limit 1

-- provider_messages: the same
with page as materialized (
  select t.provider, t.provider_id, t.account_id from provider_messages t where (t.provider, t.provider_id) > (:provider, :provider_id)
  order by t.provider, t.provider_id limit :limit
), gone as (
  delete from provider_messages d using page p
  where p.account_id = :account_id and d.account_id = :account_id and d.provider = p.provider and d.provider_id = p.provider_id
  returning 1
)
select l.provider, l.provider_id, (select count(*) from gone) as removed from page l
order by l.provider desc, l.provider_id desc limit 1

-- last_judgements: at the very end, in the transaction of the account's own row
delete from judgements where account_id = :account_id

-- last_indexing: at the very end, in the transaction of the account's own row
delete from indexing where account_id = :account_id

-- last_counting: at the very end, in the transaction of the account's own row
delete from counting where account_id = :account_id

-- last_event_heads: at the very end, in the transaction of the account's own row
delete from event_heads where account_id = :account_id

-- account: the account itself
delete from accounts where id = :account_id and deleted_at is not null
