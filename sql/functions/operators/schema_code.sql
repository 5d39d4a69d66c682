-- Which migrations and which code this database has. Services compare the epoch with their own before they are ready.
create function relayforge.schema_code()
returns table (epoch integer, fingerprint text, migration integer)
language sql stable security definer
set search_path = store, pg_temp
as $$
  select (regexp_match(c.comment, 'epoch ([0-9]+)'))[1]::integer,
         (regexp_match(c.comment, 'fingerprint ([0-9a-f]+)'))[1],
         (select max(h.version) from refinery_schema_history h)
    from (select obj_description('relayforge'::regnamespace, 'pg_namespace') as comment) c
$$;
comment on function relayforge.schema_code is 'The code epoch and fingerprint (from the comment of schema relayforge) and the newest migration.';
grant execute on function relayforge.schema_code to relayforge_api, relayforge_relay, relayforge_consumer, relayforge_dba;
