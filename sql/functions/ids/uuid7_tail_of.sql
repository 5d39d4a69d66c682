-- As uuid7_tail, for one row each: made of its key, where a statement can't number its rows. Inlined into its callers.
create function relayforge.uuid7_tail_of(p_seed bigint, p_key uuid)
returns text
language sql immutable parallel safe
as $$
  select to_hex((uuid_hash_extended(p_key, p_seed) & 4611686018427387903) | (-9223372036854775808))
$$;
comment on function relayforge.uuid7_tail_of is 'The last 16 hex digits of a UUIDv7, made of a random seed and a key.';
