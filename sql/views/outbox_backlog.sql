-- What waits for the broker, a row for each target. Looks at the first 100,000 messages of each by due time; what is
-- beyond makes `waiting` an estimate.
create view relayforge.outbox_backlog as
select t.target,
       case when w.seen > 100000
            then greatest(w.seen, (select c.reltuples::bigint from pg_class c where c.oid = 'store.outbox_messages'::regclass))
            else w.seen end as waiting,
       w.seen > 100000 as estimated,
       w.due,
       w.failing,
       w.oldest_due_at,
       w.last_error
  from unnest(array['jobs', 'retries', 'events', 'dlq']) t(target)
 cross join lateral (
   select count(*) as seen,
          count(*) filter (where o.next_attempt_at <= statement_timestamp()) as due,
          count(*) filter (where o.attempts > 0) as failing,
          min(o.next_attempt_at) as oldest_due_at,
          (array_agg(o.last_error order by o.attempts desc) filter (where o.attempts > 0))[1] as last_error
     from (
       select m.next_attempt_at, m.attempts, m.last_error
         from store.outbox_messages m
        where m.target = t.target
        order by m.next_attempt_at, m.id
        limit 100001
     ) o
 ) w;
comment on view relayforge.outbox_backlog is 'What waits for the broker, by target. Exact to 100,000 messages.';
comment on column relayforge.outbox_backlog.target is 'jobs: the queue of fresh work; retries: the queue of work that comes back; events: the topic exchange; dlq: copies of jobs that were given up.';
comment on column relayforge.outbox_backlog.waiting is 'Messages that wait, those due later included.';
comment on column relayforge.outbox_backlog.estimated is 'Whether there are more than 100,000, so that waiting is the planner''s estimate over all targets and the other numbers are of the first 100,000.';
comment on column relayforge.outbox_backlog.due is 'Messages that could be published now.';
comment on column relayforge.outbox_backlog.failing is 'Messages that the broker has refused, or that got no confirm, at least once.';
comment on column relayforge.outbox_backlog.oldest_due_at is 'When the oldest was or will be due.';
comment on column relayforge.outbox_backlog.last_error is 'Why the one that was tried most often failed last.';
grant select on relayforge.outbox_backlog to relayforge_dba;
