-- What is stored under the provider's ids of events: a row for each event, with how often it was delivered and its jobs.
-- An id under which nothing is stored has no row; one under which two events are stored has two. Only deliveries since
-- p_since are looked at, so that few partitions are read.
create function relayforge.find_events(p_tenant_id uuid, p_source text, p_provider_event_ids text[], p_since timestamptz)
returns table (provider_event_id text, event_id uuid, deliveries bigint, job_ids uuid[])
language sql stable security definer
set search_path = store, pg_temp
as $$
  select i.provider_event_id, i.event_id, count(*),
         (select coalesce(array_agg(j.id order by j.id), '{}')
            from jobs j
           where j.event_id = i.event_id and j.id >= relayforge.uuid7_floor(relayforge.uuid7_time(i.event_id)))
    from webhook_inbox i
   where i.id >= relayforge.uuid7_floor(p_since)
     and i.tenant_id = p_tenant_id
     and i.source = p_source
     and i.provider_event_id = any (p_provider_event_ids)
   group by i.provider_event_id, i.event_id
$$;
comment on function relayforge.find_events is 'The events stored under the provider''s ids since a time, with the number of deliveries and the jobs of each.';
