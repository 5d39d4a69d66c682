-- Every job with its present state. Narrow it by job_id, or by tenant and job_id (an id carries the time: see
-- relayforge.uuid7_floor), so that only the partitions concerned are read.
create view relayforge.job_overview as
select j.id as job_id,
       t.slug as tenant,
       j.source,
       j.event_type,
       coalesce(o.state, j.outcome) as status,
       coalesce(j.attempts, case when o.run_id is null then o.attempt - 1 else o.attempt end) as attempts,
       relayforge.uuid7_time(j.id) as created_at,
       j.finished_at,
       coalesce(j.last_error, l.detail) as last_error,
       j.event_id,
       j.correlation_id
  from store.jobs j
  left join store.tenants t on t.id = j.tenant_id
  left join store.open_jobs o on o.job_id = j.id
  left join lateral (
    select l.detail from store.job_log l
     where l.job_id = j.id and l.what = 'failed' and l.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))
       and o.job_id is not null
     order by l.id desc
     limit 1
  ) l on true;
comment on view relayforge.job_overview is 'Every job with its present state. Narrow it by job_id or time (job_id >= relayforge.uuid7_floor(…)).';
comment on column relayforge.job_overview.status is 'queued, processing, retrying, held, or the outcome: succeeded, dead_lettered, cancelled.';
comment on column relayforge.job_overview.attempts is 'Runs that were started.';
comment on column relayforge.job_overview.last_error is 'What the last failed run said.';
grant select on relayforge.job_overview to relayforge_dba;
