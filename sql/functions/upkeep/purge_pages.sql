-- Deletes expired rows from the next p_pages pages of a table that has no index on time, and moves its position on.
-- Expired is what an event id older than p_floor (p_hash_floor for keys that are hashes) stands on. Returns whether
-- the pass has come to its end. A row that ingest has locked is left for the next pass: it is about to be taken over.
-- Not granted to anybody.
create function relayforge.purge_pages(p_relation text, p_pages integer, p_floor uuid, p_hash_floor uuid, p_now timestamptz)
returns boolean
language plpgsql
set search_path = store, pg_temp
as $$
declare
  v_end constant bigint := pg_relation_size(format('store.%I', p_relation)::regclass) / current_setting('block_size')::bigint;
  v_page bigint;
begin
  insert into purge_positions (relation, page) values (p_relation, 0) on conflict do nothing;
  select p.page into v_page from purge_positions p where p.relation = p_relation for no key update;
  execute format(
    'delete from store.%1$I where ctid = any (array(
       select ctid from store.%1$I
        where ctid >= ''(%2$s,0)''::tid and ctid < ''(%3$s,0)''::tid and %4$s
          for update skip locked))',
    p_relation, v_page, v_page + p_pages,
    case when p_relation like 'dedup_ledger%' then 'event_id < case when by_hash then $2 else $1 end' else 'event_id < $1' end)
    using p_floor, p_hash_floor;
  if v_page + p_pages < v_end then
    update purge_positions p set page = v_page + p_pages where p.relation = p_relation;
    return false;
  end if;
  update purge_positions p set page = 0, pass_ended_at = p_now where p.relation = p_relation;
  return true;
end $$;
comment on function relayforge.purge_pages is 'Deletes expired rows from the next pages of a table without an index on time; returns whether that ended the pass.';
