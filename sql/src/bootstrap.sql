-- What has to be there before the first migration and needs more than the owner's rights. Safe to run again.
-- Roles belong to the whole cluster: another database's migrator may make them at the same moment.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['relayforge_owner', 'relayforge_api', 'relayforge_relay', 'relayforge_consumer', 'relayforge_dba'] loop
    begin
      if not exists (select 1 from pg_roles where rolname = v_role) then
        execute format('create role %I nologin', v_role);
      end if;
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;
  if not pg_has_role(current_user, 'relayforge_owner', 'member') then
    execute format('grant relayforge_owner to %I', current_user);
  elsif current_setting('server_version_num')::integer >= 160000 then
    -- Whoever may create roles is a member of those it has made there, but may not become them.
    if not pg_has_role(current_user, 'relayforge_owner', 'set') then
      execute format('grant relayforge_owner to %I', current_user);
    end if;
  end if;
end $$;

-- Bounds on what a service's session may hold. Views span all partitions: compiling such a plan takes seconds, running
-- it milliseconds, so the DBA's role goes without. Written only where they differ: two migrators that write the same role
-- at once fail.
do $$
declare
  v_setting record;
begin
  for v_setting in
    select * from (values
      ('relayforge_api', 'lock_timeout', '250ms'),
      ('relayforge_api', 'statement_timeout', '1500ms'),
      ('relayforge_api', 'idle_in_transaction_session_timeout', '5s'),
      ('relayforge_relay', 'idle_in_transaction_session_timeout', '15s'),
      ('relayforge_relay', 'statement_timeout', '10s'),
      ('relayforge_consumer', 'idle_in_transaction_session_timeout', '15s'),
      ('relayforge_consumer', 'statement_timeout', '10s'),
      ('relayforge_consumer', 'lock_timeout', '1s'),
      -- A verb in a transaction that stays open holds jobs that a consumer wants to end.
      ('relayforge_dba', 'idle_in_transaction_session_timeout', '60s'),
      ('relayforge_dba', 'jit', 'off')
    ) s(role, name, value)
  loop
    if not exists (
      select 1 from pg_roles r
       where r.rolname = v_setting.role and (v_setting.name || '=' || v_setting.value) = any (r.rolconfig)
    ) then
      execute format('alter role %I set %I = %L', v_setting.role, v_setting.name, v_setting.value);
    end if;
  end loop;
  execute format('grant create on database %I to relayforge_owner', current_database());
end $$;

-- So that queue_health can say whose snapshot keeps dead rows alive. A platform that does not let us grant it leaves
-- that column without names, nothing else.
do $$
begin
  if not pg_has_role('relayforge_owner', 'pg_read_all_stats', 'member') then
    grant pg_read_all_stats to relayforge_owner;
  end if;
exception when insufficient_privilege then
  raise notice 'relayforge_owner has no pg_read_all_stats: queue_health will not name other roles'' sessions';
end $$;

set role relayforge_owner;
create schema if not exists store;
comment on schema store is 'Tables of Relayforge. Only functions of schema relayforge reach them.';
create schema if not exists relayforge;
grant usage on schema relayforge to relayforge_api, relayforge_relay, relayforge_consumer, relayforge_dba;
-- Globally for the owner: the per-schema form cannot take away what PUBLIC has by default.
alter default privileges for role relayforge_owner revoke execute on functions from public;
reset role;
