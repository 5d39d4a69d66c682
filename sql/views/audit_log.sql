-- Who changed what, and why.
create view relayforge.audit_log as
select relayforge.uuid7_time(a.id) as at,
       a.actor,
       a.db_user,
       a.action,
       a.target,
       a.reason,
       a.detail,
       s.seq as seal,
       a.id
  from store.admin_audit_log a
  left join store.audit_seals s on s.audit_id = a.id;
comment on view relayforge.audit_log is 'Who changed what, and why. Order by id; narrow by target, or with id >= relayforge.uuid7_floor(…). See audit_verify.';
comment on column relayforge.audit_log.at is 'When, by the database''s clock.';
comment on column relayforge.audit_log.actor is 'Who: the admin key, or who psql''s user said, by default the login.';
comment on column relayforge.audit_log.db_user is 'The database role that was logged in.';
comment on column relayforge.audit_log.action is 'What was done: the function''s name.';
comment on column relayforge.audit_log.target is 'What it was done to: a kind and an id, for example job/0192….';
comment on column relayforge.audit_log.reason is 'Why, in the actor''s words.';
comment on column relayforge.audit_log.detail is 'What else there is to know, for example each job''s outcome.';
comment on column relayforge.audit_log.seal is 'Its place in the hash chain; null until it is sealed, seconds later.';
comment on column relayforge.audit_log.id is 'Its id, a UUIDv7.';
grant select on relayforge.audit_log to relayforge_dba;
