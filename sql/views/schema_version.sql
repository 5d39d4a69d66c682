-- Which migrations and which code this database has.
create view relayforge.schema_version as
select c.epoch, c.fingerprint, c.migration from relayforge.schema_code() c;
comment on view relayforge.schema_version is 'The code epoch and fingerprint and the newest migration.';
comment on column relayforge.schema_version.epoch is 'Rises with each change of the SQL code: a binary of a higher one is not ready, a migrator of a lower one does nothing.';
comment on column relayforge.schema_version.fingerprint is 'SHA-256 over migrations, functions and views, its first 16 bytes.';
comment on column relayforge.schema_version.migration is 'The newest migration that was applied.';
grant select on relayforge.schema_version to relayforge_dba;
