-- Each tenant's quota of today, and its traffic of the last hour (from the rollup per minute).
create view relayforge.tenant_usage as
select t.slug as tenant,
       t.id as tenant_id,
       t.status,
       d.day,
       coalesce(u.used, 0) as used,
       coalesce(t.daily_quota, k.default_daily_quota) as daily_quota,
       greatest(coalesce(t.daily_quota, k.default_daily_quota) - coalesce(u.used, 0), 0) as remaining,
       t.quota_policy,
       coalesce(m.accepted, 0) as accepted_last_hour,
       coalesce(m.duplicates, 0) as duplicates_last_hour,
       coalesce(m.succeeded, 0) as succeeded_last_hour,
       coalesce(m.retried, 0) as retried_last_hour,
       coalesce(m.dead_lettered, 0) as dead_lettered_last_hour
  from store.tenants t
 cross join store.upkeep k
 cross join lateral (select (statement_timestamp() at time zone 'UTC')::date as day) d
  left join store.tenant_daily_quota_usage u on u.tenant_id = t.id and u.day = d.day
  left join (
    select q.tenant_id,
           sum(q.count) filter (where q.what = 'accepted') as accepted,
           sum(q.count) filter (where q.what = 'duplicate') as duplicates,
           sum(q.count) filter (where q.what = 'succeeded') as succeeded,
           sum(q.count) filter (where q.what = 'retried') as retried,
           sum(q.count) filter (where q.what = 'dead_lettered') as dead_lettered
      from store.traffic_minutes q
     where q.minute > statement_timestamp() - interval '1 hour'
     group by q.tenant_id
  ) m on m.tenant_id = t.id;
comment on view relayforge.tenant_usage is 'Each tenant''s quota of this UTC day, and its traffic of the last hour.';
comment on column relayforge.tenant_usage.tenant is 'The tenant''s slug.';
comment on column relayforge.tenant_usage.tenant_id is 'The tenant''s id.';
comment on column relayforge.tenant_usage.status is 'active or suspended.';
comment on column relayforge.tenant_usage.day is 'The UTC day.';
comment on column relayforge.tenant_usage.used is 'New events accepted that day. Above the quota where some are held.';
comment on column relayforge.tenant_usage.daily_quota is 'The tenant''s quota, or the default that the API was last configured with.';
comment on column relayforge.tenant_usage.remaining is 'New events that are accepted without being held until UTC midnight.';
comment on column relayforge.tenant_usage.quota_policy is 'What becomes of events over the quota: reject or hold.';
comment on column relayforge.tenant_usage.accepted_last_hour is 'New events of the last hour. A service that is killed loses the counts of its last second.';
comment on column relayforge.tenant_usage.duplicates_last_hour is 'Duplicates of the last hour.';
comment on column relayforge.tenant_usage.succeeded_last_hour is 'Runs of the last hour that succeeded.';
comment on column relayforge.tenant_usage.retried_last_hour is 'Runs of the last hour that failed and are tried again.';
comment on column relayforge.tenant_usage.dead_lettered_last_hour is 'Jobs that a run''s failure gave up in the last hour.';
grant select on relayforge.tenant_usage to relayforge_dba;
