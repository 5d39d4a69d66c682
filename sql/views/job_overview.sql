-- Every job with its present state. Narrow it by job_id, by tenant_id = relayforge.tenant_of(…), or by tenant and job_id
-- (an id carries the time: see relayforge.uuid7_floor), so that only the partitions concerned are read.
create view relayforge.job_overview as
select j.id as job_id,
       t.slug as tenant,
       j.source,
       j.event_type,
       coalesce(o.state, j.outcome) as status,
       -- An attempt that has not begun is no run.
       coalesce(j.attempts, o.attempt - case when o.run_id is null then 1 else 0 end) as attempts,
       relayforge.uuid7_time(j.id) as created_at,
       j.finished_at,
       coalesce(l.detail, j.last_error) as last_error,
       j.event_id,
       j.correlation_id,
       j.tenant_id
  from store.jobs j
  left join store.tenants t on t.id = j.tenant_id
  left join store.open_jobs o on o.job_id = j.id
  left join lateral (
    -- Not the first of an order: that would be looked for along the primary key, through the log of all jobs since.
    select (array_agg(l.detail order by l.id desc))[1] as detail
      from store.job_log l
     where l.job_id = j.id and l.what = 'failed' and l.id >= relayforge.uuid7_floor(relayforge.uuid7_time(j.id))
       and o.job_id is not null
  ) l on true;
comment on view relayforge.job_overview is 'Every job with its present state. Narrow it by job_id, by tenant_id = relayforge.tenant_of(…) or by time (job_id >= relayforge.uuid7_floor(…)).';
comment on column relayforge.job_overview.job_id is 'The job; its time is when it was made. Narrow by this.';
comment on column relayforge.job_overview.tenant is 'The tenant''s slug.';
comment on column relayforge.job_overview.source is 'The source.';
comment on column relayforge.job_overview.event_type is 'What happened, in the provider''s words.';
comment on column relayforge.job_overview.status is 'queued, processing, retrying, held, or the outcome: succeeded, dead_lettered, cancelled.';
comment on column relayforge.job_overview.attempts is 'Runs that were started.';
comment on column relayforge.job_overview.created_at is 'When the job was made.';
comment on column relayforge.job_overview.finished_at is 'When it reached its outcome; null while it is open.';
comment on column relayforge.job_overview.last_error is 'What the last failed run said; null once the job has succeeded or was cancelled (see event_timeline).';
comment on column relayforge.job_overview.event_id is 'Its event: see event_timeline.';
comment on column relayforge.job_overview.correlation_id is 'Joins log lines, from the request to the last retry.';
comment on column relayforge.job_overview.tenant_id is 'The tenant. Narrow by this rather than by its slug: for the newest jobs of a tenant the slug reads those of all.';
grant select on relayforge.job_overview to relayforge_dba;
