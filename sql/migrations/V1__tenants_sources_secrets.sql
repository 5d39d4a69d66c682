-- Who may send, and how what they send is verified. Small tables, cached whole by the API.

create table store.tenants (
  id uuid not null,
  slug text not null,
  name text not null,
  status text not null default 'active',
  daily_quota bigint,
  rate_per_second integer,
  rate_burst integer,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint tenants_pkey primary key (id),
  constraint tenants_slug_key unique (slug),
  constraint tenants_slug_form check (slug ~ '^[a-z0-9_-]{1,63}$'),
  constraint tenants_name_length check (length(name) between 1 and 200),
  constraint tenants_status_known check (status in ('active', 'suspended')),
  constraint tenants_daily_quota_positive check (daily_quota >= 0),
  constraint tenants_rate_positive check (rate_per_second > 0 and rate_burst > 0)
);
comment on table store.tenants is 'The customers whose webhooks are taken in. Addressed by id or slug.';
comment on column store.tenants.id is 'UUIDv7, or the all-zero default tenant.';
comment on column store.tenants.slug is 'Name in URLs and routing keys, 1-63 of [a-z0-9_-].';
comment on column store.tenants.name is 'Name for people.';
comment on column store.tenants.status is 'active, or suspended: its webhooks are answered 403.';
comment on column store.tenants.daily_quota is 'New events accepted per UTC day; null means HARDENING__TENANT_DAILY_QUOTA.';
comment on column store.tenants.rate_per_second is 'Signed requests per second; null means HARDENING__TENANT_RATE_LIMIT_PER_SECOND.';
comment on column store.tenants.rate_burst is 'Signed requests at once; null means HARDENING__TENANT_RATE_LIMIT_BURST.';
comment on column store.tenants.created_at is 'When the tenant was made.';
comment on column store.tenants.updated_at is 'When the tenant was last changed.';

-- The tenant of requests that name none (TENANT__DEFAULT_ID), and the only one that secrets from the environment serve.
insert into store.tenants (id, slug, name) values ('00000000-0000-0000-0000-000000000000', 'default', 'Default tenant');

create table store.sources (
  name text not null,
  kind text not null,
  dedup text not null default 'event_id_or_hash',
  replay_policy text not null default 'absorb',
  job_kind text not null default 'log',
  fanout boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint sources_pkey primary key (name),
  constraint sources_name_form check (name ~ '^[a-z0-9_-]{1,63}$'),
  constraint sources_kind_known check (kind in ('generic', 'github', 'stripe')),
  constraint sources_dedup_known check (dedup in ('event_id', 'event_id_or_hash', 'none')),
  constraint sources_replay_policy_known check (replay_policy in ('reject', 'reject_all', 'absorb')),
  constraint sources_replay_needs_dedup check (dedup <> 'none' or replay_policy = 'absorb'),
  constraint sources_job_kind_form check (job_kind ~ '^[a-z0-9_.-]{1,63}$')
);
comment on table store.sources is 'The {source} of POST /webhooks/{source}: how a webhook is verified, deduplicated and turned into a job.';
comment on column store.sources.name is 'Name in URLs, 1-63 of [a-z0-9_-].';
comment on column store.sources.kind is 'Signature scheme and payload form: generic (X-Signature), github (X-Hub-Signature-256) or stripe (Stripe-Signature).';
comment on column store.sources.dedup is 'event_id: the provider event id is required; event_id_or_hash: the hash of the body stands in for it; none: each delivery is an event.';
comment on column store.sources.replay_policy is 'reject: a known event is a replay unless its signature is newer; reject_all: always; absorb: never, it is a duplicate.';
comment on column store.sources.job_kind is 'The consumer handler that its jobs run.';
comment on column store.sources.fanout is 'Whether each new event is also published to the topic exchange <prefix>.events.';
comment on column store.sources.created_at is 'When the source was made.';
comment on column store.sources.updated_at is 'When the source was last changed.';

insert into store.sources (name, kind, dedup, replay_policy) values
  ('generic', 'generic', 'event_id_or_hash', 'absorb'),
  ('github', 'github', 'event_id_or_hash', 'absorb'),
  ('stripe', 'stripe', 'event_id', 'reject');

create table store.tenant_provider_secrets (
  id uuid not null,
  tenant_id uuid not null,
  source text not null,
  ciphertext bytea not null,
  master_key_id text not null,
  created_at timestamptz not null default clock_timestamp(),
  retired_at timestamptz,
  constraint tenant_provider_secrets_pkey primary key (id),
  constraint tenant_provider_secrets_tenant_fkey foreign key (tenant_id) references store.tenants (id),
  constraint tenant_provider_secrets_source_fkey foreign key (source) references store.sources (name),
  constraint tenant_provider_secrets_ciphertext_length check (length(ciphertext) between 29 and 4096),
  constraint tenant_provider_secrets_master_key_id_form check (master_key_id ~ '^[0-9a-f]{16}$')
);
create index tenant_provider_secrets_tenant_id_source_idx on store.tenant_provider_secrets (tenant_id, source);
comment on table store.tenant_provider_secrets is 'Signing secrets, sealed. Several versions may be valid at once while one is rotated out.';
comment on column store.tenant_provider_secrets.id is 'UUIDv7; the newest of a (tenant, source) is the current version.';
comment on column store.tenant_provider_secrets.tenant_id is 'Whose secret it is.';
comment on column store.tenant_provider_secrets.source is 'Whose webhooks it verifies.';
comment on column store.tenant_provider_secrets.ciphertext is 'AES-256-GCM: 12 bytes nonce, then ciphertext and tag; bound to tenant, source and id as associated data.';
comment on column store.tenant_provider_secrets.master_key_id is 'First 8 bytes of SHA-256 of the master key that sealed it, in hex.';
comment on column store.tenant_provider_secrets.created_at is 'When the version was added.';
comment on column store.tenant_provider_secrets.retired_at is 'From when on it verifies nothing; null while it is valid.';

-- Every cache of these tables listens; a change is live within a second, also one made from psql.
create function store.notify_config_change() returns trigger language plpgsql
set search_path = store, pg_temp as $$
begin
  perform pg_notify('relayforge_config', tg_table_name);
  return null;
end $$;
comment on function store.notify_config_change is 'Tells the services that tenants, sources or secrets have changed.';
create trigger tenants_changed after insert or update or delete or truncate on store.tenants
  for each statement execute function store.notify_config_change();
create trigger sources_changed after insert or update or delete or truncate on store.sources
  for each statement execute function store.notify_config_change();
create trigger tenant_provider_secrets_changed after insert or update or delete or truncate on store.tenant_provider_secrets
  for each statement execute function store.notify_config_change();
