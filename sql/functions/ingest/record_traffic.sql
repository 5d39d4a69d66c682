-- Adds up what a service counted in memory since its last call: deliveries (accepted, duplicate) and runs (succeeded,
-- retried, dead_lettered) of the present minute. Rows are taken in key order.
create function relayforge.record_traffic(
  p_tenant_ids uuid[],
  p_sources text[],
  p_whats text[],
  p_counts bigint[],
  p_now timestamptz default clock_timestamp()
)
returns void
language sql security definer
set search_path = store, pg_temp
as $$
  insert into traffic_minutes as m (minute, tenant_id, source, what, count)
  select date_trunc('minute', p_now), i.tenant_id, i.source, i.what, sum(i.count)
    from unnest(p_tenant_ids, p_sources, p_whats, p_counts) i(tenant_id, source, what, count)
   group by i.tenant_id, i.source, i.what
   order by i.tenant_id, i.source, i.what
  on conflict (minute, tenant_id, source, what) do update set count = m.count + excluded.count
$$;
comment on function relayforge.record_traffic is 'Adds up deliveries and runs per minute, tenant and source.';
grant execute on function relayforge.record_traffic to relayforge_api, relayforge_consumer;
