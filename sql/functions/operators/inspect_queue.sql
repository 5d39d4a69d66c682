-- What makes queues slow, for the view queue_health: dead rows, and the oldest snapshot that keeps them from being
-- vacuumed. With the owner's rights (pg_read_all_stats), because others may not see whose snapshot it is; nothing of
-- anybody's query text comes out.
create function relayforge.inspect_queue()
returns table (
  outbox_dead_rows bigint, outbox_vacuumed_at timestamptz, open_jobs_dead_rows bigint, open_jobs_vacuumed_at timestamptz,
  snapshot_age_xids integer, snapshot_since timestamptz, snapshot_holder text, notify_queue_usage double precision
)
language sql stable security definer
set search_path = store, pg_temp
as $$
  with holders as (
    select age(a.backend_xmin) as xids, a.xact_start as since,
           format(case a.backend_type when 'walsender' then 'standby %2$s, pid %1$s' else 'pid %s, %s, %s, %s' end,
                  a.pid, coalesce(nullif(a.application_name, ''), 'no name'),
                  coalesce(a.usename, '-'), coalesce(a.state, a.backend_type)) as holder
      from pg_stat_activity a
     where a.backend_xmin is not null and a.pid <> pg_backend_pid()
       -- A standby with hot_standby_feedback belongs to no database and holds for all.
       and (a.datname = current_database() or a.datname is null)
     union all
    select age(p.transaction), p.prepared, 'prepared transaction ' || p.gid
      from pg_prepared_xacts p
     where p.database = current_database()
     union all
    select greatest(age(s.xmin), age(s.catalog_xmin)), null, 'replication slot ' || s.slot_name
      from pg_replication_slots s
     where s.xmin is not null or s.catalog_xmin is not null
  ), oldest as (
    select h.* from holders h order by h.xids desc, h.since limit 1
  )
  select o.n_dead_tup, greatest(o.last_vacuum, o.last_autovacuum), j.n_dead_tup, greatest(j.last_vacuum, j.last_autovacuum),
         s.xids, s.since, s.holder, pg_notification_queue_usage()
    from pg_stat_user_tables o
    join pg_stat_user_tables j on j.relid = 'open_jobs'::regclass
    left join oldest s on true
   where o.relid = 'outbox_messages'::regclass
$$;
comment on function relayforge.inspect_queue is 'Dead rows of outbox and open_jobs, the oldest snapshot and who holds it, use of the NOTIFY queue. No query texts.';
grant execute on function relayforge.inspect_queue to relayforge_dba;
