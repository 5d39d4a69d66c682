-- What makes two deliveries one event, as jobs.dedup_key shows it: the provider's id, or else the hash of the bytes. Inlined
-- into its callers.
create function relayforge.dedup_key(p_provider_event_id text, p_body_sha256 bytea)
returns text
language sql immutable parallel safe
as $$
  select case when p_provider_event_id is not null then 'provider:' || p_provider_event_id
              else 'hash:' || encode(p_body_sha256, 'hex') end
$$;
comment on function relayforge.dedup_key is 'What makes two deliveries one event: provider:<the provider''s id>, or else hash:<SHA-256 of the bytes>.';
