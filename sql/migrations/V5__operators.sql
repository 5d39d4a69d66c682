-- Who may operate.

create table store.admin_api_keys (
  id uuid not null,
  name text not null,
  role text not null,
  key_sha256 bytea not null,
  created_at timestamptz not null default clock_timestamp(),
  revoked_at timestamptz,
  constraint admin_api_keys_pkey primary key (id),
  constraint admin_api_keys_key_sha256_key unique (key_sha256),
  constraint admin_api_keys_role_known check (role in ('viewer', 'operator', 'admin')),
  constraint admin_api_keys_key_sha256_length check (length(key_sha256) = 32),
  constraint admin_api_keys_name_length check (length(name) between 1 and 200)
);
comment on table store.admin_api_keys is 'Keys of the admin API. Only their hashes: a key is random, 32 bytes, so a fast hash is enough.';
comment on column store.admin_api_keys.id is 'UUIDv7 of the key, safe to show.';
comment on column store.admin_api_keys.name is 'Whose key it is, for people.';
comment on column store.admin_api_keys.role is 'viewer reads, operator acts on jobs, admin configures.';
comment on column store.admin_api_keys.key_sha256 is 'SHA-256 of the key.';
comment on column store.admin_api_keys.created_at is 'When it was made.';
comment on column store.admin_api_keys.revoked_at is 'From when on it opens nothing; null while it is valid.';

-- What the migrator keeps about the code in schema relayforge.
create table store.code_objects (
  path text not null,
  name text not null,
  checksum bytea not null,
  constraint code_objects_pkey primary key (path),
  constraint code_objects_name_key unique (name)
);
comment on table store.code_objects is 'The functions, procedures and views that the migrator made, with the checksum of the file each came from.';
comment on column store.code_objects.path is 'The file, below the package sql.';
comment on column store.code_objects.name is 'The object, in schema relayforge.';
comment on column store.code_objects.checksum is 'SHA-256 of the file: an unchanged object is not touched.';
