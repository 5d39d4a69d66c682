-- Notes how long things are kept, and the quota of tenants that have none of their own (for views only); null leaves a
-- value as it is. Written only where it differs, and audited then. What is kept for a shorter time than before is not
-- dropped for an hour: time to notice a slip of the pen. 23514 names the bound that a value breaks (see the checks of
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
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  v_old upkeep%rowtype;
  v_new upkeep%rowtype;
begin
  select u.* into v_old from upkeep u for no key update;
  v_new := v_old;
  v_new.partition_interval := coalesce(p_partition_interval, v_old.partition_interval);
  v_new.inbox_days := coalesce(p_inbox_days, v_old.inbox_days);
  v_new.jobs_days := coalesce(p_jobs_days, v_old.jobs_days);
  v_new.dedup_window := coalesce(p_dedup_window, v_old.dedup_window);
  v_new.hash_window := coalesce(p_hash_window, v_old.hash_window);
  v_new.default_daily_quota := coalesce(p_default_daily_quota, v_old.default_daily_quota);
  if v_new is not distinct from v_old then
    return false;
  end if;
  if v_new.inbox_days < v_old.inbox_days or v_new.jobs_days < v_old.jobs_days
     or v_new.dedup_window < v_old.dedup_window or v_new.hash_window < v_old.hash_window then
    v_new.cautious_until := clock_timestamp() + interval '1 hour';
  end if;
  update upkeep u
     set partition_interval = v_new.partition_interval, inbox_days = v_new.inbox_days, jobs_days = v_new.jobs_days,
         dedup_window = v_new.dedup_window, hash_window = v_new.hash_window,
         default_daily_quota = v_new.default_daily_quota, cautious_until = v_new.cautious_until;
  perform relayforge.write_audit(
    session_user, 'configure_upkeep', 'upkeep', 'as configured',
    (select jsonb_object_agg(n.key, jsonb_build_object('from', o.value, 'to', n.value))
       from jsonb_each(to_jsonb(v_new)) n
       join jsonb_each(to_jsonb(v_old)) o on o.key = n.key
      where n.value <> o.value and n.key <> 'cautious_until'));
  return true;
end $$;
comment on function relayforge.configure_upkeep is 'Notes how long things are kept: what RETENTION__…, PARTITION__… and DEDUP__… of the API say. Null leaves a value as it is. Returns whether anything differed; audited then, and nothing is dropped for an hour if something is kept for a shorter time. An API that runs notes its own again within a minute.';
grant execute on function relayforge.configure_upkeep to relayforge_api, relayforge_dba;
