-- The key of an advisory lock of ours. It is this database's own, so that no other login can take it by name and keep
-- upkeep, sweeps or sealing from being done. Not granted to anybody.
create function relayforge.lock_key(p_name text)
returns bigint
language sql stable
set search_path = store, pg_temp
as $$ select hashtextextended('relayforge.' || p_name, u.lock_seed) from upkeep u $$;
comment on function relayforge.lock_key is 'The key of an advisory lock of ours, which no other login knows.';
