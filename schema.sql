-- Postroom's database as it is today, readable top to bottom. Runs on Postgres 14 to 18.
--
-- Everything that a tenant owns is keyed (account_id, ...): in primary keys, unique and foreign keys, indexes and every
-- WHERE clause. Look-ups that start without an account (an address, a key's hash, a domain, a provider's message id) go
-- through small tables of their own, keyed by the value looked up and without foreign keys to a tenant's tables.
-- No triggers, no functions, no extensions, no sequences: ids are UUIDv7, drawn by the application.
-- A change here comes with a migration in gateway/storage/migrations; a test proves that both give the same database.

create table schema_migrations (
  name text primary key,                              -- file name of the migration, without .sql
  applied_at timestamptz not null default now()
);


-- Accounts and keys ----------------------------------------------------------------------------------------------------

create table accounts (
  id uuid primary key,
  name text not null,                                 -- for people; not unique
  is_void boolean not null default false,             -- one of the 16 that mail for nobody is stored into and removed from
  created_at timestamptz not null default now(),
  suspended_at timestamptz,                           -- null = at work; else its keys open nothing, its mail waits
  deleted_at timestamptz                              -- null = not deleted; suspended as well, and its rows go in slices
);
create index accounts_suspended on accounts (id) where suspended_at is not null; -- looks leave out what is theirs
create index accounts_void on accounts (id) where is_void; -- reclaim walks the void accounts

create table api_keys (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,                                   -- the key itself is derived from SECRET_KEY and this id
  name text not null,
  scopes text[] not null,                             -- mailboxes, send, inbound, read, admin
  domains text[] not null default '{}',               -- sender domains the key may use; empty = all
  expires_at timestamptz,                             -- null = never
  revoked_at timestamptz,                             -- null = in use
  created_at timestamptz not null default now(),
  last_used_at timestamptz,                           -- to a minute; null = never, or not since this is written down
  primary key (account_id, id)
);
create index api_keys_revoked on api_keys (revoked_at) where revoked_at is not null; -- the longest revoked are forgotten

create table credentials (                            -- look-up: whose is this bearer token?
  hash bytea primary key,                             -- SHA-256 of the token; the token is stored nowhere
  account_id uuid not null,
  kind text not null check (kind in ('key', 'mailbox')),
  object_id uuid not null                             -- api_keys.id or mailboxes.id
);
create index credentials_by_object on credentials (account_id, object_id); -- revoking, reclaim

create table idempotency_keys (
  account_id uuid not null references accounts (id) on delete cascade,
  endpoint text not null,                             -- method and path, such as "POST /v1/emails"
  key text not null,                                  -- 1 to 255 printable characters, the caller's
  fingerprint bytea not null,                         -- SHA-256 of the payload
  status smallint not null,                           -- HTTP status of the first answer
  answer jsonb not null,                              -- its body without secrets, which are derived again
  created_at timestamptz not null,                    -- set by the application: remembered from here
  primary key (account_id, endpoint, key)
);
create index idempotency_keys_age on idempotency_keys (created_at); -- reclaim finds the forgotten ones


-- Domains and addresses ------------------------------------------------------------------------------------------------

create table domain_names (                           -- look-up: whose is this domain?
  name text primary key,                              -- lower-case A-labels
  account_id uuid not null,                           -- who proved to own it
  wildcard boolean not null default false             -- mail for all names below it comes here, too
);

create table domains (                                -- a tenant's own; those in MAIL_DOMAINS are everybody's and not here
  account_id uuid not null references accounts (id) on delete cascade,
  name text not null,
  verified_at timestamptz,                            -- null = not yet
  checked_at timestamptz,                             -- last look at the DNS; null = never
  records jsonb not null default '[]',                -- state of each DNS record at the last look
  unknown_recipients text not null default 'drop' check (unknown_recipients in ('drop', 'reject', 'create')),
  catch_all uuid,                                     -- mailbox that takes what nobody else does; null = none
  created_at timestamptz not null default now(),
  wildcard boolean not null default false,            -- as in domain_names, once it is verified
  failed_at timestamptz,                              -- last found that it is not the tenant's; null = never, or it is
  primary key (account_id, name)
);

create table dkim_keys (                              -- what mail from a tenant's domain is signed with
  account_id uuid not null,
  id uuid not null,
  domain text not null,
  selector text not null,                             -- <selector>._domainkey.<domain>; two keys made together end alike
  algorithm text not null check (algorithm in ('rsa', 'ed25519')),
  private_key bytea,                                  -- PKCS #8, encrypted under SECRET_KEY; null = destroyed, once retired
  record text not null,                               -- the TXT record that is to stand in the DNS
  created_at timestamptz not null,
  activated_at timestamptz,                           -- when its record was first seen; null = never
  retired_at timestamptz,                             -- when a newer one took over; null = not yet
  primary key (account_id, id),
  unique (account_id, domain, selector),
  foreign key (account_id, domain) references domains (account_id, name) on delete cascade
);

create table addresses (                              -- look-up: where does mail for this address go?
  address text primary key,                           -- canonical: lower case, without +tag, domain as A-labels
  account_id uuid not null,
  mailbox_id uuid not null                            -- the newest mailbox that had the address, live or not
);


-- Mailboxes and messages -----------------------------------------------------------------------------------------------

create table mailboxes (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,
  address text not null,                              -- canonical; several mailboxes may have had it, one after the other
  expires_at timestamptz,                             -- null = never; storing a message checks it by the database's clock;
                                                      -- deleting sets it to 1970, so that reclaim comes at once
  is_active boolean not null default true,            -- bookkeeping of the expiry sweep; never trusted when mail comes in
  deleted_at timestamptz,                             -- null = not deleted; the rows go later, in slices
  metadata jsonb not null default '{}',               -- the owner's
  created_at timestamptz not null,
  sender_policy text not null default 'accept'        -- what happens to mail whose sender cannot prove who it is
    check (sender_policy in ('accept', 'flag', 'drop-on-fail')),
  primary key (account_id, id)
);
create index mailboxes_by_address on mailboxes (account_id, address, id desc);         -- {mailbox} given as an address
create index mailboxes_due on mailboxes (expires_at) where is_active;                  -- accounts with something to expire
create index mailboxes_due_of_account on mailboxes (account_id, expires_at) where is_active;  -- one slice of the sweep
create index mailboxes_gone on mailboxes (expires_at) where not is_active;             -- reclaim, oldest first

create table contents (                               -- raw mail, byte for byte; one for each DATA and account
  account_id uuid not null,
  id uuid not null,                                   -- inbound: the receipt id; outbound: the e-mail's id
  raw bytea not null,                                 -- empty = dropped mail over VOID_MAX_BYTES
  size integer not null,                              -- bytes that came in, also where raw was not kept
  created_at timestamptz not null default now(),
  primary key (account_id, id)
) with (toast_tuple_target = 8160);                   -- a mail of up to 8 KB stays in one page instead of five TOAST rows
alter table contents alter column raw set storage external; -- never compressed: bytes in, bytes out

create table messages (
  account_id uuid not null,
  id uuid not null,
  mailbox_id uuid not null,                           -- no foreign key: the storing statement locks the mailbox instead
  content_id uuid not null,
  seq bigint not null,                                -- of its message.received event, and so a cursor
  received_at timestamptz not null,
  size integer not null,                              -- bytes
  mail_from text not null,                            -- reverse path; empty = <>
  envelope jsonb not null,                            -- rcpt_to of this mailbox, helo, remote_ip, tls
  from_name text,                                     -- display name in From; null = none
  from_address text,                                  -- first address in From, lower case; null = none
  recipients jsonb not null,                          -- To, as [{name, address}]
  subject text not null,                              -- empty = none
  snippet text not null,                              -- first 200 characters of text
  codes jsonb not null,                               -- [{value, confidence, source, context}]
  links jsonb not null,                               -- [{url, text, kind}]
  attachment_count integer not null,
  message_id text,                                    -- RFC 5322 header as it was sent; senders may repeat it
  thread_id uuid not null,                            -- the same for all messages of one conversation
  tag text,                                           -- what stood behind the + in the address; null = nothing
  parse text not null check (parse in ('ok', 'repaired', 'raw_only')),
  warnings jsonb not null,                            -- what was odd about it, for people
  auth jsonb not null default '{}',                   -- spf, dkim, dmarc; empty = not judged yet
  seen boolean not null default false,
  labels text[] not null default '{}',
  transcript jsonb not null default '[]',             -- lines of the SMTP dialogue, those about other accounts left out
  primary key (account_id, id)
);
create index messages_by_seq on messages (account_id, seq);                            -- lists of the whole account
create index messages_by_mailbox on messages (account_id, mailbox_id, seq);            -- lists, waiting, reclaim
create index messages_by_content on messages (account_id, content_id);                 -- is a content still needed?

create table held_messages (                          -- stored, but shown to nobody before the sender is judged
  account_id uuid not null,
  id uuid not null,                                   -- the message's
  mailbox_id uuid not null,
  content_id uuid not null,
  message json not null,                              -- the row of messages and what its event will say
  policy text not null,                               -- of the mailbox when it came: flag, drop-on-fail; or over-quota: and the quota
  created_at timestamptz not null,                    -- 5 s later it is shown or dropped, whatever is known then
  due_at timestamptz not null,                        -- when somebody must look again: at once, or the end of a lease
  primary key (account_id, id)
);
create index held_messages_due on held_messages (due_at);
create index held_messages_by_mailbox on held_messages (account_id, mailbox_id);       -- expiry waits for these
create index held_messages_by_content on held_messages (account_id, content_id);       -- is a content still needed?

create table judgements (                             -- how far an account's messages have their senders judged
  account_id uuid primary key,
  judged_seq bigint not null,                         -- messages.seq; no row = none yet
  due_at timestamptz not null default to_timestamp(0) -- end of the claim of the worker that judges them; past = nobody does
);

create table rehearsals (                             -- failures that a mailbox's owner has asked for, in their order
  account_id uuid not null,
  mailbox_id uuid not null,
  number smallint not null,                           -- 0 = first
  stage text not null check (stage in ('rcpt', 'data')),
  reply text not null,                                -- an SMTP reply, "drop" or "tarpit:<seconds>"
  times integer not null,                             -- as asked for
  remaining integer not null,                         -- 0 = over
  primary key (account_id, mailbox_id, number)
);


-- Search ---------------------------------------------------------------------------------------------------------------

create table indexing (                               -- how far the afterwards-reader has come with an account's messages
  account_id uuid primary key,
  indexed_seq bigint not null                         -- messages.seq; no row = none yet
) with (fillfactor = 50);

create table message_texts (                          -- the words of messages, apart, so that no message's row is written twice
  account_id uuid not null,
  seq bigint not null,                                -- the message's
  words tsvector not null,                            -- of gateway.storage.search: each begins with account and segment
  primary key (account_id, seq)
) with (toast_tuple_target = 128);                    -- from 2 KB on words lie apart from the rows, which a search walks
alter table message_texts alter column words set statistics 0; -- nothing plans by them
create index message_texts_words on message_texts using gin (words)
  with (fastupdate = on, gin_pending_list_limit = 256); -- kB; every search reads the whole pending list
create index messages_labelled on messages (account_id, seq) where labels <> '{}'; -- search by label


-- The event log --------------------------------------------------------------------------------------------------------

create table event_heads (                            -- one row an account; its lock puts the account's commits in order
  account_id uuid primary key,
  last_seq bigint not null default 0,
  stored_bytes bigint not null default 0,             -- sizes of the account's messages, added up; for its quota
  minute_began timestamptz not null default to_timestamp(0), -- the minute in which mail last came
  minute_messages integer not null default 0,         -- messages that came in that minute
  quota_told_at timestamptz                           -- last quota.exceeded; null = never
) with (fillfactor = 50);                             -- room for the next version of the row in the same page

create table events (
  account_id uuid not null,
  seq bigint not null,                                -- gapless, in commit order
  id uuid not null,                                   -- also the webhook-id under which it is told
  type text not null,                                 -- such as message.received
  mailbox_id uuid,                                    -- null = not about a mailbox
  email_id uuid,                                      -- null = not about an outbound e-mail
  message_id uuid,                                    -- null = not about a message
  data json not null,                                 -- json, not jsonb: it is only ever passed on, as it was written
  created_at timestamptz not null,
  primary key (account_id, seq)
);
create index events_by_mailbox on events (account_id, mailbox_id, seq) where mailbox_id is not null; -- streams of one mailbox
create index events_by_email on events (account_id, email_id, seq) where email_id is not null;       -- an e-mail's timeline


-- Webhooks -------------------------------------------------------------------------------------------------------------

create table webhooks (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,                                   -- its secret is derived from SECRET_KEY, this id and the generation
  url text not null,
  types text[] not null,                              -- event types; {*} = all
  mailbox_id uuid,                                    -- only events of this mailbox; null = of all
  status text not null default 'active' check (status in ('active', 'disabled')),
  disabled_reason text,                               -- null = active
  secret_generation integer not null default 1,       -- goes up with each rotation
  previous_secret_until timestamptz,                  -- until then the secret before signs too; null = it does not
  failing_since timestamptz,                          -- first failure with no success after it; null = it works
  created_at timestamptz not null default now(),
  deleted_at timestamptz,                             -- null = not deleted
  ordered boolean not null default false,             -- one after the other for each mailbox or e-mail
  earlier_secrets_until timestamptz[] not null default '{}',  -- the same of those before the secret before, newest first
  primary key (account_id, id)
);

create index webhooks_disabled on webhooks (account_id) where status = 'disabled' and deleted_at is null; -- how many are

create table webhook_deliveries (                     -- one event for one webhook; written in the event's transaction
  account_id uuid not null,
  webhook_id uuid not null,
  event_id uuid not null,
  seq bigint not null,                                -- of the event
  event_type text not null,
  status text not null default 'pending' check (status in ('pending', 'delivered', 'dead')),
  attempts integer not null default 0,
  due_at timestamptz not null,                        -- when somebody must look again: next attempt, or the lease's end
  lease_id uuid,                                      -- fencing token of the worker that has it; null = nobody has
  last_status smallint,                               -- HTTP status of the last answer; null = none came
  created_at timestamptz not null,
  finished_at timestamptz,                            -- null = pending
  turn_id uuid,                                       -- the mailbox or e-mail whose events wait for each other; null = told
                                                      -- at once
  told_before integer not null default 0,             -- attempts made before somebody asked to have it told again
  primary key (account_id, webhook_id, event_id)
);
create index webhook_deliveries_due on webhook_deliveries (due_at) where status = 'pending';
create index webhook_deliveries_due_of_webhook on webhook_deliveries (account_id, webhook_id, due_at) where status = 'pending';
create index webhook_deliveries_leased on webhook_deliveries (account_id, webhook_id, due_at) where lease_id is not null;
create index webhook_deliveries_in_turn on webhook_deliveries (account_id, webhook_id, turn_id, seq)
  where status = 'pending' and turn_id is not null;                                    -- who is before whom
create index webhook_deliveries_dead on webhook_deliveries (account_id, webhook_id, event_id) where status = 'dead';
create index webhook_deliveries_by_seq on webhook_deliveries (account_id, seq);        -- redaction, retention

create table webhook_attempts (                       -- append-only
  account_id uuid not null,
  id uuid not null,
  webhook_id uuid not null,
  event_id uuid not null,
  number integer not null,                            -- 1 = first
  started_at timestamptz not null,
  latency_ms integer not null,
  status smallint,                                    -- HTTP status; null = no answer
  answer text not null,                               -- first 1 KiB of it
  error text,                                         -- why there was no answer; null = there was one
  primary key (account_id, id)
);
create index webhook_attempts_of_delivery on webhook_attempts (account_id, webhook_id, event_id, number);


-- E-mails out ----------------------------------------------------------------------------------------------------------

create type delivery_status as enum (                 -- in the order in which an e-mail's status is chosen
  'scheduled',                                        -- not before scheduled_at
  'queued',                                           -- due, or waiting for a worker
  'sending',                                          -- a worker has the lease
  'deferred',                                         -- tried; will be tried again
  'unknown',                                          -- the line broke after the final dot, and the caller asked to hold
  'sent',                                             -- the next hop took it
  'delivered',                                        -- the final hop took it
  'canceled',                                         -- by the caller, before it was sent
  'suppressed',                                       -- on the suppression list; never tried
  'failed',                                           -- given up
  'bounced',                                          -- refused for good
  'complained'                                        -- its reader called it spam
);

create table emails (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,                                   -- also the id of its content
  from_name text,                                     -- display name; null = none
  from_address text not null,
  mail_from text not null,                            -- reverse path
  recipients jsonb not null,                          -- {to, cc, bcc, reply_to}, each [{name, address}]
  subject text not null,
  message_id text not null,                           -- RFC 5322 header without brackets, the same at every attempt
  tags jsonb not null default '[]',                   -- [{name, value}]
  metadata jsonb not null default '{}',
  size integer not null,                              -- bytes of the composed mail
  on_unknown text not null default 'retry' check (on_unknown in ('retry', 'hold')),
  scheduled_at timestamptz,                           -- null = at once
  expires_at timestamptz,                             -- not tried after this; null = RETRY_MAX_AGE_SECONDS decides
  source text not null check (source in ('api', 'smtp')),
  created_at timestamptz not null,
  topic text,                                         -- what its recipients can unsubscribe from; empty = the sender's
                                                      -- domain; null = nothing: it has no List-Unsubscribe of ours
  trace text,                                         -- W3C traceparent of the request that it came by, and its tracestate
                                                      -- behind a space; null = it had none
  primary key (account_id, id)
);

create table deliveries (                             -- one recipient of an e-mail: its fate is its own
  account_id uuid not null,
  id uuid not null,
  email_id uuid not null,
  kind text not null check (kind in ('to', 'cc', 'bcc')),
  address text not null,                              -- as it is said in RCPT TO
  domain text not null,                               -- lower-case A-labels: routing, throttling
  status delivery_status not null,
  attempts integer not null default 0,
  due_at timestamptz,                                 -- when somebody must look again: next attempt, or the lease's end;
                                                      -- null = finished, or held as unknown
  lease_id uuid,                                      -- fencing token of the worker that has it; null = nobody has
  in_data boolean not null default false,             -- committed before DATA where the outcome must never be guessed
  provider text,                                      -- that made the last attempt; null = none yet
  provider_id text,                                   -- its id for the mail; null = it gave none
  reply text,                                         -- last thing the peer said
  created_at timestamptz not null,
  updated_at timestamptz not null,
  waits_since timestamptz,                            -- when it was first due, or its sender last asked for a retry
  delayed_told_at timestamptz,                        -- when email.delayed was told; null = never
  primary key (account_id, id),
  foreign key (account_id, email_id) references emails (account_id, id) on delete cascade
);
create index deliveries_by_email on deliveries (account_id, email_id, id);
create index deliveries_due on deliveries (due_at) where due_at > '-infinity';         -- looks over all accounts, which say it so:
                                                      -- a claim must not be led by it over everybody else's
create index deliveries_due_of_account on deliveries (account_id, due_at) where due_at is not null; -- claims, MAX_QUEUED
create index deliveries_by_address on deliveries (account_id, address, email_id desc); -- GET /v1/emails?to=
create index deliveries_late on deliveries (waits_since)                               -- who waits too long and was not told of;
  where due_at is not null and lease_id is null and delayed_told_at is null;           -- no claim and no last verdict writes here

create table attempts (                               -- append-only, one row an attempt at one recipient
  account_id uuid not null,
  id uuid not null,
  delivery_id uuid not null,
  email_id uuid not null,
  number integer not null,                            -- 1 = first
  provider text not null,
  started_at timestamptz not null,
  finished_at timestamptz not null,
  outcome text not null,                              -- sent, delivered, deferred, bounced, failed, unknown, provider_fault
  code smallint,                                      -- SMTP or HTTP code; null = no reply
  reply text not null,
  transcript jsonb not null,                          -- lines of the dialogue, secrets and body left out
  is_stale boolean not null default false,            -- the lease was lost meanwhile: recorded, but it decided nothing
  rule text,                                          -- that its refusal was read by: built-in, or id of a bounce rule, which
                                                      -- may be gone since; null = no refusal
  class text,                                         -- what that rule said: hard, quota, policy, …; null = no refusal
  suppresses boolean,                                 -- … and whether a bounce by it lists the address; null = no refusal
  primary key (account_id, id)
);
create index attempts_by_email on attempts (account_id, email_id, id);

create table counting (                               -- how far an account's log is counted in delivery_statistics
  account_id uuid primary key,
  counted_seq bigint not null                         -- events.seq; written in the transaction of the counts; no row = none yet
) with (fillfactor = 50);

create table delivery_statistics (                    -- what became of mail, added up by hours, and once more by days
  account_id uuid not null,
  hour timestamptz not null,                          -- in which the log holds what is counted: its beginning, or its day's; UTC
  tag text not null,                                  -- name:value; '' = the total, in which each event counts once, whatever its
                                                      -- tags; '~' = the total by provider alone; '*' = tags that found no place
  sender_domain text not null,                        -- lower-case A-labels; '' = beyond those
  recipient_domain text not null,                     -- the same; '' with every tag but the total
  provider text not null,                             -- '' = none was asked; '*' = beyond those
  accepted integer not null,                          -- recipients that a caller asked for
  sent integer not null,                              -- from here on events of that type
  delivered integer not null,
  deferred integer not null,
  bounced integer not null,
  failed integer not null,
  suppressed integer not null,
  complained integer not null,
  opened integer not null,
  clicked integer not null,
  unknown integer not null,
  taken integer not null,                             -- recipients that were sent or delivered, each once
  returned integer not null,                          -- bounced or failed after they were taken
  first_bucket smallint not null,                     -- of latencies
  latencies integer[] not null,                       -- how many were taken so long after they were due: gateway.outbound.latency
  is_day boolean not null default false,              -- the whole day is in this row
  primary key (account_id, is_day, hour, tag, sender_domain, recipient_domain, provider)
) with (fillfactor = 70);                             -- an hour's rows are written again and again while it lasts

create table inbound_statistics (                     -- mail that came in, added up by hours
  account_id uuid not null,
  hour timestamptz not null,                          -- in which the log holds it: its beginning; UTC
  received integer not null,                          -- messages that are shown, each once a mailbox
  dropped integer not null,                           -- that an owner's policy or quota dropped
  primary key (account_id, hour)
) with (fillfactor = 70);

create table provider_messages (                      -- look-up: whose mail does a callback or a report speak of?
  provider text not null,
  provider_id text not null,
  account_id uuid not null,
  delivery_id uuid not null,
  created_at timestamptz not null default now(),
  primary key (provider, provider_id)
);
create index provider_messages_age on provider_messages (created_at); -- the oldest are forgotten

create table callbacks (                              -- what was told of mails that left; no account is known
  provider text not null,                             -- mailgun, postmark, ses; mail = a report that came to a return path
  event_id text not null,                             -- the provider's own, or a digest of what it posted
  provider_id text,                                   -- of the mail; null = it is about none; mail: the delivery's id
  payload bytea not null,                             -- the body as it was posted, the mail as it came
  received_at timestamptz not null default now(),
  applied_at timestamptz,                             -- when its news were taken in; null = it is not known whose mail it is
  primary key (provider, event_id)
);
create index callbacks_waiting on callbacks (provider, provider_id) where applied_at is null; -- those that overtook a verdict
create index callbacks_age on callbacks (received_at); -- the oldest are forgotten
create index callbacks_by_message on callbacks (provider, provider_id); -- reports of one mail
create index callbacks_unapplied on callbacks (received_at, event_id)
  where provider = 'mail' and applied_at is null;     -- reports that a worker is to apply, in their order

create table suppressions (
  account_id uuid not null references accounts (id) on delete cascade,
  address text not null,                              -- canonical
  reason text not null,                               -- bounce, complaint, unsubscribe, manual
  expires_at timestamptz,                             -- null = never
  created_at timestamptz not null default now(),
  scope text not null default '',                     -- which mail; empty = all, topic:<name>, domain:<sender's, A-labels>
  primary key (account_id, address, scope)
);
create index suppressions_by_time on suppressions (account_id, created_at, address, scope); -- lists
create index suppressions_over on suppressions (expires_at) where expires_at is not null;   -- reclaim

create table bounce_rules (                           -- looked at before the built-in ones; the first that fits decides
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,
  priority integer not null,                          -- lower = earlier; the same = older first
  words text not null,                                -- lower case, pieces with * between; empty = not asked for
  enhanced text not null,                             -- RFC 3463 code with x for any number; empty = not asked for
  code text not null,                                 -- three digits with x for any; empty = not asked for
  kind text not null,                                 -- hard, quota, policy, content, network, soft, unknown
  suppresses boolean not null,
  action text,                                        -- bounce, retry; null = as the server's code says
  note text not null,                                 -- for people; may be empty
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (account_id, id)
);

create table templates (
  account_id uuid not null references accounts (id) on delete cascade,
  id uuid not null,
  name text not null,
  subject text not null,
  html text,                                          -- Jinja2; null = none
  text text,                                          -- Jinja2; null = made from html
  variables jsonb not null default '{}',              -- declared names with their types and defaults
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (account_id, id)
);


-- Who works -----------------------------------------------------------------------------------------------------------

create table workers (                                -- worker processes, of all hosts; one that ends removes its row
  id uuid primary key,                                -- drawn when it starts
  host text not null,                                 -- name of its host, for people
  version text not null,                              -- of Postroom
  started_at timestamptz not null,
  beat_at timestamptz not null,                       -- when it last said that it lives; forgotten a day later
  standing jsonb not null default '{}'                -- what it knows of the ways out, as of beat_at: gateway.outbound.standing
);


-- The void: mail for nobody goes through the same statements as mail for somebody, into one of these --------------------

insert into accounts (id, name, is_void)
select cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), 'void', true from generate_series(0, 15) n;

insert into event_heads (account_id, last_seq)
select cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), 1 from generate_series(0, 15) n;

insert into mailboxes (account_id, id, address, created_at)
select cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid),
  cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), '', now() from generate_series(0, 15) n;

insert into events (account_id, seq, id, type, mailbox_id, data, created_at)
select cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), 1,
  cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), 'mailbox.created',
  cast('00000000-0000-7000-8000-0000000000' || lpad(to_hex(n), 2, '0') as uuid), '{}', now() from generate_series(0, 15) n;
