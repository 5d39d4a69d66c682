-- A UUIDv7 for a time of the database's clock.
create function relayforge.uuid7(p_at timestamptz, p_seq integer)
returns uuid
language sql volatile parallel safe
as $$
  select relayforge.uuid7_of(relayforge.uuid7_stamp(p_at), p_seq)
$$;
comment on function relayforge.uuid7 is 'A UUIDv7 of the given time; the sequence (its low 12 bits count) orders ids of one millisecond.';
