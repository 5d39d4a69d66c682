-- Jobs that were given up and not reprocessed since.
create view relayforge.dead_letters as
select d.job_id,
       t.slug as tenant,
       d.source,
       j.event_type,
       d.cause,
       d.dead_at,
       j.attempts,
       j.last_error,
       j.event_id,
       j.correlation_id
  from store.dead_jobs d
  -- One row at the most, which PostgreSQL 15 does not see of a partitioned table by itself: a query that asks for none of
  -- its columns, such as a count by cause, is then spared the join with all jobs.
  left join lateral (
    select distinct on (b.id) b.id, b.event_id, b.event_type, b.attempts, b.last_error, b.correlation_id
      from store.jobs b
     where b.id = d.job_id
  ) j on j.id = d.job_id
  left join store.tenants t on t.id = d.tenant_id;
comment on view relayforge.dead_letters is 'Jobs that were given up and not reprocessed since. Order by dead_at, narrow by tenant.';
comment on column relayforge.dead_letters.job_id is 'The job: what relayforge.reprocess_jobs takes.';
comment on column relayforge.dead_letters.tenant is 'The tenant''s slug.';
comment on column relayforge.dead_letters.source is 'The source.';
comment on column relayforge.dead_letters.event_type is 'What happened, in the provider''s words.';
comment on column relayforge.dead_letters.cause is 'permanent: the handler said so; exhausted: no attempts left; poison: runs kept ending without an outcome; expired: its event was about to be dropped; unpublishable: no message can be made of it.';
comment on column relayforge.dead_letters.dead_at is 'When it was given up.';
comment on column relayforge.dead_letters.attempts is 'Runs that were started.';
comment on column relayforge.dead_letters.last_error is 'What the last failed run said.';
comment on column relayforge.dead_letters.event_id is 'Its event: see event_timeline.';
comment on column relayforge.dead_letters.correlation_id is 'Joins log lines.';
grant select on relayforge.dead_letters to relayforge_dba;
