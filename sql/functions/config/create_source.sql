-- Makes a source. RF409: the name is taken. 23514: a value that the table's checks refuse.
create function relayforge.create_source(
  p_name text,
  p_kind text,
  p_dedup text default 'event_id_or_hash',
  p_replay_policy text default 'absorb',
  p_job_kind text default 'log',
  p_fanout boolean default false
)
returns void
language plpgsql security definer
set search_path = store, pg_temp
as $$
begin
  insert into sources (name, kind, dedup, replay_policy, job_kind, fanout)
  values (p_name, p_kind, p_dedup, p_replay_policy, p_job_kind, p_fanout);
exception when unique_violation then
  raise exception 'a source named % exists', p_name using errcode = 'RF409';
end $$;
comment on function relayforge.create_source is 'Makes a source: how webhooks of that name are verified, deduplicated and turned into jobs.';
