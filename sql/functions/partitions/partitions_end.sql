-- From when on nothing can be stored, unless further partitions are made: the earliest of partition_ends. Catalogue only.
create function relayforge.partitions_end(p_now timestamptz default clock_timestamp())
returns timestamptz
language sql stable security definer
set search_path = store, pg_temp
as $$ select min(e.until) from relayforge.partition_ends(p_now) e $$;
comment on function relayforge.partitions_end is 'From when on nothing can be stored, unless further partitions are made: 14 days ahead in a healthy system, now if there is none for now.';
grant execute on function relayforge.partitions_end to relayforge_api, relayforge_relay, relayforge_dba;
