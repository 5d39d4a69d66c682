-- Which migrations and which code this database has.
create view relayforge.schema_version as
select c.epoch, c.fingerprint, c.migration from relayforge.schema_code() c;
comment on view relayforge.schema_version is 'The code epoch and fingerprint and the newest migration.';
grant select on relayforge.schema_version to relayforge_dba;
