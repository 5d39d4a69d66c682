-- All sources, for the API's cache.
create function relayforge.load_sources()
returns table (name text, kind text, dedup text, replay_policy text)
language sql stable security definer
set search_path = store, pg_temp
as $$
  select s.name, s.kind, s.dedup, s.replay_policy from sources s
$$;
comment on function relayforge.load_sources is 'All sources, for the API''s cache.';
grant execute on function relayforge.load_sources to relayforge_api;
