-- One row: what slows queues down, and how far behind they are.
create view relayforge.queue_health as
select q.outbox_dead_rows,
       q.outbox_vacuumed_at,
       q.open_jobs_dead_rows,
       q.open_jobs_vacuumed_at,
       q.snapshot_age_xids,
       statement_timestamp() - q.snapshot_since as snapshot_age,
       q.snapshot_holder,
       b.oldest_due_at as outbox_oldest_due_at,
       greatest(statement_timestamp() - b.oldest_due_at, '0') as outbox_lag,
       l.processing,
       l.oldest_lease_until,
       greatest(statement_timestamp() - l.oldest_lease_until, '0') as lease_overdue,
       q.notify_queue_usage,
       u.last_run_at as upkeep_at
  from relayforge.inspect_queue() q
 cross join lateral (
   select min(f.next_attempt_at) as oldest_due_at
     from unnest(array['jobs', 'retries', 'events', 'dlq']) t(target)
    cross join lateral (
      select o.next_attempt_at from store.outbox_messages o where o.target = t.target order by o.next_attempt_at limit 1
    ) f
 ) b
 cross join lateral (
   select count(*) as processing, min(o.lease_until) as oldest_lease_until
     from store.open_jobs o
    where o.state = 'processing'
 ) l
 cross join store.upkeep u;
comment on view relayforge.queue_health is 'What slows the queues down: dead rows, the oldest snapshot and who holds it, overdue leases, the NOTIFY queue. One row.';
comment on column relayforge.queue_health.outbox_dead_rows is 'Dead rows of outbox_messages that vacuum has not removed.';
comment on column relayforge.queue_health.outbox_vacuumed_at is 'When outbox_messages was last vacuumed.';
comment on column relayforge.queue_health.open_jobs_dead_rows is 'Dead rows of open_jobs that vacuum has not removed.';
comment on column relayforge.queue_health.open_jobs_vacuumed_at is 'When open_jobs was last vacuumed.';
comment on column relayforge.queue_health.snapshot_age_xids is 'Transactions since the oldest snapshot: what died since cannot be vacuumed.';
comment on column relayforge.queue_health.snapshot_age is 'For how long that transaction has been open; null for a standby or a replication slot.';
comment on column relayforge.queue_health.snapshot_holder is 'Who holds it: a session, a standby with hot_standby_feedback, a prepared transaction or a replication slot.';
comment on column relayforge.queue_health.outbox_oldest_due_at is 'When the oldest message of the outbox was or will be due.';
comment on column relayforge.queue_health.outbox_lag is 'For how long it has been due.';
comment on column relayforge.queue_health.processing is 'Jobs under way.';
comment on column relayforge.queue_health.oldest_lease_until is 'The lease that ends or ended first.';
comment on column relayforge.queue_health.lease_overdue is 'For how long it has been over; beyond a few seconds no sweeper is running.';
comment on column relayforge.queue_health.notify_queue_usage is 'Share of the server''s NOTIFY queue in use, 0 to 1; at 1, commits that notify fail.';
comment on column relayforge.queue_health.upkeep_at is 'When upkeep last began: every minute, as long as an API or a relay runs.';
grant select on relayforge.queue_health to relayforge_dba;
