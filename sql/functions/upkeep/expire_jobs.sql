-- Gives up jobs that are still open a day before the partition with their event may be dropped: cause `expired`. A run
-- that holds its lease is let be until the day itself. At most p_limit; returns how many. Not granted to anybody.
-- Locks: open_jobs by id; a row that somebody holds is left for the next call.
create function relayforge.expire_jobs(p_inbox_days integer, p_limit integer, p_now timestamptz)
returns integer
language plpgsql
set search_path = store, pg_temp
set enable_seqscan = off
as $$
declare
  v_kept_from constant timestamptz := p_now - make_interval(days => p_inbox_days);
  v_before uuid;
  v_overdue uuid;
  v_job_ids uuid[];
begin
  select relayforge.uuid7_floor(max(p.to_at) filter (where p.to_at <= v_kept_from + interval '1 day')),
         relayforge.uuid7_floor(max(p.to_at) filter (where p.to_at <= v_kept_from))
    into v_before, v_overdue
    from relayforge.list_partitions() p
   where p.parent = 'webhook_inbox';
  select array_agg(q.job_id) into v_job_ids
    from (
      select o.job_id
        from open_jobs o
       where o.job_id < v_before
         and (o.state <> 'processing' or o.lease_until < p_now or o.job_id < v_overdue)
       order by o.job_id
       limit p_limit
         for no key update skip locked
    ) q;
  if v_job_ids is null then
    return 0;
  end if;
  perform relayforge.dead_letter_jobs(
    v_job_ids,
    array_fill('expired'::text, array[cardinality(v_job_ids)]),
    array_fill(format('deliveries are kept for %s days', p_inbox_days), array[cardinality(v_job_ids)]),
    p_now);
  return cardinality(v_job_ids);
end $$;
comment on function relayforge.expire_jobs is 'Gives up jobs that are still open a day before their event may be dropped; returns how many.';
