-- Gives up messages that can never be published, with the reason; the job of a work message is dead-lettered.
-- In a transaction of its own, not the claiming one, because jobs are locked before the outbox.
-- Locks: open_jobs by id, then outbox rows by id.
create function relayforge.abandon_outbox(p_ids uuid[], p_reasons text[], p_now timestamptz default clock_timestamp())
returns void
language plpgsql security definer
set search_path = store, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
  v_job_ids uuid[];
  v_reasons text[];
begin
  -- The target is looked at last: an index begins with it, and has all messages of a target.
  select array_agg(o.job_id) filter (where o.target in ('jobs', 'retries')) into v_job_ids
    from outbox_messages o
   where o.id = any (p_ids);
  perform 1 from open_jobs j where j.job_id = any (v_job_ids) order by j.job_id for no key update;
  -- Only now, with the jobs locked: one that has started or was cancelled meanwhile is let be.
  select array_agg(o.job_id), array_agg(a.reason)
    into v_job_ids, v_reasons
    from unnest(p_ids, p_reasons) a(id, reason)
   cross join lateral (
     select o.job_id, o.attempt, o.target from outbox_messages o where o.id = a.id offset 0
   ) o
   cross join lateral (
     select 1
       from open_jobs j
      where j.job_id = o.job_id and j.attempt = o.attempt and j.state in ('queued', 'retrying', 'held')
     offset 0
   ) j
   where o.target in ('jobs', 'retries');
  if v_job_ids is not null then
    perform relayforge.dead_letter_jobs(v_job_ids, array_fill('unpublishable'::text, array[cardinality(v_job_ids)]), v_reasons, p_now);
  end if;
  perform 1 from outbox_messages o where o.id = any (p_ids) order by o.id for update;
  delete from outbox_messages o where o.id = any (p_ids);
end $$;
comment on function relayforge.abandon_outbox is 'Gives up messages that can never be published; the job of a work message is dead-lettered with the reason.';
grant execute on function relayforge.abandon_outbox to relayforge_relay;
