-- Adds up rejections that the API counted in memory since its last call, and keeps one sample a row of what was signed
-- but malformed: the first. Rows are taken in key order. An hour has 10,000 rows at the most, and one more for each
-- cause: whatever would go beyond is counted without tenant and source.
create function relayforge.record_rejections(
  p_causes text[],
  p_sources text[],
  p_tenant_ids uuid[],
  p_counts bigint[],
  p_samples bytea[] default null,
  p_sample_details text[] default null,
  p_now timestamptz default clock_timestamp()
)
returns void
language plpgsql security definer
set search_path = store, pg_temp
as $$
declare
  c_rows_per_hour constant integer := 10000;
  v_hour constant timestamptz := date_trunc('hour', p_now, 'UTC');
  v_full constant boolean :=
    (select count(*) from (select 1 from webhook_rejections r where r.hour = v_hour limit c_rows_per_hour) r) >= c_rows_per_hour;
begin
  insert into webhook_rejections as r (hour, cause, source, tenant_id, count, last_at, sample, sample_detail)
  select v_hour, i.cause, k.source, k.tenant_id, sum(i.count), p_now,
         (array_agg(substring(i.sample for 4096)) filter (where i.sample is not null and k.sampled))[1],
         (array_agg(left(i.sample_detail, 300)) filter (where i.sample is not null and k.sampled))[1]
    from unnest(p_causes, p_sources, p_tenant_ids, p_counts, p_samples, p_sample_details)
           i(cause, source, tenant_id, count, sample, sample_detail)
   cross join lateral (
     select v_full and not exists (
              select 1 from webhook_rejections e
               where e.hour = v_hour and e.cause = i.cause and e.source = i.source
                 and e.tenant_id is not distinct from i.tenant_id) as folded
   ) f
   cross join lateral (
     select case when f.folded then '' else i.source end as source, case when not f.folded then i.tenant_id end as tenant_id,
            -- None of a tenant that was suspended, and perhaps erased, since the API last looked.
            not f.folded and exists (select 1 from tenants t where t.id = i.tenant_id and t.status = 'active') as sampled
   ) k
   group by i.cause, k.source, k.tenant_id
   order by i.cause, k.source, k.tenant_id
  on conflict on constraint webhook_rejections_key do update
     set count = r.count + excluded.count,
         last_at = greatest(r.last_at, excluded.last_at),
         sample_detail = case when r.sample is null then excluded.sample_detail else r.sample_detail end,
         sample = coalesce(r.sample, excluded.sample);
end $$;
comment on function relayforge.record_rejections is 'Adds up rejections per hour, cause, source and tenant, with one sample of what was signed but malformed.';
grant execute on function relayforge.record_rejections to relayforge_api;
