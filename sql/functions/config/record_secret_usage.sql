-- Adds up how many webhooks each secret version has verified since the last call.
create function relayforge.record_secret_usage(p_secret_ids uuid[], p_uses bigint[], p_now timestamptz default clock_timestamp())
returns void
language sql security definer
set search_path = store, pg_temp
as $$
  insert into secret_usage as u (secret_id, uses, last_used_at)
  select i.secret_id, sum(i.uses), p_now
    from unnest(p_secret_ids, p_uses) i(secret_id, uses)
    join tenant_provider_secrets s on s.id = i.secret_id
   group by i.secret_id
   order by i.secret_id
  on conflict (secret_id) do update set uses = u.uses + excluded.uses, last_used_at = greatest(u.last_used_at, excluded.last_used_at)
$$;
comment on function relayforge.record_secret_usage is 'Adds up how many webhooks each secret version has verified.';
grant execute on function relayforge.record_secret_usage to relayforge_api;
