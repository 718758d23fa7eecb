-- Statistics by days, beside those by hours. What the log holds is counted anew.

drop index delivery_statistics_age;
delete from delivery_statistics;
delete from counting;
alter table delivery_statistics add column is_day boolean not null default false;
alter table delivery_statistics drop constraint delivery_statistics_pkey;
alter table delivery_statistics add primary key (account_id, is_day, hour, tag, sender_domain, recipient_domain, provider);
