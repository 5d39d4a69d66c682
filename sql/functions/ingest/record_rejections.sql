-- Adds up rejections that the API counted in memory since its last call. Rows are taken in key order.
create function relayforge.record_rejections(
  p_causes text[],
  p_sources text[],
  p_tenant_ids uuid[],
  p_counts bigint[],
  p_now timestamptz default clock_timestamp()
)
returns void
language sql security definer
set search_path = store, pg_temp
as $$
  insert into webhook_rejections as r (hour, cause, source, tenant_id, count, last_at)
  select date_trunc('hour', p_now, 'UTC'), i.cause, i.source, i.tenant_id, sum(i.count), p_now
    from unnest(p_causes, p_sources, p_tenant_ids, p_counts) i(cause, source, tenant_id, count)
   group by i.cause, i.source, i.tenant_id
   order by i.cause, i.source, i.tenant_id
  on conflict on constraint webhook_rejections_key do update
     set count = r.count + excluded.count, last_at = greatest(r.last_at, excluded.last_at)
$$;
comment on function relayforge.record_rejections is 'Adds up rejections per hour, cause, source and tenant.';
grant execute on function relayforge.record_rejections to relayforge_api;
