-- Open jobs that nothing seems to move: leases that ran out long enough ago for the sweeper to have come by, and jobs
-- that were due five minutes ago. One pass over open_jobs, and over the outbox for those that are overdue. A job that was
-- held and released while its message waited has two messages: the one that fares worse is shown.
create view relayforge.stuck_jobs as
select distinct on (o.job_id)
       o.job_id,
       t.slug as tenant,
       o.state,
       o.attempt,
       s.since,
       case
         when o.state = 'processing' then 'its lease ran out and no sweeper came'
         when b.id is null then 'published, but no consumer started it'
         when b.last_error is null then 'not published yet'
         else 'not published: ' || b.last_error
       end as why
  from store.open_jobs o
 cross join lateral (select case o.state when 'processing' then o.lease_until else o.due_at end as since) s
  left join store.tenants t on t.id = o.tenant_id
  left join store.outbox_messages b on b.job_id = o.job_id and b.attempt = o.attempt and b.target in ('jobs', 'retries')
 where (o.state = 'processing' and o.lease_until < statement_timestamp() - interval '10 seconds')
    or (o.state <> 'processing' and o.due_at < statement_timestamp() - interval '5 minutes')
 order by o.job_id, b.attempts desc nulls last;
comment on view relayforge.stuck_jobs is 'Open jobs that nothing seems to move, with what they wait for. Empty in a healthy system without a backlog.';
comment on column relayforge.stuck_jobs.job_id is 'The job.';
comment on column relayforge.stuck_jobs.tenant is 'The tenant''s slug.';
comment on column relayforge.stuck_jobs.state is 'queued, processing, retrying or held.';
comment on column relayforge.stuck_jobs.attempt is 'Its current attempt.';
comment on column relayforge.stuck_jobs.since is 'When its lease ran out, or when it was due.';
comment on column relayforge.stuck_jobs.why is 'What it waits for.';
grant select on relayforge.stuck_jobs to relayforge_dba;
