-- The partitions of inbox, jobs and their log, with the times between which their ids lie. Reads the catalogue only.
create function relayforge.list_partitions()
returns table (parent text, partition text, from_at timestamptz, to_at timestamptz, rows bigint, bytes bigint)
language sql stable security definer
set search_path = store, pg_temp
as $$
  select p.relname::text, c.relname::text,
         relayforge.uuid7_time(b.bounds[1]::uuid), relayforge.uuid7_time(b.bounds[2]::uuid),
         greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    join pg_class p on p.oid = i.inhparent
   cross join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') b(bounds)
   where p.relnamespace = 'store'::regnamespace
     and p.relname in ('webhook_inbox', 'jobs', 'job_log')
     and b.bounds is not null
$$;
comment on function relayforge.list_partitions is 'The partitions of webhook_inbox, jobs and job_log: the times between which their ids lie, rows (estimated) and bytes with indexes.';
grant execute on function relayforge.list_partitions to relayforge_dba;
