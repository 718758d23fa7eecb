-- Reports that come to return paths are kept beside providers' callbacks, and found by the mail that they are about;
-- whose mail it was is forgotten in time.

create index callbacks_by_message on callbacks (provider, provider_id);
create index provider_messages_age on provider_messages (created_at);
