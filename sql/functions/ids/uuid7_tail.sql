-- The last 16 hex digits of a UUIDv7: its variant and 62 bits that look random, the same for the same seed and number. A batch
-- draws one random seed and hashes it with each number, because a draw from the system's generator for each id costs more
-- than all else about it. Inlined into its callers.
create function relayforge.uuid7_tail(p_seed bigint, p_number integer)
returns text
language sql immutable parallel safe
as $$
  select to_hex((hashint4extended(p_number, p_seed) & 4611686018427387903) | (-9223372036854775808))
$$;
comment on function relayforge.uuid7_tail is 'The last 16 hex digits of a UUIDv7, made of a random seed and a number.';
