-- From when on nothing can be stored, unless further partitions are made: the earliest end of the three tables' unbroken
-- run of partitions from now. Now itself if there is none for now. Catalogue only.
create function relayforge.partitions_end(p_now timestamptz default clock_timestamp())
returns timestamptz
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
  select min(u.until) from (select max(c.until) as until from covered c group by c.parent) u
$$;
comment on function relayforge.partitions_end is 'From when on nothing can be stored, unless further partitions are made: 14 days ahead in a healthy system, now if there is none for now.';
grant execute on function relayforge.partitions_end to relayforge_api, relayforge_relay, relayforge_dba;
