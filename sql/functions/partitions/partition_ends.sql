-- From when on each of the three tables can store nothing, unless further partitions are made: the end of its unbroken run
-- of partitions from now. Now itself if there is none for now. Catalogue only.
create function relayforge.partition_ends(p_now timestamptz default clock_timestamp())
returns table (parent text, until timestamptz)
language sql stable security definer
set search_path = store, pg_temp
as $$
  with recursive covered as (
    select t.parent, p_now as until
      from unnest(array['webhook_inbox', 'jobs', 'job_log']) t(parent)
     union
    select c.parent, p.to_at
      from covered c
      join relayforge.list_partitions() p on p.parent = c.parent and p.from_at <= c.until and p.to_at > c.until
  )
  select c.parent, max(c.until) from covered c group by c.parent
$$;
comment on function relayforge.partition_ends is 'From when on each of webhook_inbox, jobs and job_log can store nothing, unless further partitions are made.';
grant execute on function relayforge.partition_ends to relayforge_dba;
