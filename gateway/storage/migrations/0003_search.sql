-- Search: the words of messages in a table of their own, how far each account's are read, and those that are labelled.

create table indexing (
  account_id uuid primary key,
  indexed_seq bigint not null
) with (fillfactor = 50);

create table message_texts (
  account_id uuid not null,
  seq bigint not null,
  words tsvector not null,
  primary key (account_id, seq)
) with (toast_tuple_target = 128);
alter table message_texts alter column words set statistics 0;
create index message_texts_words on message_texts using gin (words)
  with (fastupdate = on, gin_pending_list_limit = 256);

create index messages_labelled on messages (account_id, seq) where labels <> '{}';
