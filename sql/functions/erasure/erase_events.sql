-- Erases what events carried: bodies, headers and trace contexts of all their deliveries, the errors of their jobs. What
-- remains is that there was an event: ids, type, times, outcome. Jobs that are still open are cancelled. The ledger
-- keeps the key, so that a provider's retry is answered as a duplicate, whose body is not stored either.
-- Returns how many deliveries were erased. Not granted to anybody.
-- Locks: ledger by digest (a duplicate is either committed by then, or will see that the event is erased), open_jobs
-- and jobs by id, deliveries by id.
create function relayforge.erase_events(p_event_ids uuid[], p_now timestamptz)
returns bigint
language plpgsql
set search_path = store, pg_temp
set enable_seqscan = off
as $$
declare
  v_job_ids uuid[];
  v_erased bigint;
begin
  select array_agg(j.id order by j.id) into v_job_ids from jobs j where j.event_id = any (p_event_ids);

  perform 1
     from dedup_ledger l
    where l.digest in (
      select relayforge.dedup_digest(j.tenant_id, j.source, j.dedup_key)
        from jobs j
       where j.id = any (v_job_ids) and j.dedup_key is not null)
    order by l.digest
      for update;

  perform 1 from open_jobs o where o.job_id = any (v_job_ids) order by o.job_id for no key update;
  -- Whoever reprocesses one of them is either done, and its row in open_jobs is there, or will find the event erased.
  perform 1 from jobs j where j.id = any (v_job_ids) order by j.id for no key update;
  with ended as (
    delete from open_jobs o
     where o.job_id = any (v_job_ids)
    returning o.job_id, (o.attempt - case when o.run_id is null then 1 else 0 end)::smallint as attempts, o.started_at
  )
  update jobs j
     set outcome = 'cancelled', attempts = e.attempts, started_at = e.started_at, finished_at = p_now
    from ended e
   where j.id = e.job_id;
  update jobs j set last_error = null where j.id = any (v_job_ids) and j.last_error is not null;
  update job_log l set detail = 'erased' where l.job_id = any (v_job_ids) and l.what in ('failed', 'dead') and l.detail <> 'erased';

  perform 1
     from webhook_inbox i
    where i.id = any (p_event_ids) or (i.event_id = any (p_event_ids) and i.event_id <> i.id)
    order by i.id
      for no key update;
  update webhook_inbox i
     set body = null, headers = '{}', trace_context = null, erased_at = p_now
   where i.erased_at is null
     and (i.id = any (p_event_ids) or (i.event_id = any (p_event_ids) and i.event_id <> i.id));
  get diagnostics v_erased = row_count;
  return v_erased;
end $$;
comment on function relayforge.erase_events is 'Erases what events carried and cancels their open jobs; returns how many deliveries were erased.';
