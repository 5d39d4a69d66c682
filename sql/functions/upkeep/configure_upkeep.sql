-- Notes how long things are kept, and the quota of tenants that have none of their own (for views only); null leaves a
-- value as it is. Written only where it differs. 23514 names the bound that a value breaks (see the checks of
-- store.upkeep). Returns whether anything differed.
create function relayforge.configure_upkeep(
  p_partition_interval text,
  p_inbox_days integer,
  p_jobs_days integer,
  p_dedup_window interval,
  p_hash_window interval,
  p_default_daily_quota bigint
)
returns boolean
language sql security definer
set search_path = store, pg_temp
as $$
  with changed as (
    update upkeep u
       set partition_interval = n.partition_interval, inbox_days = n.inbox_days, jobs_days = n.jobs_days,
           dedup_window = n.dedup_window, hash_window = n.hash_window, default_daily_quota = n.default_daily_quota
      from (
        select coalesce(p_partition_interval, c.partition_interval) as partition_interval,
               coalesce(p_inbox_days, c.inbox_days) as inbox_days,
               coalesce(p_jobs_days, c.jobs_days) as jobs_days,
               coalesce(p_dedup_window, c.dedup_window) as dedup_window,
               coalesce(p_hash_window, c.hash_window) as hash_window,
               coalesce(p_default_daily_quota, c.default_daily_quota) as default_daily_quota
          from upkeep c
      ) n
     where (u.partition_interval, u.inbox_days, u.jobs_days, u.dedup_window, u.hash_window, u.default_daily_quota)
           is distinct from
           (n.partition_interval, n.inbox_days, n.jobs_days, n.dedup_window, n.hash_window, n.default_daily_quota)
    returning 1
  )
  select exists (select 1 from changed)
$$;
comment on function relayforge.configure_upkeep is 'Notes how long things are kept: what RETENTION__…, PARTITION__… and DEDUP__… of the API say. Null leaves a value as it is. Returns whether anything differed. An API that runs notes its own again within a minute.';
grant execute on function relayforge.configure_upkeep to relayforge_api, relayforge_dba;
