-- What became of mail, added up by hours.

create table counting (
  account_id uuid primary key,
  counted_seq bigint not null
) with (fillfactor = 50);

create table delivery_statistics (
  account_id uuid not null,
  hour timestamptz not null,
  tag text not null,
  sender_domain text not null,
  recipient_domain text not null,
  provider text not null,
  accepted integer not null,
  sent integer not null,
  delivered integer not null,
  deferred integer not null,
  bounced integer not null,
  failed integer not null,
  suppressed integer not null,
  complained integer not null,
  opened integer not null,
  clicked integer not null,
  unknown integer not null,
  taken integer not null,
  returned integer not null,
  first_bucket smallint not null,
  latencies integer[] not null,
  primary key (account_id, hour, tag, sender_domain, recipient_domain, provider)
) with (fillfactor = 70);
create index delivery_statistics_age on delivery_statistics (hour);
