-- Partitions for the last thirty days, made by the function that makes them in production. It goes on from the newest
-- one, so the empty ones that the migrator made have to go first.
do $$
declare
  v_partition text;
begin
  for v_partition in select p.partition from relayforge.list_partitions() p loop
    execute format('drop table store.%I', v_partition);
  end loop;
  perform relayforge.ensure_partitions('day', 44, clock_timestamp() - interval '30 days');
end $$;
