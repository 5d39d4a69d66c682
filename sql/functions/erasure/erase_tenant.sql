-- Erases a tenant: suspends it, erases all of its events (see erase_events), removes its secrets, samples of refused
-- bodies and its name. Id and slug stay, so that neither is given to somebody else. In many transactions, so it cannot
-- be called inside one; killed half-way, it is simply called again. p_erased comes back with the number of deliveries.
-- RF404: no such tenant. RF400: no reason.
create procedure relayforge.erase_tenant(
  p_tenant_id uuid,
  p_reason text,
  inout p_erased bigint default null,
  p_actor text default session_user,
  p_now timestamptz default clock_timestamp()
)
language plpgsql
as $$
declare
  c_deadlocks constant integer := 10;
  v_step text;
  v_last uuid;
  v_next uuid;
  v_erased bigint;
  v_deadlocks integer := 0;
begin
  p_erased := 0;
  perform relayforge.erase_tenant_step(p_tenant_id, 'begin', null, p_reason, p_actor, p_now);
  commit;
  -- Ingest that has read the tenant as active is over by then: its role's statement_timeout is 1.5 s.
  perform pg_sleep(2);
  perform relayforge.erase_tenant_step(p_tenant_id, 'wait', null, p_reason, p_actor, p_now);
  commit;
  foreach v_step in array array['events', 'deliveries'] loop
    v_last := null;
    loop
      begin
        select s.last_job_id, s.erased into v_next, v_erased
          from relayforge.erase_tenant_step(p_tenant_id, v_step, v_last, p_reason, p_actor, p_now) s;
        v_deadlocks := 0;
      exception when deadlock_detected then
        -- With the end of a job that was reprocessed meanwhile. It is final now.
        v_deadlocks := v_deadlocks + 1;
        if v_deadlocks > c_deadlocks then
          raise;
        end if;
      end;
      commit;
      continue when v_deadlocks > 0;
      v_last := v_next;
      exit when v_last is null;
      p_erased := p_erased + v_erased;
    end loop;
  end loop;
  perform relayforge.erase_tenant_step(p_tenant_id, 'end', null, p_reason, p_actor, p_now);
end $$;
comment on procedure relayforge.erase_tenant is 'Suspends a tenant and erases its events, secrets, samples and name, in short transactions: not inside one. Killed half-way, call it again. p_erased comes back with the number of deliveries. Audited, with the reason.';
grant execute on procedure relayforge.erase_tenant to relayforge_dba;
