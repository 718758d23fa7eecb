-- What receiving in full needs: usage for quotas, whole subtrees of domains, the sender policy of a mailbox with the mail
-- that waits for a verdict, rehearsed failures, the transcript of a message, and how far an account's mail is judged.

alter table event_heads add column stored_bytes bigint not null default 0;
alter table event_heads add column minute_began timestamptz not null default to_timestamp(0);
alter table event_heads add column minute_messages integer not null default 0;
alter table event_heads add column quota_told_at timestamptz;

update event_heads h set stored_bytes = (select coalesce(sum(g.size), 0) from messages g where g.account_id = h.account_id);

alter table domain_names add column wildcard boolean not null default false;
alter table domains add column wildcard boolean not null default false;

alter table mailboxes add column sender_policy text not null default 'accept'
  check (sender_policy in ('accept', 'flag', 'drop-on-fail'));

alter table messages add column transcript jsonb not null default '[]';

create table held_messages (
  account_id uuid not null,
  id uuid not null,
  mailbox_id uuid not null,
  content_id uuid not null,
  message json not null,
  policy text not null,
  created_at timestamptz not null,
  due_at timestamptz not null,
  primary key (account_id, id)
);
create index held_messages_due on held_messages (due_at);
create index held_messages_by_mailbox on held_messages (account_id, mailbox_id);
create index held_messages_by_content on held_messages (account_id, content_id);

create table judgements (
  account_id uuid primary key,
  judged_seq bigint not null
);

create table rehearsals (
  account_id uuid not null,
  mailbox_id uuid not null,
  number smallint not null,
  stage text not null check (stage in ('rcpt', 'data')),
  reply text not null,
  times integer not null,
  remaining integer not null,
  primary key (account_id, mailbox_id, number)
);
