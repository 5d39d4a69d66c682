-- A random seed for the ids of one batch (uuid7_tail). Inlined into its callers.
create function relayforge.uuid7_seed()
returns bigint
language sql volatile parallel safe
as $$ select hashtextextended(gen_random_uuid()::text, 0) $$;
comment on function relayforge.uuid7_seed is 'A random seed for the ids of one batch.';
