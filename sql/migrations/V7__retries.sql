-- Work that comes back travels apart from fresh work; how often and how soon is data; any process may sweep.

-- Whatever is in there satisfies the narrower check, so there is nothing to scan for.
alter table store.outbox_messages
  drop constraint outbox_messages_target_known,
  add constraint outbox_messages_target_known check (target in ('jobs', 'retries', 'events', 'dlq')) not valid;
comment on column store.outbox_messages.target is 'jobs: the queue of fresh work; retries: the queue of work that comes back (retried, reprocessed, or held before), so that a mass of it delays nothing new; events: the topic exchange for others; dlq: the copy of a job that was given up.';

alter table store.outbox_messages add column refused_since timestamptz;
comment on column store.outbox_messages.refused_since is 'Since when the broker has refused it (nacked, unroutable); null while it has not. How long it waits before it is tried again grows with this, and a stranger''s queue has an hour.';
comment on column store.outbox_messages.attempts is 'Times that publishing it failed, for whatever reason.';

alter table store.open_jobs add column max_starts smallint not null default 5;
comment on column store.open_jobs.max_starts is 'How many runs in a row may end without an outcome, as the consumer of the last run has it: whoever sweeps need not know.';

create unlogged table store.sweeps (
  singleton boolean not null default true,
  swept_at timestamptz not null,
  resumed_at timestamptz not null,
  constraint sweeps_pkey primary key (singleton),
  constraint sweeps_one_row check (singleton)
) with (fillfactor = 50);
comment on table store.sweeps is 'When leases were last swept, so that many processes together do not look more often than one would. Unlogged: after a crash the next one looks. At most one row.';
comment on column store.sweeps.singleton is 'Always true: there is one row at most.';
comment on column store.sweeps.swept_at is 'When the last sweep began.';
comment on column store.sweeps.resumed_at is 'When sweeping began again after a while without: the database was away, or its clock has jumped. Runs that are alive renew their leases first.';

create table store.retry_policies (
  tenant_id uuid,
  source text,
  max_attempts smallint,
  backoff_base interval,
  backoff_cap interval,
  jitter double precision,
  updated_at timestamptz not null default clock_timestamp(),
  constraint retry_policies_key unique nulls not distinct (tenant_id, source),
  constraint retry_policies_tenant_fkey foreign key (tenant_id) references store.tenants (id),
  constraint retry_policies_source_fkey foreign key (source) references store.sources (name),
  constraint retry_policies_max_attempts_bounds check (max_attempts between 1 and 1000),
  constraint retry_policies_backoff_base_bounds check (backoff_base between '1 millisecond' and '1 hour'),
  constraint retry_policies_backoff_cap_bounds check (backoff_cap between '1 millisecond' and '1 day'),
  constraint retry_policies_cap_not_below_base check (backoff_cap >= backoff_base),
  constraint retry_policies_jitter_bounds check (jitter between 0 and 1),
  constraint retry_policies_says_something check (
    num_nonnulls(max_attempts, backoff_base, backoff_cap, jitter) > 0)
);
comment on table store.retry_policies is 'How often and how soon failed jobs are tried again, where it differs from what the consumers are configured with. What a row leaves null is looked for in the next wider one: tenant and source, tenant, source, everybody; then the consumer''s own.';
comment on column store.retry_policies.tenant_id is 'The tenant; null for all.';
comment on column store.retry_policies.source is 'The source; null for all.';
comment on column store.retry_policies.max_attempts is 'Attempts in all, the first included.';
comment on column store.retry_policies.backoff_base is 'Wait before the second attempt; it doubles with each further one.';
comment on column store.retry_policies.backoff_cap is 'The longest wait.';
comment on column store.retry_policies.jitter is 'Share of the wait that is left to chance: 0 waits exactly, 0.5 between half and all of it, 1 anything up to it.';
comment on column store.retry_policies.updated_at is 'When the row was last written.';
