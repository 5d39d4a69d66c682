-- One step of erase_tenant in the caller's transaction; call that instead. `begin` suspends the tenant and is audited;
-- `wait` returns when no delivery of the tenant is being taken in any more; `events` erases those of the next 500 jobs after
-- p_after and returns the last of them, null when there are no more; `deliveries` does so with the next 5,000 deliveries of
-- anybody, for those whose job is past its retention; `end` removes secrets, samples and the name. Returns for `events` how many deliveries were erased.
-- RF404: no such tenant. RF400: no reason, or a step of another name. RF409: not begun, or the tenant is active again.
create function relayforge.erase_tenant_step(
  p_tenant_id uuid,
  p_step text,
  p_after uuid,
  p_reason text,
  p_actor text default session_user,
  p_now timestamptz default clock_timestamp()
)
returns table (last_job_id uuid, erased bigint)
language plpgsql security definer
set search_path = store, pg_temp
as $$
#variable_conflict use_column
declare
  c_jobs constant integer := 500;
  c_deliveries constant integer := 5000;
  v_status text;
  v_last uuid;
  v_event_ids uuid[];
begin
  select t.status into v_status from tenants t where t.id = p_tenant_id for no key update;
  if not found then
    raise exception 'tenant % does not exist', p_tenant_id using errcode = 'RF404';
  end if;
  if p_step <> 'begin' and v_status <> 'suspended' then
    raise exception 'tenant % is not suspended', p_tenant_id using errcode = 'RF409';
  end if;
  -- Which was audited, with a reason.
  if p_step <> 'begin'
     and (select a.detail ->> 'step'
            from admin_audit_log a
           where a.target = 'tenant/' || p_tenant_id and a.action = 'erase_tenant'
           order by a.id desc
           limit 1) is distinct from 'begun' then
    raise exception 'erasing tenant % has not begun: call erase_tenant', p_tenant_id using errcode = 'RF409';
  end if;

  case p_step
    when 'begin' then
      update tenants t set status = 'suspended', updated_at = p_now where t.id = p_tenant_id;
      perform relayforge.write_audit(p_actor, 'erase_tenant', 'tenant/' || p_tenant_id, p_reason, '{"step": "begun"}');
      return query select null::uuid, 0::bigint;
    when 'wait' then
      -- Whoever takes something in for the tenant holds one of these until its commit.
      perform 1
         from tenant_daily_quota_usage u
        where u.tenant_id = p_tenant_id and u.day >= (p_now at time zone 'UTC')::date - 1
        order by u.day
          for update;
      return query select null::uuid, 0::bigint;
    when 'deliveries' then
      return query
      with looked_at as materialized (
        select i.id, i.tenant_id, i.erased_at
          from webhook_inbox i
         where p_after is null or i.id > p_after
         order by i.id
         limit c_deliveries
      ), gone as (
        update webhook_inbox i
           set body = null, headers = '{}', trace_context = null, erased_at = p_now
          from looked_at l
         where i.id = l.id and l.tenant_id = p_tenant_id and l.erased_at is null
        returning 1
      )
      select (select (array_agg(l.id order by l.id desc))[1] from looked_at l), (select count(*) from gone);
    when 'events' then
      select (array_agg(q.id order by q.id desc))[1], array_agg(distinct q.event_id) into v_last, v_event_ids
        from (
          select j.id, j.event_id
            from jobs j
           where j.tenant_id = p_tenant_id and (p_after is null or j.id > p_after)
           order by j.id
           limit c_jobs
        ) q;
      return query select v_last, case when v_last is null then 0 else relayforge.erase_events(v_event_ids, p_now) end;
    when 'end' then
      delete from secret_usage u
       using tenant_provider_secrets s
       where s.tenant_id = p_tenant_id and u.secret_id = s.id;
      delete from tenant_provider_secrets s where s.tenant_id = p_tenant_id;
      update webhook_rejections r
         set sample = null, sample_detail = null
       where r.tenant_id = p_tenant_id and (r.sample is not null or r.sample_detail is not null);
      update tenants t set name = '(erased)', updated_at = p_now where t.id = p_tenant_id;
      perform relayforge.write_audit(p_actor, 'erase_tenant', 'tenant/' || p_tenant_id, p_reason, '{"step": "ended"}');
      return query select null::uuid, 0::bigint;
    else
      raise exception 'erase_tenant has no step %', p_step using errcode = 'RF400';
  end case;
end $$;
comment on function relayforge.erase_tenant_step is 'One step of erase_tenant in the caller''s transaction; call relayforge.erase_tenant instead.';
grant execute on function relayforge.erase_tenant_step to relayforge_dba;
