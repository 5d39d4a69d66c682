-- Drops the oldest partition that is past its retention, if there is one, and returns its name; null if nothing is due.
-- One a transaction, because DROP takes ACCESS EXCLUSIVE on the parent: ingest waits behind it for as long as it waits
-- for the readers, which lock_timeout bounds (55P03: try again later).
-- A partition stays while a job that is open may still need it. Only those of p_parents. Not granted to anybody.
create function relayforge.drop_old_partition(p_inbox_days integer, p_jobs_days integer, p_parents text[], p_now timestamptz)
returns text
language plpgsql
set search_path = store, pg_temp
set lock_timeout = '100ms'
as $$
declare
  v_partition text;
begin
  select p.partition into v_partition
    from relayforge.list_partitions() p
   where p.to_at <= p_now - make_interval(days => case p.parent when 'webhook_inbox' then p_inbox_days else p_jobs_days end)
     and not exists (select 1 from open_jobs o where o.job_id < relayforge.uuid7_floor(p.to_at))
     and p.parent = any (p_parents)
   order by p.to_at, p.parent
   limit 1;
  if v_partition is not null then
    execute format('drop table store.%I', v_partition);
  end if;
  return v_partition;
end $$;
comment on function relayforge.drop_old_partition is 'Drops the oldest partition that is past its retention and returns its name; null if nothing is due.';
