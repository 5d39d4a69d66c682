-- Jobs that were given up and not reprocessed since.
-- What the job itself says of them is asked for column by column, not in a join: the newest 100 are then looked up once
-- they are known, and a count by cause looks up nothing. (PostgreSQL 15 joins all that it is about to sort away.)
create view relayforge.dead_letters as
select d.job_id,
       t.slug as tenant,
       d.source,
       (select j.event_type from store.jobs j where j.id = d.job_id) as event_type,
       d.cause,
       d.dead_at,
       (select j.attempts from store.jobs j where j.id = d.job_id) as attempts,
       (select j.last_error from store.jobs j where j.id = d.job_id) as last_error,
       (select j.event_id from store.jobs j where j.id = d.job_id) as event_id,
       (select j.correlation_id from store.jobs j where j.id = d.job_id) as correlation_id
  from store.dead_jobs d
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
