-- clear: nothing fails on purpose any more
delete from rehearsals where account_id = :account_id and mailbox_id = :mailbox_id

-- add: the script, in its order
insert into rehearsals (account_id, mailbox_id, number, stage, reply, times, remaining)
select :account_id, :mailbox_id, u.n - 1, u.stage, u.reply, u.times, u.times
from unnest(cast(:stages as text[]), cast(:replies as text[]), cast(:times as integer[])) with ordinality as u (stage, reply, times, n)

-- list: the script and what is left of it
select r.stage, r.reply, r.times, r.remaining from rehearsals r
where r.account_id = :account_id and r.mailbox_id = :mailbox_id order by r.number

-- hold: what is left of the script, locked, so that two deliveries never take the same step
select r.number, r.stage, r.reply from rehearsals r
where r.account_id = :account_id and r.mailbox_id = :mailbox_id and r.remaining > 0 order by r.number for update

-- take: a step is done once
update rehearsals set remaining = remaining - 1 where account_id = :account_id and mailbox_id = :mailbox_id and number = :number
