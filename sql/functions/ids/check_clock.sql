-- Lets p_now be another time than the clock's for the owner alone: it is the tests' clock, and with it partitions of any
-- time could be made, and what is still kept be dropped. RF400. Not granted to anybody.
create function relayforge.check_clock(p_now timestamptz)
returns void
language plpgsql stable
set search_path = store, pg_temp
as $$
begin
  if p_now is null
     or (p_now not between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute'
         and not pg_has_role(session_user, 'relayforge_owner', 'member')) then
    raise exception 'it is not %: only the owner may say so', coalesce(p_now::text, 'null') using errcode = 'RF400';
  end if;
end $$;
comment on function relayforge.check_clock is 'Lets p_now be another time than the clock''s for the owner alone.';
