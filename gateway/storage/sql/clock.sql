-- now: by the clock that everybody shares
select clock_timestamp() as now
