-- Writes the messages of all open jobs anew, after the broker has lost them: its data is gone, a queue was deleted or
-- purged, the database was restored to an earlier time. Relays and consumers do it by themselves when they find a queue
-- of theirs missing; nothing tells them of one that was emptied. Harmless at any time: a message too many starts nothing.
-- In short transactions, so it cannot be called inside one; killed half-way, it is simply called again. p_written comes back
-- with the number of messages. Rights of the caller: each step is a function of the owner's.
create procedure relayforge.rebuild_broker(inout p_written bigint default null)
language plpgsql
as $$
declare
  v_last uuid := '00000000-0000-0000-0000-000000000000';
  v_written integer;
begin
  p_written := 0;
  loop
    select s.last_job_id, s.written into v_last, v_written from relayforge.rebuild_broker_step(v_last) s;
    commit;
    p_written := p_written + v_written;
    exit when v_last is null;
  end loop;
  -- What falls due now is nobody's news otherwise.
  perform relayforge.wake_relays();
end $$;
comment on procedure relayforge.rebuild_broker is 'Writes the messages of all open jobs anew, after the broker has lost them, in short transactions: not inside one. Harmless at any time: a message too many starts nothing. p_written comes back with how many were written.';
grant execute on procedure relayforge.rebuild_broker to relayforge_dba;
