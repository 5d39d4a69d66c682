-- The partitions, when each is dropped, and when the table runs out of them. Catalogue only.
create view relayforge.partition_health as
select p.parent as table_name,
       p.partition,
       p.from_at,
       p.to_at,
       case when p.to_at <= statement_timestamp() then 'past' when p.from_at > statement_timestamp() then 'ahead' else 'current' end as state,
       p.rows,
       p.bytes,
       p.to_at + make_interval(days => case p.parent when 'webhook_inbox' then k.inbox_days else k.jobs_days end) as dropped_from,
       e.until as runs_out_at
  from relayforge.list_partitions() p
  join relayforge.partition_ends() e on e.parent = p.parent
 cross join store.upkeep k;
comment on view relayforge.partition_health is 'The partitions of webhook_inbox, jobs and job_log: sizes, when each may be dropped, and when its table runs out of them.';
comment on column relayforge.partition_health.table_name is 'The partitioned table, in schema store.';
comment on column relayforge.partition_health.partition is 'The partition.';
comment on column relayforge.partition_health.from_at is 'Ids from this time on are in it.';
comment on column relayforge.partition_health.to_at is 'Ids from this time on are not.';
comment on column relayforge.partition_health.state is 'past, current or ahead.';
comment on column relayforge.partition_health.rows is 'Rows, as last estimated.';
comment on column relayforge.partition_health.bytes is 'Size with indexes and TOAST.';
comment on column relayforge.partition_health.dropped_from is 'From when on upkeep may drop it.';
comment on column relayforge.partition_health.runs_out_at is 'From when on nothing can be stored, unless further partitions are made: the end of the unbroken run from now, 14 days ahead in a healthy system.';
grant select on relayforge.partition_health to relayforge_dba;
