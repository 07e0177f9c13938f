-- Generated from supabase/schemas by `make migrations`; do not edit.
select pg_advisory_xact_lock(32773617387664506);

-- 00_schema.sql

-- The private schema embedding. PostgREST does not expose it, so clients call functions in public. It contains models,
-- tracked tables, pending rows and runs, but no vectors: each row of a tracked table stores its own vector.
create schema if not exists extensions;
create extension if not exists vector with schema extensions;
create schema embedding;
comment on schema embedding is 'The tables and functions that keep tracked tables embedded. It is private: clients use the functions in public.';
revoke all on schema embedding from public;

-- anon and authenticated call the helper functions of search; they have no grant on a table of this schema.
grant usage on schema embedding to anon, authenticated, service_role;

-- 10_models.sql

-- The name of a constraint is the error message that a caller reads (see shared/database/translate.py).
create table embedding.models (
  name text primary key
    -- Indexes contain the name, and the size of an index entry is limited.
    constraint "name must hold between 1 and 255 characters" check (char_length(name) between 1 and 255),
  provider text not null constraint "provider must not be empty" check (provider <> ''),
  -- An HNSW index over halfvec allows at most 4,000 dimensions.
  dimensions integer not null constraint "dimensions must be between 1 and 4000" check (dimensions between 1 and 4000),
  document_prefix text not null default '',
  query_prefix text not null default '',
  max_tokens integer constraint "max_tokens must be 1 or more" check (max_tokens >= 1),
  -- The first backfill with this model sets this to true. Vectors of any other model come from the user and are not replaced.
  made_here boolean not null default false,
  created_at timestamptz not null default now()
);
comment on table embedding.models is
  'Every model whose vectors may be stored. The width and the prefixes of a model never change, so that all its vectors can be compared.';

create function embedding.check_dimensions(stored embedding.models, dimensions integer)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if stored.dimensions <> check_dimensions.dimensions then
    raise exception 'model "%" is registered with % dimensions, not %', stored.name, stored.dimensions, check_dimensions.dimensions
      using errcode = '22023',
            hint = 'All vectors of a model have the same width. Use another model name (EMBEDDING_MODEL) for another width.';
  end if;
end;
$$;
comment on function embedding.check_dimensions is 'Raises an error if a registered model has another width.';
revoke all on function embedding.check_dimensions from public, anon, authenticated, service_role;
grant execute on function embedding.check_dimensions to service_role;

create function public.register_embedding_model(
  name text, provider text, dimensions integer, document_prefix text default '', query_prefix text default '',
  max_tokens integer default null, collection text default null, made_here boolean default false
)
returns embedding.models language plpgsql security invoker set search_path = '' as $$
declare
  stored embedding.models;
begin
  insert into embedding.models as m (name, provider, dimensions, document_prefix, query_prefix, max_tokens)
  values (
    register_embedding_model.name, register_embedding_model.provider, register_embedding_model.dimensions,
    coalesce(register_embedding_model.document_prefix, ''), coalesce(register_embedding_model.query_prefix, ''),
    register_embedding_model.max_tokens
  )
  on conflict on constraint models_pkey do nothing;
  if register_embedding_model.made_here then
    update embedding.models m set made_here = true where m.name = register_embedding_model.name and not m.made_here;
  end if;

  select m.* into strict stored from embedding.models m where m.name = register_embedding_model.name;
  perform embedding.check_dimensions(stored, register_embedding_model.dimensions);
  if register_embedding_model.collection is not null then
    perform embedding.check_model(embedding.get_collection(register_embedding_model.collection), stored.name);
  end if;
  return stored;
end;
$$;
comment on function public.register_embedding_model is
  'Registers a model, or returns the registered one with the prefixes with which its vectors were made. Raises an error if '
  'it is registered with another width. With a collection, it sets the model of the collection if this has none, and raises an error if it has another. '
  'If made_here is true, the caller makes vectors of this model, so that a move to another model may replace them.';
revoke all on function public.register_embedding_model from public, anon, authenticated, service_role;
grant execute on function public.register_embedding_model to service_role;

create function embedding.get_model(model text)
returns embedding.models language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  found_model embedding.models;
begin
  select m.* into found_model from embedding.models m where m.name = get_model.model;
  if not found then
    raise exception 'model "%" is not registered', coalesce(model, '<null>')
      using errcode = '22023',
            hint = format('Register it with register_embedding_model(name, provider, dimensions). Registered models: %s.',
              coalesce((select string_agg(m.name, ', ' order by m.name) from embedding.models m), 'none'));
  end if;
  return found_model;
end;
$$;
comment on function embedding.get_model is 'The registered model with this name. Raises an error that lists the registered models if there is none.';
revoke all on function embedding.get_model from public, anon, authenticated, service_role;
grant execute on function embedding.get_model to service_role;

create function embedding.model_dimensions(model text)
returns int language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select m.dimensions from embedding.models m where m.name = model_dimensions.model;
$$;
comment on function embedding.model_dimensions is 'The width of a registered model, NULL for an unknown one.';
revoke all on function embedding.model_dimensions from public, anon, authenticated, service_role;
grant execute on function embedding.model_dimensions to anon, authenticated, service_role;

-- 11_collections.sql

create table embedding.collections (
  id integer generated always as identity primary key,
  name text not null unique,
  key_column name not null,
  key_type text not null,
  model text references embedding.models (name),
  retiring_models text[] not null default '{}',
  text_config text not null default 'pg_catalog.english',
  max_attempts integer not null default 5 check (max_attempts > 0),
  preparing boolean not null default false,
  prepared_to text,
  vectors_unchecked boolean not null default false,
  reuse text not null default 'all',
  -- Each time the table is tracked, it gets a new mark. So a hash that was written while the table was not tracked does not
  -- look like one that a worker has written.
  reuse_mark bytea not null default substring(uuid_send(gen_random_uuid()) for 6),
  client_vectors boolean not null default false,
  created_at timestamptz not null default now()
);
comment on table embedding.collections is
  'Tracked tables. model is null until the first backfill sets it. retiring_models are former models that may still have rows during a model switch. max_attempts is the number of attempts after which a row is failed. preparing is true until backfills have read all rows that a large table had when it was tracked; they read them in the order of the key, and prepared_to is the last key that was read. If vectors_unchecked is true, rows after prepared_to may have the vector of an earlier text, because the table was tracked before. reuse says which rows with equal texts share a vector: all, none, or those with the same value of this column. reuse_mark is a part of the embedding_hash of each vector that a worker stored. If client_vectors is true, anon and authenticated may write vectors.';
revoke all on embedding.models, embedding.collections from public, anon, authenticated;
grant select, insert, update, delete on embedding.models to service_role;
grant select on embedding.collections to service_role;
grant update (model, retiring_models, preparing, prepared_to, vectors_unchecked) on embedding.collections to service_role;

create function embedding.table_name(source regclass)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when n.nspname = 'public' then c.relname else n.nspname || '.' || c.relname end
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = source
$$;
comment on function embedding.table_name is 'The name of a table as a collection.';
revoke all on function embedding.table_name from public, anon, authenticated, service_role;

create function embedding.kept_models(model text, retiring_models text[])
returns text[] language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(m.name)
  from embedding.models m
  where kept_models.model is not null
    and (m.name = kept_models.model or not m.made_here and m.name <> all (kept_models.retiring_models))
$$;
comment on function embedding.kept_models is
  'The models whose vectors a backfill keeps: the model of the collection, and models that no backfill makes. Null if the collection has no model; a comparison with it then finds no row.';
revoke all on function embedding.kept_models from public, anon, authenticated, service_role;
grant execute on function embedding.kept_models to service_role;

-- Finds the table of a collection by the table's trigger, whose first argument is the collection's id. This still works after
-- a rename, a dump or pg_upgrade, unlike a stored oid. A dropped table has no trigger any more, so it is not listed. Only
-- the owner of the trigger function can create a trigger that calls it, so no other table can look like that of a collection.
create view embedding.tracked_tables with (security_invoker = true) as
select
  c.id, c.name, t.source, c.key_column, c.key_type, c.model, c.retiring_models, c.text_config, c.max_attempts, c.preparing, c.prepared_to,
  c.reuse, c.reuse_mark, c.client_vectors, c.created_at, embedding.kept_models(c.model, c.retiring_models) as kept_models
from embedding.collections c
cross join lateral (
  select coalesce(
    -- Most tables have the name of their collection. Then two index look-ups find the trigger, in a third of the time.
    (
      select g.tgrelid
      from pg_catalog.pg_class r
      join pg_catalog.pg_trigger g on g.tgrelid = r.oid and g.tgname = 'embedding_check_insert'
      where r.relname = c.name and r.relnamespace = 'public'::regnamespace
        and g.tgfoid = to_regproc('embedding.check_vectors') and pg_catalog.encode(g.tgargs, 'escape') = c.id || '\000'
    ),
    (
      select g.tgrelid
      from pg_catalog.pg_depend d
      join pg_catalog.pg_trigger g on g.oid = d.objid
      where d.classid = 'pg_catalog.pg_trigger'::regclass
        and d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = to_regproc('embedding.check_vectors')
        and g.tgname = 'embedding_check_insert'
        and pg_catalog.encode(g.tgargs, 'escape') = c.id || '\000'
      order by g.tgrelid limit 1
    )
  )::regclass as source
  -- Keeps the look-up from being repeated for each use of its result.
  offset 0
) t
where t.source is not null;

comment on view embedding.tracked_tables is
  'Every collection with its table. Collections whose table was dropped are not listed. A row with a vector of one of kept_models is not pending.';
revoke all on embedding.tracked_tables from public, anon, authenticated;
grant select on embedding.tracked_tables to service_role;

-- The queue functions use force_custom_plan, which also applies to the functions that they call. So this function sets
-- force_generic_plan; otherwise PostgreSQL would plan its query at every call.
create function embedding.get_collection(collection text, check_owner boolean default true)
returns embedding.tracked_tables
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  found_collection embedding.tracked_tables;
begin
  -- The usual case in one query: a tracked table with trusted owners. The functions that explain an error are not called.
  select c.* into found_collection
  from embedding.tracked_tables c
  join pg_class t on t.oid = c.source
  join pg_proc f on f.oid = to_regproc('embedding.check_vectors')
  left join pg_proc d on d.proname = 'document_text' and d.pronamespace = f.pronamespace and d.proargtypes = t.reltype::text::oidvector
  where c.name = get_collection.collection and (not check_owner
    or pg_has_role(t.relowner, f.proowner, 'usage') and pg_has_role(d.proowner, f.proowner, 'usage') is not false);
  if found then
    return found_collection;
  end if;

  select c.* into found_collection from embedding.tracked_tables c where c.name = get_collection.collection;
  if not found then
    raise exception 'collection "%" is not tracked', coalesce(collection, '<null>')
      using errcode = 'P0002',
            hint = format('Tracked collections: %s. Track a table with track_embeddings(''table_name'').',
              coalesce((select string_agg(c.name, ', ' order by c.name) from embedding.tracked_tables c), 'none'));
  end if;
  if check_owner then
    perform embedding.check_ownership(found_collection.source);
  end if;
  return found_collection;
end;
$$;
comment on function embedding.get_collection is 'The collection with this name. Raises an error that lists the tracked tables if there is none, and an error if the owner of its table is not trusted.';
revoke all on function embedding.get_collection from public, anon, authenticated, service_role;
grant execute on function embedding.get_collection to service_role;

create function public.list_embedding_collections(details boolean default false)
returns table (collection text, key_column text, model text, error text, label_column text, category_columns text[])
language plpgsql stable security invoker set search_path = '' as $$
begin
  return query
  select t.name, t.key_column::text, t.model, p.problem || '. ' || embedding.collection_remedy(t), d.label_column,
    d.category_columns
  from embedding.tracked_tables t
  left join lateral embedding.collection_error(t) p (problem) on details
  left join lateral embedding.collection_columns(t) d on details
  order by t.name;
end;
$$;
comment on function public.list_embedding_collections is
  'The tracked tables. With details, error says why no row of the table can be read and what to do (null if rows can be read), '
  'label_column is the column that names a row, and category_columns are columns with few distinct values (for colours).';
revoke all on function public.list_embedding_collections from public, anon, authenticated, service_role;
grant execute on function public.list_embedding_collections to service_role;

create function embedding.describe_collection(source regclass)
returns table (
  name text, key_column name, key_type text, model text, dimensions int, text_config regconfig, vectors_unchecked boolean, prepared_to text
)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  -- Look the trigger up by its table, which is faster than reading embedding.tracked_tables.
  select c.name, c.key_column, c.key_type, c.model, m.dimensions, c.text_config::regconfig, c.vectors_unchecked, c.prepared_to
  from pg_trigger g
  join embedding.collections c on c.id::text = split_part(encode(g.tgargs, 'escape'), '\000', 1)
  left join embedding.models m on m.name = c.model
  where g.tgrelid = describe_collection.source and g.tgname = 'embedding_check_insert'
    and g.tgfoid = to_regproc('embedding.check_vectors');
$$;
comment on function embedding.describe_collection is 'What a search needs to know about a collection. It is security definer, because the caller of a search may not read this schema.';
revoke all on function embedding.describe_collection from public, anon, authenticated, service_role;
grant execute on function embedding.describe_collection to anon, authenticated, service_role;

create function embedding.canonical_key(key text, key_type text)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  canonical text;
begin
  execute format('select %L::%s::text', key, key_type::regtype) into canonical;
  return canonical;
exception
  -- The text is not a value of the key's type, so no row has this key. Other errors are raised.
  when data_exception then
    return null;
end;
$$;
comment on function embedding.canonical_key is 'The key in the form in which its type prints it; null if it is not a value of this type.';
revoke all on function embedding.canonical_key from public, anon, authenticated, service_role;
grant execute on function embedding.canonical_key to service_role;

-- 12_document_text.sql

-- Each tracked table has a function embedding.document_text over its row type, which returns the text to embed. If it
-- returns NULL or a blank text, the row is not embedded. It is the user's own code, so it may raise errors, and a broken row
-- or table must not stop the others:
-- - If it raises an error for one row, this row is failed with the error. If it raises one for every row, because the table
--   or the function has changed, the collection is reported as broken, with its name and the fix.
-- - A trigger of the table may remove the vector, or change the text on each write. So the rows are read again after a
--   save, and a missing vector counts as a failed attempt.
-- - A column may have the same name as an alias: `document_text(s)` would then read the column s. So these functions write
--   `s.*`, which is always the row.
create function embedding.text_hash(document text)
returns bytea language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  select sha256(convert_to(document, 'UTF8'))
$$;
comment on function embedding.text_hash is
  'A hash that identifies a text. Texts with equal hashes share a vector, so it must not be possible to make two texts with the same hash: it is SHA-256. It is the first 32 bytes of embedding_hash.';
revoke all on function embedding.text_hash from public, anon, authenticated, service_role;
grant execute on function embedding.text_hash to service_role;

create function embedding.present_text(document text)
returns text language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  -- The first characters are enough for nearly every text, so that a long text is not searched to its end.
  select case when left(document, 50) ~ p.visible or document ~ p.visible then document end
  from (select '[^\s\u0085\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2064\u2800\u3000\u3164\ufeff\uffa0]' as visible) p
$$;
comment on function embedding.present_text is 'The text, or null if it consists of white space and invisible characters only: such a row is not embedded.';
revoke all on function embedding.present_text from public, anon, authenticated, service_role;
grant execute on function embedding.present_text to service_role;

create function embedding.error_scope(state text)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    -- These errors concern the connection, a read-only server, locks, resources or a shutdown. Class 55 is also used by the
    -- functions of this schema.
    when left(state, 2) in ('08', '25', '28', '40', '53', '55', '57', '58') then 'passing'
    when left(state, 2) in ('0A', '3F', '42') then 'table'
    else 'row'
  end
$$;
comment on function embedding.error_scope is
  'The cause of an error that was raised while rows were read or written, by its SQLSTATE: passing (a temporary state), table (columns, functions, grants) or row.';
revoke all on function embedding.error_scope from public, anon, authenticated, service_role;
grant execute on function embedding.error_scope to service_role;

create function embedding.row_values(document anyelement)
returns text[] language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  found_values text[];
begin
  -- concat calls only the output functions of the types. to_jsonb would also call casts, which the owner of a type can create.
  execute format('select array[%s]', (
    select string_agg(format('concat(($1).%I)', a.attname), ', ')
    from pg_type t
    join pg_attribute a on a.attrelid = t.typrelid
    where t.oid = pg_typeof(document) and a.attnum > 0 and not a.attisdropped and a.attname not in ('embedding', 'fts')
  )) into found_values using document;
  return found_values;
end;
$$;
comment on function embedding.row_values is 'The values of a row as texts, without those of its vector and fts.';
revoke all on function embedding.row_values from public, anon, authenticated, service_role;
grant execute on function embedding.row_values to service_role;

create function embedding.error_reason(state text, message text, row_values text[])
returns text language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  -- PostgreSQL's own messages quote a value that it could not parse.
  reason text := regexp_replace(message, '".*"', '"..."');
  held text;
begin
  -- An error of the user's own code may quote values of the row.
  for held in
    select v.value from unnest(row_values) v (value)
    where char_length(v.value) > 3 order by char_length(v.value) desc
  loop
    reason := replace(reason, held, '...');
  end loop;
  return format('%s (SQLSTATE %s)', left(reason, 500), state);
end;
$$;
comment on function embedding.error_reason is 'The message of an error without values of the row, because its reader may not be allowed to see them.';
revoke all on function embedding.error_reason from public, anon, authenticated, service_role;
grant execute on function embedding.error_reason to service_role;

create function embedding.try_document_text(document anyelement, out text text, out error text, out state text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  text := embedding.present_text(embedding.document_text(document));
exception
  when others then
    if embedding.error_scope(sqlstate) = 'passing' then
      raise;
    end if;
    error := 'embedding.document_text: ' || embedding.error_reason(sqlstate, sqlerrm, embedding.row_values(document));
    state := sqlstate;
end;
$$;
comment on function embedding.try_document_text is
  'The text of a row, or the error and its SQLSTATE. It takes 20 microseconds for each row more than document_text.';
revoke all on function embedding.try_document_text from public, anon, authenticated, service_role;
grant execute on function embedding.try_document_text to service_role;

-- 13_broken_collections.sql

create function embedding.collection_error(c embedding.tracked_tables)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  readable boolean;
  problem constant text := embedding.ownership_error(c.source);
begin
  if problem is not null then
    return rtrim(problem, ';');
  end if;
  begin
    execute format('select s.%I = null::%s, s.embedding, s.embedding_model, s.embedding_hash%s from %s s limit 0', c.key_column, c.key_type,
      case when c.reuse not in ('all', 'none') then format(', s.%I', c.reuse) end, c.source);
  exception
    when others then
      if embedding.error_scope(sqlstate) <> 'table' then
        raise;
      end if;
      return sqlerrm;
  end;
  begin
    execute format('select embedding.document_text(s.*) from %s s limit 1', c.source);
  exception
    when others then
      if embedding.error_scope(sqlstate) = 'passing' then
        raise;
      end if;
      -- The cause may be a single row, for example one with the name of a configuration that does not exist. So try more rows.
      if embedding.error_scope(sqlstate) = 'table' then
        execute format(
          'select bool_or(r.error is null) from (select t.error from %s s cross join lateral embedding.try_document_text(s.*) t limit 100) r',
          c.source) into readable;
        return case when readable is not true then sqlerrm end;
      end if;
  end;
  return null;
end;
$$;
comment on function embedding.collection_error is 'Why no row of the collection can be read; null if some rows can be read.';
revoke all on function embedding.collection_error from public, anon, authenticated, service_role;
grant execute on function embedding.collection_error to service_role;

create function embedding.collection_remedy(c embedding.tracked_tables)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('Repair the table or embedding.document_text(%1$s), then: select track_embeddings(%2$L); to stop tracking it: select untrack_embeddings(%3$L).',
    c.source::text, c.source::text, c.name)
$$;
comment on function embedding.collection_remedy is 'How to repair a collection whose rows cannot be read.';
revoke all on function embedding.collection_remedy from public, anon, authenticated, service_role;
grant execute on function embedding.collection_remedy to service_role;

create function embedding.concerns_rows(c embedding.tracked_tables, state text, message text)
returns boolean language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if embedding.error_scope(state) = 'passing' then
    return false;
  end if;
  if embedding.error_scope(state) = 'table' and embedding.collection_error(c) is not null then
    raise exception 'collection "%" cannot be read: %', c.name, message
      using errcode = '55000', hint = embedding.collection_remedy(c);
  end if;
  return true;
end;
$$;
comment on function embedding.concerns_rows is 'True if some rows caused the error. Raises an error if no row can be read.';
revoke all on function embedding.concerns_rows from public, anon, authenticated, service_role;
grant execute on function embedding.concerns_rows to service_role;

create function embedding.read_table(c embedding.tracked_tables, statement text, arguments jsonb default '{}', parts text[] default '{}')
returns record language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  names constant text[] := array[c.key_column::text, c.source::text];
  fast constant text := '(select embedding.present_text(embedding.document_text(s.*)) as text, null::text as error)';
  safe constant text := 'embedding.try_document_text(s.*)';
  result record;
begin
  perform embedding.check_ownership(c.source);
  begin
    execute format(statement, variadic names || fast || parts) into result using c, arguments;
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
      -- A row cannot be read: run the statement again and catch the error of each row.
      execute format(statement, variadic names || safe || parts) into result using c, arguments;
  end;
  return result;
end;
$$;
comment on function embedding.read_table is
  'Runs a statement that reads the texts of a whole table and returns one row. In the statement, %1$I is the key, %2$s the table (alias s) and %3$s the text of a row (alias t: text, error); %4$s and the following ones are the parts. $1 is the collection, $2 the arguments.';
revoke all on function embedding.read_table from public, anon, authenticated, service_role;
grant execute on function embedding.read_table to service_role;

-- 14_ownership.sql

-- The triggers of a tracked table and track_embeddings run with the rights of the owner of these functions. They also run
-- code of other owners: the table's triggers, policies and generated columns, and document_text. These owners would gain
-- the rights of the functions' owner, so they must have them already.
create function embedding.ownership_error(source regclass)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  held record;
begin
  select t.relowner as table_owner, d.proowner as text_owner, f.proowner as owner into held
  from pg_class t
  cross join pg_proc f
  left join pg_proc d
    on d.proname = 'document_text' and d.pronamespace = f.pronamespace and d.proargtypes = t.reltype::text::oidvector
  where t.oid = source and f.oid = to_regproc('embedding.check_vectors');
  if not pg_has_role(held.table_owner, held.owner, 'usage') then
    return format('%1$s belongs to %2$s, who would gain the rights of %3$s, the owner of the functions: alter table %1$s owner to %3$s;',
      source, held.table_owner::regrole, held.owner::regrole);
  elsif not pg_has_role(held.text_owner, held.owner, 'usage') then
    return format('embedding.document_text(%1$s) belongs to %2$s, who would gain the rights of %3$s, the owner of the functions: alter function embedding.document_text(%1$s) owner to %3$s;',
      source, held.text_owner::regrole, held.owner::regrole);
  end if;
  return null;
end;
$$;
comment on function embedding.ownership_error is
  'Why a table cannot be tracked: the table or its document_text belongs to a role without the rights of the owner of these functions. Null if the table can be tracked.';
revoke all on function embedding.ownership_error from public, anon, authenticated, service_role;
grant execute on function embedding.ownership_error to service_role;

create function embedding.check_ownership(source regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  problem constant text := embedding.ownership_error(source);
begin
  if problem is not null then
    raise exception '%', problem
      using errcode = '55000', hint = 'Or apply the migrations as the owner of your tables, or stop tracking the table: select untrack_embeddings(''...'');';
  end if;
end;
$$;
comment on function embedding.check_ownership is 'Raises the error of ownership_error.';
revoke all on function embedding.check_ownership from public, anon, authenticated, service_role;
grant execute on function embedding.check_ownership to service_role;

-- 20_queue.sql

create table embedding.queue (
  collection_id integer not null references embedding.collections (id) on delete cascade,
  row_id text not null,
  attempts integer not null default 0,
  -- The time from which the row may be claimed: at once, after a backoff, or when the lease of its worker expires.
  available_at timestamptz not null default now(),
  leased_at timestamptz,
  failed_at timestamptz,
  error text,
  primary key (collection_id, row_id)
) with (
  -- Entries are deleted soon, so there are many dead rows. With the default of 20 %, a claim would have to skip many of them.
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_analyze_scale_factor = 0.05
);
comment on table embedding.queue is
  'Rows that need a vector. The tracked table itself decides: a row with a text and no vector is pending even if it is missing here (see reconcile_embeddings).';

-- A claim reads only the head of this index, so it costs the same at any length of the queue.
create index queue_claimable on embedding.queue (collection_id, available_at) where failed_at is null;
create index queue_failed on embedding.queue (collection_id, failed_at) where failed_at is not null;
revoke all on embedding.queue from public, anon, authenticated;
grant select, insert, update, delete on embedding.queue to service_role;

create function embedding.check_lease(lease_seconds integer)
returns interval language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if lease_seconds between 1 and 86400 then
    return make_interval(secs => lease_seconds);
  end if;
  raise exception 'lease_seconds must be between 1 and 86400, not %', coalesce(lease_seconds::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_lease is 'The length of a lease as an interval: one second to one day.';
revoke all on function embedding.check_lease from public, anon, authenticated, service_role;
grant execute on function embedding.check_lease to service_role;

create function public.embedding_queue(collection text)
returns table (ready bigint, leased bigint, waiting bigint, failed bigint, next_available_at timestamptz)
language plpgsql stable security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  present timestamptz := clock_timestamp();
begin
  return query
  select
    count(*) filter (where q.failed_at is null and q.available_at <= present),
    count(*) filter (where q.failed_at is null and q.available_at > present and q.leased_at is not null),
    count(*) filter (where q.failed_at is null and q.available_at > present and q.leased_at is null),
    count(*) filter (where q.failed_at is not null),
    min(q.available_at) filter (where q.failed_at is null)
  from embedding.queue q where q.collection_id = c.id;
end;
$$;
comment on function public.embedding_queue is 'How many rows are ready, leased, waiting for their next attempt, and failed.';
revoke all on function public.embedding_queue from public, anon, authenticated, service_role;
grant execute on function public.embedding_queue to service_role;

create function embedding.stray_leases(collection_id integer, present timestamptz)
returns setof text language sql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
  -- A lease ends at most a day after its beginning, and the wait for an attempt at most an hour after its beginning.
  select q.row_id from embedding.queue q
  where q.collection_id = stray_leases.collection_id and q.failed_at is null and q.available_at > stray_leases.present + interval '1 hour'
    and (q.leased_at is null or q.leased_at > stray_leases.present + interval '1 minute' or q.available_at > stray_leases.present + interval '1 day')
$$;
comment on function embedding.stray_leases is
  'Rows that look leased or waiting for longer than is possible, because the clock was ahead and has been set back. No worker holds them.';
revoke all on function embedding.stray_leases from public, anon, authenticated, service_role;
grant execute on function embedding.stray_leases to service_role;

create function embedding.replaced_models(c embedding.tracked_tables)
returns setof text language sql stable set search_path = pg_catalog, pg_temp as $$
  select m.name from embedding.models m where m.name <> all (c.kept_models)
$$;
comment on function embedding.replaced_models is
  'The registered models whose vectors a backfill replaces. A vector of a model that is not registered (it was written without the triggers) stays: another program may have made it.';
revoke all on function embedding.replaced_models from public, anon, authenticated, service_role;
grant execute on function embedding.replaced_models to service_role;

create function embedding.queue_pending_rows(c embedding.tracked_tables)
returns bigint language sql security invoker set search_path = pg_catalog, pg_temp as $$
  select r.queued
  from embedding.read_table(c, $sql$
    with queued as (
      insert into embedding.queue (collection_id, row_id)
      select ($1).id, s.%1$I::text
      from %2$s s cross join lateral %3$s t
      where (s.embedding is null or s.embedding_model = any (array(select embedding.replaced_models($1))))
        and (t.text is not null or t.error is not null)
      order by s.%1$I
      on conflict on constraint queue_pkey do nothing
      returning 1
    )
    select count(*) from queued
  $sql$) r (queued bigint)
$$;
comment on function embedding.queue_pending_rows is
  'Queues every pending row: it has no vector, or one that must be replaced, and it has a text. A row whose text cannot be read is queued too; its claim marks it as failed. Returns how many rows were not queued before.';
revoke all on function embedding.queue_pending_rows from public, anon, authenticated, service_role;
grant execute on function embedding.queue_pending_rows to service_role;

-- 21_claim.sql

-- A worker claims a pending row and so gets a lease on it. Then it saves, fails or releases the row. No transaction is open
-- during a provider call; the leases of a killed worker expire.
--
-- Each statement that reads the queue is planned at each call (force_custom_plan, or EXECUTE). Otherwise a session that first
-- saw an empty queue would keep a plan that reads the whole queue, even when it has grown to millions of rows. For the same
-- reason rows are looked up by the primary key alone (in a claim: by the ctid of the entry that it has locked), without a
-- condition that could make the planner choose another index.
--
-- Every statement that changes several entries locks them in the order of row_id. Otherwise a run that renews its leases
-- while it saves could deadlock with itself.
create function public.claim_embeddings(
  collection text, batch_size integer default 50, lease_seconds integer default 300, model text default null
)
returns table (row_id text, text text, text_hash text, attempts integer, reused boolean)
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  wanted integer := coalesce(batch_size, 50);
  lease interval := embedding.check_lease(coalesce(lease_seconds, 300));
  safely boolean := false;
  failures integer := 0;
  -- This is a variable, because PostgreSQL uses no index for a comparison with a volatile function such as clock_timestamp().
  present timestamptz;
  leased record;
  more boolean;
  done text[] := '{}';
begin
  -- Supabase returns at most 1,000 rows of a call. If more rows were leased, the others would never reach the worker.
  if wanted not between 1 and 1000 then
    raise exception 'batch_size must be between 1 and 1000, not %', wanted using errcode = '22023';
  end if;
  if claim_embeddings.model is not null then
    c := embedding.check_model(c, claim_embeddings.model);
  end if;

  loop
    present := clock_timestamp();
    begin
      leased := embedding.lease_next_rows(c, wanted, lease, present, safely);
    exception
      when others then
        if safely or not embedding.concerns_rows(c, sqlstate, sqlerrm) then
          raise;
        end if;
        -- One of the rows cannot be read. So read each row separately, and mark those that raise an error as failed.
        safely := true;
        failures := failures + 1;
        continue;
    end;
    safely := false;
    -- If rows fail, limit the work of this call, because it may be rolled back. The next call continues.
    exit when leased.row_ids is not null or failures >= 20;

    -- No row of this batch was leased: either the queue is empty, or its first rows needed no vector. EXECUTE makes a new plan.
    execute $sql$
      select true from embedding.queue q
      where q.collection_id = $1 and q.failed_at is null and q.available_at <= $2
      order by q.available_at limit 1 for update skip locked
    $sql$ into more using c.id, present;
    exit when more is not true;
  end loop;

  if claim_embeddings.model is not null and leased.row_ids is not null then
    done := embedding.reuse_vectors(c, claim_embeddings.model, leased.row_ids, leased.hashes);
  end if;
  -- The one statement here that is planned once in a session: it reads no table.
  return query
  select r.row_id, r.text, r.text_hash, r.attempts, r.row_id = any (done)
  from unnest(leased.row_ids, leased.texts, leased.hashes, leased.tries) r (row_id, text, text_hash, attempts);
end;
$$;
comment on function public.claim_embeddings is
  'Leases up to batch_size pending rows to this worker, oldest first. Returns no row if none can be claimed. Send text_hash back with the vector. With a model, '
  'a row whose text already has a vector in the table gets this vector in the same call; it is returned as reused and needs no save.';
revoke all on function public.claim_embeddings from public, anon, authenticated, service_role;
grant execute on function public.claim_embeddings to service_role;

-- A claim returns text_hash with a suffix, and a save stores it with the vector. Rows with equal hashes share a vector.
create function embedding.hash_suffix(c embedding.tracked_tables)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('%L::bytea', c.reuse_mark) || case when c.reuse = 'all' then '' else
    format(' || substring(sha256(convert_to(%s, ''UTF8'')) for 10)', case
      when c.reuse = 'none' then format('concat(''row '', s.%I)', c.key_column)
      -- A row without a value in this column shares its vector with no other row.
      else format('case when s.%2$I is null then concat(''row '', s.%1$I) else concat(''value '', s.%2$I) end', c.key_column, c.reuse)
    end) end
$$;
comment on function embedding.hash_suffix is
  'SQL for the bytes after the hash of a text in embedding_hash, for a row s: first the mark of a vector that a worker stored, then a hash that is equal for the rows that may share the vector (with reuse none, a hash of the row''s own key).';
revoke all on function embedding.hash_suffix from public, anon, authenticated, service_role;
grant execute on function embedding.hash_suffix to service_role;

create function embedding.lease_next_rows(
  c embedding.tracked_tables, wanted integer, lease interval, present timestamptz, safely boolean,
  out row_ids text[], out texts text[], out hashes text[], out tries integer[]
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  -- The models are read only if a row has a vector.
  is_pending constant text := format('s.%1$I is not null and (s.embedding is null'
    ' or s.embedding_model = any (array(select embedding.replaced_models($5))))', c.key_column);
  unneeded text[];
  failed text[];
  errors text[];
begin
  execute format($sql$
    with head as materialized (
      select q.ctid as place
      from embedding.queue q
      where q.collection_id = $1 and q.failed_at is null and q.available_at <= $2
      order by q.available_at limit $3 for update skip locked
    ),
    leased as (
      update embedding.queue q
      set leased_at = $2, available_at = $2 + $4, attempts = q.attempts + 1
      from head h
      -- Faster than a look-up of the key. An entry that another transaction has changed after this statement began is not found
      -- under its new ctid and stays for the next claim.
      where q.ctid = h.place
      returning q.row_id, q.attempts
    ),
    document as (
      select l.row_id, l.attempts, %4$s, %6$s as suffix
      from leased l
      left join %2$s s on s.%1$I = l.row_id::%3$s
      %5$s
      offset 0
    ),
    -- Calls of present_text and text_hash would take 3 microseconds a row. A text that begins with a visible character needs
    -- no call of the first, and the second is written out below.
    present as (
      select
        d.row_id, d.attempts, d.error, d.suffix,
        case when d.text collate "C" between '!' and '~' then d.text else embedding.present_text(d.text) end as text
      from document d
      offset 0
    )
    select
      array_agg(p.row_id) filter (where p.leased),
      array_agg(p.text) filter (where p.leased),
      array_agg(encode(sha256(convert_to(p.text, 'UTF8')) || p.suffix, 'hex')) filter (where p.leased),
      array_agg(p.attempts) filter (where p.leased),
      array_agg(p.row_id) filter (where p.text is null and p.error is null),
      array_agg(p.row_id) filter (where not p.leased and (p.text is not null or p.error is not null)),
      array_agg(p.error) filter (where not p.leased and (p.text is not null or p.error is not null))
    from (select p.*, p.text is not null and p.attempts <= 4 * $6 as leased from present p) p
  $sql$, c.key_column, c.source, c.key_type, case
    when safely then 't.text, t.error'
    else format('case when %s then embedding.document_text(s.*) end as text, null::text as error', is_pending)
  end, case
    when safely then format('left join lateral (select d.* from embedding.try_document_text(s.*) d where %s offset 0) t on true', is_pending)
  end, embedding.hash_suffix(c))
  into row_ids, texts, hashes, tries, unneeded, failed, errors
  using c.id, present, wanted, lease, c, c.max_attempts;

  if unneeded is not null then
    -- These rows no longer need a vector. The triggers did not see that change, for example because they were disabled.
    delete from embedding.queue q where q.collection_id = c.id and q.row_id = any (unneeded);
  end if;
  if failed is not null then
    -- A row that makes its worker crash each time must not be claimed for ever. Most rows of a lost batch did not cause the
    -- crash, so a row is failed only after four times as many attempts as with reported failures.
    update embedding.queue q
    set failed_at = present, leased_at = null, attempts = q.attempts - case when f.error is null then 1 else 0 end,
        error = coalesce(f.error, q.error, format('no worker finished this row in %s attempts', q.attempts - 1))
    from unnest(failed, errors) f (row_id, error)
    where q.collection_id = c.id and q.row_id = any (failed) and q.row_id = f.row_id;
  end if;
end;
$$;
comment on function embedding.lease_next_rows is
  'Leases the first rows of the queue, and removes rows that need no vector. If the text of a row cannot be read, its error is raised, or, if safely is true, the row is marked as failed.';
revoke all on function embedding.lease_next_rows from public, anon, authenticated, service_role;
grant execute on function embedding.lease_next_rows to service_role;

create function public.claim_embedding_rows(collection text, row_ids text[], lease_seconds integer default 300)
returns table (asked_id text, row_id text, state text, text text, text_hash text, attempts integer)
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  lease interval := embedding.check_lease(coalesce(lease_seconds, 300));
begin
  if coalesce(cardinality(row_ids), 0) not between 1 and 10000 then
    raise exception 'row_ids must hold between 1 and 10000 ids, not %', coalesce(cardinality(row_ids), 0) using errcode = '22023';
  end if;
  return query execute format($sql$
    with asked as materialized (
      select a.asked_id, embedding.canonical_key(a.asked_id, $2) as row_id, a.place
      from unnest($3) with ordinality a (asked_id, place)
    ),
    document as materialized (
      select
        k.row_id,
        -- This is null if there is no such row.
        s.embedding is not null and (s.embedding_model = any ($4)) is not true as embedded,
        t.text, t.error, t.state, %4$s as suffix,
        -- Without this, a webhook that is sent at each save would claim this row by its key again and again.
        (s.embedding is null or s.embedding_model = any ($4)) and exists (
          select from embedding.queue q
          where q.collection_id = $1 and q.row_id = k.row_id and q.failed_at is not null and q.error = embedding.cleared_reason()
        ) as cleared
      from (select distinct a.row_id from asked a where a.row_id is not null) k
      join %2$s s on s.%1$I = k.row_id::%3$s
      cross join lateral embedding.try_document_text(s.*) t
    ),
    -- Rows are locked in the order of their keys, so that two workers cannot deadlock. A row that another worker has leased
    -- stays leased to it. A failed row, or one that waits for its next attempt, is tried at once, because the caller named it.
    leased as (
      insert into embedding.queue as q (collection_id, row_id, attempts, leased_at, available_at)
      select $1, d.row_id, 1, $5, $5 + $6
      from document d
      where d.text is not null and d.embedded is not true and not d.cleared
      order by d.row_id
      on conflict on constraint queue_pkey do update
      set attempts = case when q.failed_at is null then q.attempts else 0 end + 1, failed_at = null,
          leased_at = excluded.leased_at, available_at = excluded.available_at
      where q.leased_at is null or q.available_at <= $5
      returning q.row_id, q.attempts
    ),
    failed as (
      insert into embedding.queue as q (collection_id, row_id, attempts, failed_at, error)
      select $1, d.row_id, 1, $5, d.error
      from document d
      where d.error is not null and d.embedded is not true
        -- If no row of the table can be read, the rows are not the cause, and this raises an error.
        and (select coalesce(bool_and(embedding.concerns_rows($7, r.state, r.error)), true)
             from (select e.state, e.error from document e where embedding.error_scope(e.state) = 'table' limit 1) r)
      order by d.row_id
      on conflict on constraint queue_pkey do update
      set failed_at = excluded.failed_at, leased_at = null, error = excluded.error
      where q.leased_at is null or q.available_at <= $5
    )
    select
      a.asked_id, d.row_id,
      case
        when d.row_id is null then 'missing'
        when d.error is not null then 'unreadable'
        when d.text is null then 'empty'
        when d.embedded then 'embedded'
        when d.cleared then 'cleared'
        when l.row_id is null then 'leased'
        else 'claimed'
      end,
      case when not d.cleared then d.text end,
      encode(embedding.text_hash(d.text) || d.suffix, 'hex'),
      l.attempts
    from asked a
    left join document d on d.row_id = a.row_id
    left join leased l on l.row_id = a.row_id
    order by a.place
  $sql$, c.key_column, c.source, c.key_type, embedding.hash_suffix(c))
  using c.id, c.key_type, row_ids, array(select embedding.replaced_models(c)), clock_timestamp(), lease, c;
exception
  when others then
    perform embedding.concerns_rows(c, sqlstate, sqlerrm);
    raise;
end;
$$;
comment on function public.claim_embedding_rows is
  'Leases the rows with these keys, also if others come first in the queue. Returns one row for each id, in order. state is claimed, embedded (nothing '
  'to do), leased (by another worker), empty (no text to embed), unreadable (failed, because document_text raises an error), cleared (failed, '
  'because a trigger of the table removes or changes the vector: retry the row after the trigger was repaired) or missing (no such row).';
revoke all on function public.claim_embedding_rows from public, anon, authenticated, service_role;
grant execute on function public.claim_embedding_rows to service_role;

create function public.release_embeddings(collection text, row_ids text[])
returns integer language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  released integer;
begin
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (row_ids)
    order by q.row_id for update
  )
  update embedding.queue q
  set leased_at = null, available_at = clock_timestamp(), attempts = greatest(q.attempts - 1, 0)
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  get diagnostics released = row_count;
  return released;
end;
$$;
comment on function public.release_embeddings is 'Ends leases without counting an attempt. Returns how many leases it ended.';
revoke all on function public.release_embeddings from public, anon, authenticated, service_role;
grant execute on function public.release_embeddings to service_role;

create function public.renew_embeddings(collection text, row_ids text[], lease_seconds integer default 300)
returns integer language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  lease interval := embedding.check_lease(coalesce(lease_seconds, 300));
  renewed integer;
begin
  -- Do not wait for a row that is being saved, failed or edited at this moment.
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (row_ids)
    order by q.row_id for update skip locked
  )
  update embedding.queue q
  set available_at = clock_timestamp() + lease
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  get diagnostics renewed = row_count;
  return renewed;
end;
$$;
comment on function public.renew_embeddings is
  'Extends leases during a slow provider call. So leases can be short, and the rows of a killed worker can soon be claimed again. Returns how many rows are still leased.';
revoke all on function public.renew_embeddings from public, anon, authenticated, service_role;
grant execute on function public.renew_embeddings to service_role;

-- 22_save.sql

create function embedding.cleared_reason()
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'a trigger of the table removes or changes the vector, or changes the text, whenever the row is written: repair the trigger, then retry the row'
$$;
comment on function embedding.cleared_reason is 'The error of a row that has no vector after a save.';
revoke all on function embedding.cleared_reason from public, anon, authenticated, service_role;
grant execute on function embedding.cleared_reason to service_role;

create function embedding.check_width(source regclass, model text, dimensions integer default null)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  wanted constant int := coalesce(check_width.dimensions, (embedding.get_model(model)).dimensions);
  width int;
begin
  -- The type modifier of a vector column is its width, or -1 if it allows any width.
  select a.atttypmod into width
  from pg_attribute a
  where a.attrelid = source and a.attname = 'embedding' and not a.attisdropped and a.atttypmod > 0;
  if width <> wanted then
    raise exception 'the column embedding of table % holds vectors of % dimensions, but model "%" makes % dimensions', source, width, model, wanted
      using errcode = '55000',
            hint = format('Use a model of %s dimensions, or let the column hold any width: alter table %s alter column embedding type extensions.vector; (drop an index over the column first).', width, source);
  end if;
end;
$$;
comment on function embedding.check_width is
  'Raises an error if the column embedding has a fixed width, such as vector(1536), that is not the width of the model. For a model that is not registered yet, pass its dimensions.';
revoke all on function embedding.check_width from public, anon, authenticated, service_role;
grant execute on function embedding.check_width to service_role;

create function embedding.check_model(c embedding.tracked_tables, model text)
returns embedding.tracked_tables
language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  checked embedding.tracked_tables := c;
  others boolean;
begin
  perform embedding.check_width(c.source, model);
  if checked.model is null then
    -- The first backfill sets the model. If two start at once, the second one gets the error below.
    update embedding.collections k set model = check_model.model where k.id = c.id and k.model is null;
    select k.* into strict checked from embedding.tracked_tables k where k.id = c.id;
    -- Until now a row with a vector of any model counted as embedded. From now on, a row is pending if a backfill made its
    -- vector with another model.
    execute format('select exists (select from %s s where s.embedding is not null and s.embedding_model <> all ($1))', c.source)
    into others using checked.kept_models;
    if others then
      perform embedding.queue_pending_rows(checked);
    end if;
  end if;
  if checked.model <> check_model.model then
    raise exception 'collection "%" is embedded with model "%", not "%"', checked.name, checked.model, check_model.model
      using errcode = '55000',
            hint = format('Configure the provider of %1$s, or move the collection: select set_collection_model(%2$L, %3$L) or backfill.py --switch-model.',
              checked.model, checked.name, check_model.model);
  end if;
  return checked;
end;
$$;
comment on function embedding.check_model is 'Returns the collection. Sets its model if it has none, and raises an error if it has another.';
revoke all on function embedding.check_model from public, anon, authenticated, service_role;
grant execute on function embedding.check_model to service_role;

create function embedding.write_batch(c embedding.tracked_tables, model text, row_ids text[], text_hashes bytea[], vectors extensions.vector[])
returns text[] language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  written text[];
  tried integer[];
  kept text[];
begin
  -- Rows are locked in the order of their keys, so that two workers cannot deadlock. Their texts are compared under that
  -- lock, so that a concurrent change is seen. The table's trigger removes stored rows from the queue.
  execute format($sql$
    with incoming as materialized (
      select i.row_id, i.text_hash, i.embedding from unnest($1, $2, $3) as i(row_id, text_hash, embedding)
    ),
    locked as materialized (
      select
        s.%1$I as key, i.row_id, i.text_hash, i.embedding,
        embedding.text_hash(embedding.document_text(s.*)) = substring(i.text_hash for 32)
          -- During the provider's call, another program may have written a vector that no backfill replaces.
          and (s.embedding is null or s.embedding_model is null or s.embedding_model = $4
               or s.embedding_model = any (array(select embedding.replaced_models($6)))) as fresh,
        -- True if another worker saved the row after this worker's lease had expired. A vector that was removed without the
        -- triggers leaves its hash behind.
        s.embedding is not null and substring(s.embedding_hash for 32) = substring(i.text_hash for 32) and s.embedding_model = $4
          as saved_before,
        -- Read before the update: the table's trigger removes the row from the queue once it has its vector.
        coalesce((select q.attempts from embedding.queue q where q.collection_id = $5 and q.row_id = i.row_id), 0) as attempts
      from incoming i
      join %2$s s on s.%1$I = i.row_id::%3$s
      order by s.%1$I
      for no key update of s
    ),
    updated as (
      update %2$s s
      set embedding = l.embedding, embedding_model = $4, embedding_hash = l.text_hash
      from locked l
      where s.%1$I = l.key and l.fresh and l.saved_before is not true
    )
    select array_agg(l.row_id), array_agg(l.attempts) from locked l where l.fresh
  $sql$, c.key_column, c.source, c.key_type) into written, tried using row_ids, text_hashes, vectors, model, c.id, c;
  if written is null then
    return '{}';
  end if;
  -- Read the rows again after the table's triggers have run, because one of them may have removed a vector. The conditions on
  -- the vector are not in WHERE, because the planner could then choose the index on embedding_hash and read all of it.
  execute format($sql$
    select coalesce(array_agg(i.row_id)
      filter (where substring(s.embedding_hash for 32) = substring(i.text_hash for 32) and s.embedding_model = $3 and s.embedding is not null), '{}')
    from unnest($1, $2) as i(row_id, text_hash)
    join %2$s s on s.%1$I = i.row_id::%3$s
  $sql$, c.key_column, c.source, c.key_type) into kept using row_ids, text_hashes, model;
  if kept @> written then
    return written;
  end if;
  perform embedding.refuse_rows(c, array_agg(w.row_id), array_agg(w.attempts), array_agg(embedding.cleared_reason()))
  from unnest(written, tried) w (row_id, attempts)
  where w.row_id <> all (kept);
  return kept;
end;
$$;
comment on function embedding.write_batch is 'Writes vectors in one statement. If one row raises an error, the whole statement fails.';
revoke all on function embedding.write_batch from public, anon, authenticated, service_role;
grant execute on function embedding.write_batch to service_role;

create function embedding.write_vectors(
  c embedding.tracked_tables, model text, row_ids text[], text_hashes bytea[], vectors extensions.vector[]
)
returns text[] language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  stored text[] := '{}';
  failed integer := 0;
  failed_with text;
  reason text;
  entry record;
  row_values text[];
begin
  begin
    return embedding.write_batch(c, model, row_ids, text_hashes, vectors);
  exception
    when others then
      if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
        raise;
      end if;
  end;
  -- A row raised an error. So write each row separately, in the order of the keys as in write_batch, and record the errors.
  for entry in execute format(
    'select i.row_id, i.text_hash, i.embedding from unnest($1, $2, $3) as i(row_id, text_hash, embedding) order by i.row_id::%s', c.key_type)
    using row_ids, text_hashes, vectors
  loop
    begin
      stored := stored || embedding.write_batch(c, model, array[entry.row_id], array[entry.text_hash], array[entry.embedding]);
    exception
      when others then
        if not embedding.concerns_rows(c, sqlstate, sqlerrm) then
          raise;
        end if;
        execute format('select embedding.row_values(s.*) from %s s where s.%I = $1::%s', c.source, c.key_column, c.key_type) into row_values using entry.row_id;
        reason := 'the vector could not be written: ' || embedding.error_reason(sqlstate, sqlerrm, row_values);
        perform embedding.refuse_rows(c, array[entry.row_id],
          array[(select q.attempts from embedding.queue q where q.collection_id = c.id and q.row_id = entry.row_id)],
          array[reason]);
        failed := failed + 1;
        failed_with := sqlstate;
    end;
  end loop;
  -- If all rows of a batch fail, a single row is not the cause. Then end the run; otherwise the user would pay for the whole
  -- table without a result.
  if failed > 1 and failed = cardinality(row_ids) then
    raise exception using errcode = failed_with, message = reason;
  end if;
  return stored;
end;
$$;
comment on function embedding.write_vectors is
  'Writes vectors to the rows that still have the text from which the vector was made. Returns the rows that have their vector now. The other rows are stale, or the table rejected their vector, which counts as an attempt.';
revoke all on function embedding.write_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.write_vectors to service_role;

create function public.save_embeddings(collection text, model text, rows jsonb)
returns table (saved integer, stale integer)
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.check_model(embedding.get_collection(collection), save_embeddings.model);
  expected integer := (embedding.get_model(save_embeddings.model)).dimensions;
  row_ids text[];
  text_hashes bytea[];
  vectors extensions.vector[];
  wrong record;
  stored text[];
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {row_id, text_hash, embedding}' using errcode = '22023';
  end if;
  -- Parse the JSON only once, because a batch has a few hundred kilobytes.
  select array_agg(v.row_id), array_agg(decode(v.text_hash, 'hex')), array_agg(v.embedding::extensions.vector)
  into row_ids, text_hashes, vectors
  from jsonb_to_recordset(rows) as v(row_id text, text_hash text, embedding text);

  select i.row_id, i.text_hash, i.embedding, extensions.vector_dims(i.embedding) as width into wrong
  from unnest(row_ids, text_hashes, vectors) as i(row_id, text_hash, embedding)
  where i.row_id is null or i.text_hash is null or extensions.vector_dims(i.embedding) is distinct from expected
  limit 1;
  if found and (wrong.row_id is null or wrong.text_hash is null or wrong.embedding is null) then
    raise exception 'rows must hold row_id, text_hash and embedding; row "%" does not', coalesce(wrong.row_id, '<null>')
      using errcode = '22023', hint = 'Send the row_id and text_hash that claim_embeddings returned.';
  elsif found then
    raise exception 'row "%" has % dimensions, model "%" has %', wrong.row_id, wrong.width, save_embeddings.model, expected
      using errcode = '22023', hint = 'Another model made the vector. Nothing of this batch was stored.';
  end if;

  stored := embedding.write_vectors(c, save_embeddings.model, row_ids, text_hashes, vectors);
  saved := cardinality(stored);
  stale := coalesce(cardinality(row_ids), 0) - saved;
  if stale > 0 then
    -- The new text of the stale rows can be claimed at once. (A deleted row has no entry any more, and refuse_rows has ended
    -- the leases of the rows that it recorded.) A write that changes a text sets attempts to 0. So if attempts is not 0,
    -- document_text has returned another text for an unchanged row; such a row is failed after its last attempt.
    with held as materialized (
      select q.row_id from embedding.queue q
      where q.collection_id = c.id
        and q.row_id = any (array(select o from unnest(row_ids) o except select s from unnest(stored) s))
      order by q.row_id for update
    )
    update embedding.queue q
    set leased_at = null, available_at = clock_timestamp(),
        failed_at = case when q.attempts >= c.max_attempts then clock_timestamp() end,
        error = case
          when q.attempts > 0 then 'embedding.document_text returned another text although the row was not written: '
            'it must return the same text for the same row'
        end
    from held h
    where q.collection_id = c.id and q.row_id = h.row_id and q.leased_at is not null;
  end if;
  return next;
end;
$$;
comment on function public.save_embeddings is
  'Stores vectors: rows is [{row_id, text_hash, embedding}]. saved is the number of rows that have their vector afterwards. The others are stale, because their text has changed or a trigger of the table has removed the vector. They stay pending, or are failed after their last attempt.';
revoke all on function public.save_embeddings from public, anon, authenticated, service_role;
grant execute on function public.save_embeddings to service_role;

create function embedding.reuse_vectors(c embedding.tracked_tables, model text, row_ids text[], text_hashes text[])
returns text[] language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  known text[];
  hashes bytea[];
  vectors extensions.vector[];
begin
  -- Only a vector that a worker stored is copied, which the mark in its hash shows. If clients may write vectors, nothing is
  -- copied, because they could copy the mark too.
  if c.reuse = 'none' or c.client_vectors then
    return '{}';
  end if;
  -- Skip rows that another transaction has locked. It may wait for queue entries that this claim has locked, so to wait for
  -- it could be a deadlock.
  begin
    execute format($sql$
      with known as materialized (
        select v.row_id, d.embedding_hash, d.embedding
        from unnest($1, $2) as v(row_id, text_hash)
        cross join lateral (
          select s.embedding, s.embedding_hash from %2$s s
          where s.embedding_hash = decode(v.text_hash, 'hex') and s.embedding_model = $3 and s.embedding is not null
            -- The value of the column `reuse` may have changed since the vector was saved.
            and substring(s.embedding_hash from 33) = %4$s
          limit 1
        ) d
      ),
      locked as materialized (
        select k.row_id, k.embedding_hash, k.embedding
        from known k
        join %2$s s on s.%1$I = k.row_id::%3$s
        order by s.%1$I
        for no key update of s skip locked
      )
      select array_agg(l.row_id), array_agg(l.embedding_hash), array_agg(l.embedding) from locked l
    $sql$, c.key_column, c.source, c.key_type, embedding.hash_suffix(c)) into known, hashes, vectors using row_ids, text_hashes, model;
  exception
    when others then
      perform embedding.concerns_rows(c, sqlstate, sqlerrm);
      raise;
  end;
  if known is null then
    return '{}';
  end if;
  return embedding.write_vectors(c, model, known, hashes, vectors);
end;
$$;
comment on function embedding.reuse_vectors is 'Copies the vectors of equal texts. Returns the rows that have a vector now.';
revoke all on function embedding.reuse_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.reuse_vectors to service_role;

create function public.reuse_embeddings(collection text, model text, rows jsonb)
returns setof text language plpgsql security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.check_model(embedding.get_collection(collection), reuse_embeddings.model);
begin
  return query
  select unnest(embedding.reuse_vectors(c, reuse_embeddings.model, array_agg(v.row_id), array_agg(v.text_hash)))
  from jsonb_to_recordset(rows) as v(row_id text, text_hash text);
end;
$$;
comment on function public.reuse_embeddings is
  'Copies a vector to each of the claimed rows [{row_id, text_hash}] whose text has a vector of this model in the table. Returns the rows that have a vector now.';
revoke all on function public.reuse_embeddings from public, anon, authenticated, service_role;
grant execute on function public.reuse_embeddings to service_role;

-- 23_retry.sql

-- The retry rule of every queue: after a failed attempt an entry waits. The wait doubles with each attempt, up to a limit;
-- after max_attempts the entry is failed until it is queued again on request.
create function embedding.backoff(attempts integer, first_seconds integer, longest interval)
returns interval language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  -- Calculate in seconds, because the product may be too large for an interval. 2 ^ 19 is enough to reach any limit.
  select make_interval(secs => least(
    greatest(first_seconds, 0) * 2.0 ^ (least(greatest(attempts, 1), 20) - 1), extract(epoch from longest))::float)
$$;
comment on function embedding.backoff is 'The wait after a failed attempt: first_seconds, doubled with each further attempt, at most longest.';
revoke all on function embedding.backoff from public, anon, authenticated, service_role;
grant execute on function embedding.backoff to service_role;

create function embedding.refuse_rows(c embedding.tracked_tables, row_ids text[], tried integer[], reasons text[])
returns void language sql security invoker set search_path = pg_catalog, pg_temp as $$
  insert into embedding.queue as q (collection_id, row_id, attempts, error, failed_at, available_at)
  select
    c.id, r.row_id, r.attempts, r.reason,
    case when r.attempts >= c.max_attempts then clock_timestamp() end,
    clock_timestamp() + embedding.backoff(r.attempts, 30, interval '1 hour')
  from (
    select u.row_id, greatest(max(u.attempts), 1) as attempts, min(u.reason) as reason
    from unnest(row_ids, tried, reasons) u (row_id, attempts, reason)
    group by u.row_id
    order by u.row_id
  ) r
  on conflict on constraint queue_pkey do update
  set attempts = excluded.attempts, error = excluded.error, failed_at = excluded.failed_at, leased_at = null,
      available_at = excluded.available_at
$$;
comment on function embedding.refuse_rows is 'Records rows whose vector could not be stored: they wait for their next attempt, or are failed after the last one.';
revoke all on function embedding.refuse_rows from public, anon, authenticated, service_role;
grant execute on function embedding.refuse_rows to service_role;

create function public.fail_embeddings(collection text, rows jsonb, retry_after_seconds integer default 30)
returns integer language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  given_up integer;
begin
  with failed as materialized (
    select v.row_id, v.error, coalesce(v.final, false) as final
    from jsonb_to_recordset(rows) as v(row_id text, error text, final boolean)
  ),
  held as materialized (
    -- A leased row with 0 attempts got a new text after it was claimed (see check_vectors). Only the old text has failed, so
    -- the row can be claimed again at once.
    select q.row_id, q.leased_at is not null and q.attempts = 0 as stale
    from embedding.queue q
    where q.collection_id = c.id and q.row_id = any (array(select f.row_id from failed f))
    order by q.row_id for update
  ),
  updated as (
    update embedding.queue q
    set leased_at = null,
        error = case when not h.stale then left(coalesce(f.error, 'unknown'), 2000) end,
        failed_at = case when not h.stale and (f.final or q.attempts >= c.max_attempts) then clock_timestamp() end,
        available_at = clock_timestamp()
          + case when h.stale then interval '0' else embedding.backoff(q.attempts, coalesce(retry_after_seconds, 30), interval '1 hour') end
    from held h
    join failed f on f.row_id = h.row_id
    where q.collection_id = c.id and q.row_id = h.row_id
    returning q.failed_at
  )
  select count(*) filter (where u.failed_at is not null) into given_up from updated u;
  return given_up;
end;
$$;
comment on function public.fail_embeddings is
  'Records rows that could not be embedded: [{row_id, error, final}]. They wait for their next attempt, or are failed if final is true or it was the last attempt. Returns how many of them are failed.';
revoke all on function public.fail_embeddings from public, anon, authenticated, service_role;
grant execute on function public.fail_embeddings to service_role;

create function public.list_failed_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, attempts integer, failed_at timestamptz, error text)
language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
begin
  return query
  select q.row_id, q.attempts, q.failed_at, q.error
  from embedding.queue q
  where q.collection_id = c.id and q.failed_at is not null
  order by q.failed_at desc, q.row_id
  limit coalesce(max_rows, 100);
end;
$$;
comment on function public.list_failed_embeddings is 'Failed rows with their errors, latest first.';
revoke all on function public.list_failed_embeddings from public, anon, authenticated, service_role;
grant execute on function public.list_failed_embeddings to service_role;

create function public.retry_failed_embeddings(collection text, row_ids text[] default null)
returns bigint language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  requeued bigint;
begin
  with held as materialized (
    select q.row_id from embedding.queue q
    where q.collection_id = c.id and (row_ids is null or q.row_id = any (row_ids)) and q.failed_at is not null
    order by q.row_id for update
  )
  update embedding.queue q
  set failed_at = null, leased_at = null, attempts = 0, available_at = clock_timestamp()
  from held h
  where q.collection_id = c.id and q.row_id = h.row_id and q.failed_at is not null;
  get diagnostics requeued = row_count;
  return requeued;
end;
$$;
comment on function public.retry_failed_embeddings is 'Queues failed rows again: those of row_ids, or all. Returns how many were queued.';
revoke all on function public.retry_failed_embeddings from public, anon, authenticated, service_role;
grant execute on function public.retry_failed_embeddings to service_role;

-- 24_row_level_security.sql

-- service_role must see every row. On Supabase it has BYPASSRLS. Another managed server may refuse this right. Then row level
-- security would hide pending rows from service_role, and the collection would look complete.

create function embedding.admit_service_role(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles r where r.rolname = 'service_role' and (r.rolsuper or r.rolbypassrls))
    and not exists (select from pg_policy p where p.polrelid = source and p.polname = 'service_role works on every row')
  then
    execute format('create policy "service_role works on every row" on %s to service_role using (true) with check (true)', source);
  end if;
end;
$$;
comment on function embedding.admit_service_role is
  'Gives service_role a policy for all rows of a table if it does not have BYPASSRLS. The policy has no effect until the table has row level security.';
revoke all on function embedding.admit_service_role from public, anon, authenticated, service_role;

-- 30_full_text_languages.sql

-- Full-text search in several languages. A text search configuration belongs to one language. Its dictionaries cannot be
-- combined with those of another language, because a stemmer accepts every word. So a text is parsed once with each
-- configuration, and fts contains all lexemes. A query is parsed in the same way and passed to search_hits as lexemes, which
-- the configuration `simple` does not change. For a table in two languages:
-- - it has the column fts tsvector generated always as (embedding.lexemes(title || ' ' || body, 'english', 'french')) stored;
-- - it is tracked with text_config => 'simple';
-- - it is searched with embedding.query_lexemes(query_text, 'english', 'french').
create function embedding.fold_accents(document text)
returns text language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
  select replace(replace(translate(document,
    'àáâãäåçèéêëìíîïñòóôõöùúûüýÿÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝŸ',
    'aaaaaaceeeeiiiinooooouuuuyyAAAAAACEEEEIIIINOOOOOUUUUYY'), 'œ', 'oe'), 'Œ', 'OE')
$$;
comment on function embedding.fold_accents is 'Removes the accents of a text, so that "electronique" finds "électronique".';
revoke all on function embedding.fold_accents from public, anon, authenticated, service_role;
grant execute on function embedding.fold_accents to anon, authenticated, service_role;

create function embedding.fit_lexemes(text_config regconfig, document text)
returns tsvector
-- Not parallel safe: an exception block starts a subtransaction.
language plpgsql immutable strict parallel unsafe set search_path = pg_catalog, pg_temp as $$
begin
  return to_tsvector(text_config, document);
exception
  -- A tsvector has at most 1 MB. Index only the beginning of the text, so that the row can be written.
  when program_limit_exceeded then
    return embedding.fit_lexemes(text_config, left(document, char_length(document) / 2));
end;
$$;
comment on function embedding.fit_lexemes is 'The lexemes of a text, or of its beginning if they do not fit into a tsvector.';
revoke all on function embedding.fit_lexemes from public, anon, authenticated, service_role;
grant execute on function embedding.fit_lexemes to service_role;

create function embedding.computes_fts(source regclass)
returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_trigger g where g.tgrelid = source and g.tgname = 'zz_embedding_fts')
$$;
comment on function embedding.computes_fts is 'Whether a trigger computes the fts of a tracked table. Otherwise fts is a generated column.';
revoke all on function embedding.computes_fts from public, anon, authenticated, service_role;
grant execute on function embedding.computes_fts to service_role;

create function embedding.lexemes(document text, variadic configs regconfig[])
returns tsvector language plpgsql immutable strict parallel unsafe set search_path = pg_catalog, pg_temp as $$
declare
  result tsvector := '';
  config regconfig;
begin
  foreach config in array configs loop
    -- Accents are removed after stemming, because the stemmer needs them. They are removed from the printed tsvector. This is
    -- safe, because each lexeme is quoted there.
    result := result || embedding.fold_accents(to_tsvector(config, document)::text)::tsvector;
  end loop;
  return result;
exception
  -- Index only the beginning of the text, as in fit_lexemes.
  when program_limit_exceeded then
    return embedding.lexemes(left(document, char_length(document) / 2), variadic configs);
end;
$$;
comment on function embedding.lexemes is 'The lexemes of a text in each of the configurations, without accents.';
revoke all on function embedding.lexemes from public, anon, authenticated, service_role;
grant execute on function embedding.lexemes to anon, authenticated, service_role;

create function embedding.query_lexemes(query_text text, variadic configs regconfig[])
returns text language plpgsql immutable strict parallel unsafe set search_path = pg_catalog, pg_temp as $$
declare
  -- Read as many characters as query_terms does.
  query_lexemes text[] := tsvector_to_array(to_tsvector('simple', left(query_text, 24000)));
  content_words text[];
begin
  -- A stop word of one language is removed, although the other languages would keep it: "pour la plage" is about a beach.
  -- If a query consists of stop words only, they are kept: "son" is a French possessive and also a Cuban dance.
  content_words := array(
    select q.word from unnest(query_lexemes[1:2000]) q (word)
    where not exists (select from unnest(configs) c (config) where to_tsvector(c.config, q.word) = ''));
  return array_to_string(tsvector_to_array(embedding.lexemes(
    array_to_string(case when content_words = '{}' then query_lexemes else content_words end, ' '), variadic configs)), ' ');
end;
$$;
comment on function embedding.query_lexemes is
  'The lexemes of a query in each of the configurations, without the stop words of any of them.';
revoke all on function embedding.query_lexemes from public, anon, authenticated, service_role;
grant execute on function embedding.query_lexemes to anon, authenticated, service_role;

create function embedding.check_lexeme_count()
returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  longest text;
begin
  select c.name into longest from unnest(tg_argv) c (name) order by length(to_jsonb(new) ->> c.name) desc nulls last limit 1;
  begin
    perform to_tsvector('english', string_agg(to_jsonb(new) ->> c.name, ' ')) from unnest(tg_argv) c (name);
  exception
    when program_limit_exceeded then
      raise exception '% holds more words than can be indexed', longest
        using errcode = '22023', hint = format('PostgreSQL indexes at most 1 MB of distinct words of a row. Divide the text into several rows of %s.', tg_table_name);
  end;
  return new;
end;
$$;
comment on function embedding.check_lexeme_count is
  'Refuses a row whose text has more distinct words than its generated fts can contain, and names the longest column. The arguments are '
  'the columns from which fts is made. For a table whose fts is generated with PostgreSQL''s own to_tsvector.';
revoke all on function embedding.check_lexeme_count from public, anon, authenticated, service_role;

-- 31_tracking_triggers.sql

create function embedding.check_session()
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  -- In a SECURITY DEFINER function current_user is the owner, but the setting `role` still has the name of the caller.
  caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
  shadowing name;
begin
  if pg_has_role(caller, current_user, 'member') then
    return;
  end if;
  -- Refuse a domain of any name, because a function that was compiled with a domain uses it even after the domain was renamed.
  select t.typname into shadowing
  from pg_type t
  where t.typnamespace = pg_my_temp_schema() and t.typtype <> 'b'
    and (t.typtype = 'd' or exists (
      select from pg_type o
      where o.typname = t.typname and o.typnamespace <> t.typnamespace and not pg_is_other_temp_schema(o.typnamespace)))
  limit 1;
  if found then
    raise exception 'this session has a temporary type or table "%", which could replace another one in code that runs as the owner', shadowing
      using errcode = '55000', hint = 'Drop it, or rename a temporary table, before you write to a tracked table.';
  end if;
end;
$$;
comment on function embedding.check_session is
  'Raises an error if a temporary type or table of the session could replace another one in code that runs as the owner, such as document_text or a trigger of the table.';
revoke all on function embedding.check_session from public, anon, authenticated, service_role;

create function embedding.check_columns(source regclass, key_column name)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  missing text;
begin
  select string_agg(format('"%s"', w.name), ', ') into missing
  from unnest(array[key_column, 'embedding', 'embedding_model', 'embedding_hash']) w (name)
  where not exists (select from pg_attribute a where a.attrelid = source and a.attname = w.name and not a.attisdropped);
  if missing is not null then
    raise exception '% no longer has the column %, with which it was tracked', source, missing
      using errcode = '42703',
            hint = format('Track the table again after its columns have changed: select track_embeddings(%L).', source);
  end if;
end;
$$;
comment on function embedding.check_columns is 'Raises an error for a table whose key column, or one of the columns for its vectors, no longer exists.';
revoke all on function embedding.check_columns from public, anon, authenticated, service_role;

create function embedding.check_vectors()
returns trigger
-- Security definer, because a role that may write the table has no grant on the queue.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  source constant regclass := tg_relid;
  collection record;
  work record;
  wrong record;
  -- A larger statement changes the queue without first collecting its rows in arrays.
  large constant boolean := exists (select from new_rows offset 1000);
  safely boolean := false;
  was_pending boolean := false;
  row_ids text[];
  needed boolean[];
  errors text[];
begin
  -- A statement trigger also fires when no row was written, and the update at the end of this function fires it again.
  if not exists (select from new_rows) then
    return null;
  end if;
  if pg_my_temp_schema() <> 0 then
    perform embedding.check_session();
  end if;
  select
    c.id, c.name, c.key_column, c.model, m.dimensions, embedding.kept_models(c.model, c.retiring_models) as kept,
    pg_has_role(t.relowner, current_user, 'usage') and pg_has_role(d.proowner, current_user, 'usage') is not false as trusted
  into collection
  from embedding.collections c
  cross join pg_class t
  left join embedding.models m on m.name = c.model
  left join pg_proc d
    on d.proname = 'document_text' and d.pronamespace = 'embedding'::regnamespace and d.proargtypes = t.reltype::text::oidvector
  where c.id = tg_argv[0]::integer and t.oid = source;
  -- The owner may have changed since the table was tracked.
  if not collection.trusted then
    perform embedding.check_ownership(source);
  end if;
  perform embedding.check_columns(source, collection.key_column);

  loop
    begin
      if tg_op = 'INSERT' and not exists (
        select from new_rows n where n.embedding is not null or n.embedding_model is not null or n.embedding_hash is not null
      ) then
        -- Nearly every insert has this case: there is no vector to check and no text to hash.
        select true as pending, false as unusual, false as stale into work;
      else
        execute embedding.written_sql(source, safely) into work using collection.kept, collection.model, collection.dimensions;
      end if;
      if work.pending or safely then
        if large and not safely then
          execute embedding.enqueue_sql(embedding.changed_sql(source, collection.key_column, tg_op, safely))
          using collection.kept, collection.id;
        else
          -- This statement only reads, so that the block does not take a transaction id of its own.
          execute format('select array_agg(c.row_id), array_agg(c.needed), array_agg(c.error) from (%s) c',
            embedding.changed_sql(source, collection.key_column, tg_op, safely))
          into row_ids, needed, errors using collection.kept;
        end if;
      end if;
      exit;
    exception
      when others then
        -- The text of a row cannot be read. That row is marked as failed, and the user's statement succeeds.
        if safely or embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
        safely := true;
    end;
  end loop;

  if work.unusual then
    -- Find a written row whose vector has an unregistered model, or another width than its model.
    execute format($sql$
      select n.%1$I::text as row_id, n.embedding_model as model, extensions.vector_dims(n.embedding) as width,
        m.dimensions as expected
      from new_rows n
      left join embedding.models m on m.name = coalesce(n.embedding_model, embedding.default_model(%2$L))
      where n.embedding is not null and m.dimensions is distinct from extensions.vector_dims(n.embedding)
      order by 1 limit 1
    $sql$, collection.key_column, source) into wrong;
    if wrong.row_id is not null and wrong.expected is null then
      raise exception 'embedding_model "%" of row "%" in % is not registered', coalesce(wrong.model, '<null>'), wrong.row_id, collection.name
        using errcode = '22023',
              hint = 'Set embedding_model together with embedding, and register the model with register_embedding_model(name, provider, dimensions).';
    elsif wrong.row_id is not null then
      raise exception 'embedding of row "%" in % has % dimensions, model "%" has %', wrong.row_id, collection.name, wrong.width, wrong.model, wrong.expected
        using errcode = '22023',
              hint = 'Set embedding_model to the model that made the vector, or move the collection with set_collection_model.';
    end if;
  end if;

  if tg_op = 'UPDATE' and not work.pending then
    was_pending := exists (select from old_rows o where o.embedding is null or o.embedding_model <> all (collection.kept));
  end if;
  if row_ids is not null then
    execute embedding.enqueue_sql('select * from unnest($3, $4, $5) c (row_id, needed, error)')
    using collection.kept, collection.id, row_ids, needed, errors;
  elsif was_pending then
    -- All written rows have their vectors. So remove their present and former keys from the queue.
    execute format($sql$
      delete from embedding.queue q
      -- Use an array and no join: for a join the planner would scan the whole queue if statistics say that it is empty.
      where q.collection_id = $1
        and q.row_id = any (array(select n.%1$I::text from new_rows n union all select o.%1$I::text from old_rows o))
    $sql$, collection.key_column) using collection.id;
  end if;

  -- This is the most important rule: a row keeps a vector only while it has the text from which the vector was made.
  if work.stale then
    execute embedding.clear_stale_sql(source, collection.key_column, tg_op, safely);
  end if;
  return null;
end;
$$;
comment on function embedding.check_vectors is
  'Runs after an insert or update: refuses vectors of a wrong width or an unknown model, updates the queue, and clears every vector whose text has changed. The argument is the collection''s id.';
revoke all on function embedding.check_vectors from public, anon, authenticated, service_role;

create function embedding.refresh_fts()
returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  document text;
begin
  if pg_my_temp_schema() <> 0 then
    perform embedding.check_session();
  end if;
  -- check_vectors checks the owners too, but only after the statement, and a new owner of the table could disable it. This
  -- check takes 6 microseconds for each row. It is not needed for a caller with the rights of this function's owner, as in a
  -- bulk load.
  if not pg_has_role(case current_setting('role') when 'none' then session_user else current_setting('role') end, current_user, 'usage') then
    perform from pg_proc d
    where d.proname = 'document_text' and d.pronamespace = 'embedding'::regnamespace and d.proargtypes = pg_typeof(new)::oid::text::oidvector
      and pg_has_role(d.proowner, current_user, 'usage');
    if not found then
      perform embedding.check_ownership(tg_relid);
    end if;
  end if;
  -- PostgreSQL compiles a trigger function for each trigger separately. So `new` has the row type of the tracked table, and
  -- each session plans the calls below once. EXECUTE would plan them for each row.
  document := embedding.document_text(new);
  -- Do not parse the text again if only a vector was saved. fts is null if the text could not be read before.
  if tg_op = 'UPDATE' then
    if new.fts <> '' and new.fts is not distinct from old.fts and document is not distinct from embedding.document_text(old) then
      return new;
    end if;
  end if;
  new.fts := to_tsvector(tg_argv[0]::regconfig, coalesce(document, ''));
  return new;
exception
  when others then
    -- The text is too long for a tsvector, or document_text raised an error. The row is stored nevertheless, and check_vectors
    -- marks it as failed.
    if embedding.error_scope(sqlstate) = 'passing' then
      raise;
    end if;
    new.fts := embedding.fit_lexemes(tg_argv[0]::regconfig, coalesce((embedding.try_document_text(new)).text, ''));
    return new;
end;
$$;
comment on function embedding.refresh_fts is 'Computes fts if it is not a generated column. The argument is the text search configuration.';
revoke all on function embedding.refresh_fts from public, anon, authenticated, service_role;

create function embedding.dequeue_deleted()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  collection embedding.collections;
begin
  select c.* into collection from embedding.collections c where c.id = tg_argv[0]::integer;
  if tg_op = 'TRUNCATE' then
    delete from embedding.queue q where q.collection_id = collection.id;
  else
    perform embedding.check_columns(tg_relid, collection.key_column);
    execute format($sql$
      delete from embedding.queue q
      using old_rows o
      where q.collection_id = $1 and q.row_id = o.%1$I::text
    $sql$, collection.key_column) using collection.id;
  end if;
  return null;
end;
$$;
comment on function embedding.dequeue_deleted is 'Removes deleted rows from the queue.';
revoke all on function embedding.dequeue_deleted from public, anon, authenticated, service_role;

-- 31_written_rows.sql

-- The statements of check_vectors. Only the trigger function sees the transition tables new_rows and old_rows, so these
-- functions return a statement as text and do not run it. In a statement, $1 are the models whose vectors are kept.
--
-- The cost of transition tables was measured with an update of 30,000 rows with vectors of 384 dimensions, in a table with
-- only a primary key. The tables alone add half of the time that the update takes without them. To read one of them adds a
-- quarter of that time, and to join the two adds as much time as the whole update takes. So for an update that does not
-- change texts or vectors, each transition table is read once, and they are not joined.
--
-- safely is true if the text of a row raised an error. Then each text is read in a block of its own.
create function embedding.written_text(source regclass, alias text, safely boolean)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format(case when safely then '(select * from embedding.try_document_text(row(%1$s.*)::%2$s))'
    else '(select null::text as error, null::text as state, embedding.present_text(embedding.document_text(row(%1$s.*)::%2$s)) as text)' end,
    alias, source)
$$;
comment on function embedding.written_text is 'SQL for the text of a written row, as a table of one row: text, error, state.';
revoke all on function embedding.written_text from public, anon, authenticated, service_role;

create function embedding.changed_sql(source regclass, key_column name, operation text, safely boolean)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not safely then
    return format(case operation when 'INSERT' then $sql$
      select n.%1$I::text as row_id, true as needed, null::text as error
      from new_rows n
      where (n.embedding is null or n.embedding_model <> all ($1))
        and embedding.present_text(embedding.document_text(row(n.*)::%2$s)) is not null
    $sql$ else $sql$
      select
        coalesce(n.%1$I, o.%1$I)::text as row_id,
        case
          when n.%1$I is null or (n.embedding is not null and (n.embedding_model = any ($1)) is not false) then false
          else embedding.present_text(embedding.document_text(row(n.*)::%2$s)) is not null
        end as needed,
        null::text as error
      from new_rows n
      -- Use a full join, because the update may have changed keys.
      full join old_rows o on o.%1$I = n.%1$I
      where case
        when n.%1$I is null or o.%1$I is null or (o.embedding is null) <> (n.embedding is null) then true
        when n.embedding is not null and (o.embedding_model <> all ($1)) is distinct from (n.embedding_model <> all ($1)) then true
        when n.embedding is null or n.embedding_model <> all ($1)
          then embedding.document_text(row(o.*)::%2$s) is distinct from embedding.document_text(row(n.*)::%2$s)
        else false
      end
    $sql$ end, key_column, source);
  end if;
  return format($sql$
    select
      coalesce(n.%1$I, o.%1$I)::text as row_id,
      -- If no row can be read, the table or the function is the cause. Its rows stay pending until it is repaired.
      n.%1$I is not null and (n.embedding is null or n.embedding_model <> all ($1))
        and (t.text is not null or coalesce(embedding.error_scope(t.state) = 'table', false)) as needed,
      case when n.%1$I is not null and embedding.error_scope(t.state) = 'row' then t.error end as error
    from new_rows n
    full join %3$s o on o.%1$I = n.%1$I
    cross join lateral embedding.try_document_text(row(n.*)::%2$s) t
    cross join lateral embedding.try_document_text(row(o.*)::%2$s) former
    where n.%1$I is null or o.%1$I is null or (o.embedding is null) <> (n.embedding is null)
      or o.embedding_model is distinct from n.embedding_model
      or row(t.text, t.error) is distinct from row(former.text, former.error)
  $sql$, key_column, source,
    -- An insert has no old rows.
    case operation when 'INSERT' then format('(select * from %s where false)', source) else 'old_rows' end);
end;
$$;
comment on function embedding.changed_sql is
  'SQL for the written rows whose queue entry may have to change, because their state or text has changed. needed is true if the row needs a vector; error says why its text cannot be read.';
revoke all on function embedding.changed_sql from public, anon, authenticated, service_role;

create function embedding.written_sql(source regclass, safely boolean)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  -- pending is true if some rows need a vector, unusual if some have a vector with another model or width than the
  -- collection, stale if some have a vector, a model or a hash that does not belong to their text. $2 is the collection's
  -- model, $3 its width.
  select format($sql$
    select
      coalesce(bool_or(n.embedding is null or n.embedding_model <> all ($1)), false) as pending,
      coalesce(bool_or(n.embedding is not null and (n.embedding_model is distinct from $2
        or extensions.vector_dims(n.embedding) is distinct from $3)), false) as unusual,
      coalesce(bool_or(case
        when n.embedding is null then n.embedding_model is not null or n.embedding_hash is not null
        else n.embedding_model is null
          or (substring(n.embedding_hash for 32) = (select embedding.text_hash(t.text) from %s t)) is not true
      end), false) as stale
    from new_rows n
  $sql$, embedding.written_text(source, 'n', safely))
$$;
comment on function embedding.written_sql is 'SQL that finds out what check_vectors has to do for the written rows.';
revoke all on function embedding.written_sql from public, anon, authenticated, service_role;

create function embedding.enqueue_sql(changed text)
returns text language sql immutable set search_path = pg_catalog, pg_temp as $$
  -- A changed text sets attempts to 0, also for a failed row. A lease stays, because its worker will detect the changed text.
  select format($sql$
    with changed as materialized (%s),
    dequeued as (
      delete from embedding.queue q
      where q.collection_id = $2 and q.row_id = any (array(select c.row_id from changed c where not c.needed and c.error is null))
    )
    insert into embedding.queue as q (collection_id, row_id, attempts, failed_at, error)
    select $2, c.row_id, case when c.error is null then 0 else 1 end, case when c.error is not null then clock_timestamp() end, c.error
    from changed c where c.needed or c.error is not null order by 2
    on conflict on constraint queue_pkey do update
    set attempts = excluded.attempts, failed_at = excluded.failed_at, error = excluded.error,
        leased_at = case when excluded.error is null then q.leased_at end,
        available_at = greatest(excluded.available_at, case when q.leased_at is not null then q.available_at end)
  $sql$, changed)
$$;
comment on function embedding.enqueue_sql is 'SQL that updates the queue with the rows of changed_sql: they are pending, failed, or removed from it. $2 is the id of the collection.';
revoke all on function embedding.enqueue_sql from public, anon, authenticated, service_role;

create function embedding.default_model(source regclass)
returns text language sql stable set search_path = pg_catalog, pg_temp as $$
  select replace((regexp_match(pg_get_expr(d.adbin, d.adrelid), '^''((?:[^'']|'''')*)''::'))[1], '''''', '''')
  from pg_attribute a
  join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  where a.attrelid = source and a.attname = 'embedding_model' and not a.attisdropped
$$;
comment on function embedding.default_model is
  'The model that was given to track_embeddings, read from the default of the column embedding_model. A vector that is written without a model is assumed to be from this one.';
revoke all on function embedding.default_model from public, anon, authenticated, service_role;

create function embedding.clear_stale_sql(source regclass, key_column name, operation text, safely boolean)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return format($sql$
    update %2$s s
    set embedding = case when fix.adopted then s.embedding end,
        embedding_model = case when fix.adopted then coalesce(s.embedding_model, embedding.default_model(%2$L)) end,
        embedding_hash = case when fix.adopted then fix.text_hash end
    from (
      select
        n.%1$I as key,
        t.text_hash,
        n.embedding is not null and t.text_hash is not null and case
          when n.embedding_hash is distinct from o.embedding_hash then substring(n.embedding_hash for 32) = t.text_hash
          when o.embedding is null or n.embedding operator(extensions.<>) o.embedding
            or n.embedding_model is distinct from o.embedding_model then true
          -- The table already had this vector when it was tracked. It stays if the text has not changed.
          else o.embedding_hash is null
            and embedding.text_hash((embedding.try_document_text(row(o.*)::%2$s)).text) = t.text_hash
        end as adopted
      from new_rows n
      left join %3$s o on o.%1$I = n.%1$I
      cross join lateral (select embedding.text_hash(w.text) as text_hash from %4$s w) t
      where (n.embedding is not null
          and (t.text_hash is null or substring(n.embedding_hash for 32) is distinct from t.text_hash or n.embedding_model is null))
         or (n.embedding is null and (n.embedding_model is not null or n.embedding_hash is not null))
    ) fix
    where s.%1$I = fix.key
  $sql$, key_column, source,
    -- An insert has no old rows.
    case operation when 'INSERT' then format('(select * from %s where false)', source) else 'old_rows' end,
    embedding.written_text(source, 'n', safely));
end;
$$;
comment on function embedding.clear_stale_sql is
  'SQL that clears every vector that was not made from the present text of its row. If a statement writes a new vector without a hash, the vector is assumed to belong to the text of the same statement, and stays. A row whose text cannot be read keeps no vector.';
revoke all on function embedding.clear_stale_sql from public, anon, authenticated, service_role;

-- 32_tracking.sql

create function embedding.check_table(source regclass)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  relation pg_class;
  wrong record;
begin
  select c.* into relation from pg_class c where c.oid = source and c.relkind = 'r';
  if not found then
    raise exception '% is not an ordinary table', coalesce(source::text, '<null>')
      using errcode = '42809', hint = 'Only tables can be tracked, not views, foreign or partitioned tables.';
  end if;
  if relation.relpersistence = 't' then
    raise exception '% is a temporary table', source
      using errcode = '42809', hint = 'Workers use other sessions, which cannot see it: track a permanent table.';
  end if;
  if relation.relispartition or exists (select from pg_inherits i where source in (i.inhrelid, i.inhparent)) then
    raise exception '% is a partition or takes part in table inheritance', source
      using errcode = '42809',
            hint = 'A statement on one of these tables changes rows of the others without firing their triggers, so a vector would stay after its text has changed. Track an ordinary table.';
  end if;

  select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, w.type as wanted into wrong
  from pg_attribute a
  join (values ('embedding', 'extensions.vector'::regtype), ('embedding_model', 'text'), ('embedding_hash', 'bytea'), ('fts', 'tsvector'))
    w (name, type) on w.name = a.attname
  where a.attrelid = source and not a.attisdropped and a.atttypid <> w.type
    and not (a.attname = 'embedding_model' and a.atttypid = 'character varying'::regtype)
  order by a.attnum limit 1;
  if found then
    raise exception '%.% has type %, but tracking needs a column of that name with type %', source, wrong.name, wrong.type, wrong.wanted
      using errcode = '42804', hint = format('Rename your column: alter table %s rename column %I to ...;', source, wrong.name);
  end if;

  select a.attname as name, a.attgenerated, a.attnotnull into wrong
  from pg_attribute a
  where a.attrelid = source and not a.attisdropped
    and (a.attgenerated = 'v' or a.attname in ('embedding', 'embedding_model', 'embedding_hash') and (a.attnotnull or a.attgenerated <> ''))
  order by a.attnum limit 1;
  if found and wrong.attgenerated = 'v' then
    raise exception '%.% is a virtual generated column', source, wrong.name
      using errcode = '42611', hint = 'Triggers with transition tables cannot read it. Make it stored: generated always as (...) stored.';
  elsif found then
    raise exception '%.% must be a plain column that may be null', source, wrong.name
      using errcode = '42611', hint = 'Tracking sets it to null when a row has no vector. Drop its not null constraint or its generation expression.';
  end if;
  perform embedding.key_of(source);
  if not exists (
    select from pg_proc p
    where p.pronamespace = 'embedding'::regnamespace and p.proname = 'document_text' and p.pronargs = 1
      and p.proargtypes[0] = relation.reltype and p.prorettype = 'text'::regtype
  ) then
    raise exception 'there is no embedding.document_text(%)', source
      using errcode = '42883',
            hint = format('Create the function that returns the text to embed: create function embedding.document_text(t %s) returns text language sql immutable as $f$ select t.title || '' '' || t.body $f$;', source);
  end if;
end;
$$;
comment on function embedding.check_table is 'Raises an error for a table that cannot be tracked, or in which writes would fail later.';
revoke all on function embedding.check_table from public, anon, authenticated, service_role;

create function embedding.set_privileges(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  api_roles constant oid[] := array(
    select r.oid from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator') and not r.rolsuper);
  relation constant pg_class := (select c from pg_class c where c.oid = source);
  found_name text;
begin
  -- If one of these roles could create a trigger, it would run as the owner of the functions that write the vectors.
  execute format('revoke trigger, references, truncate%s on %s from public, anon, authenticated, service_role',
    case when current_setting('server_version_num')::int >= 170000 then ', maintain' end, source);
  select r.role::regrole::text into found_name
  from unnest(api_roles) r (role)
  where pg_has_role(r.role, relation.relowner, 'member') or has_table_privilege(r.role, source, 'trigger')
  -- Name service_role first: the other roles may have the privilege only because they are members of it.
  order by 1 desc
  limit 1;
  if found then
    raise exception 'the API role % can create triggers on %', found_name, source
      using errcode = '55000', hint = format('Change the owner of the table or revoke the privilege: alter table %s owner to ...;', source);
  end if;
  -- pg_depend lists the function of a trigger and the functions that its condition calls.
  select t.tgname into found_name
  from pg_trigger t
  join pg_depend d on d.classid = 'pg_trigger'::regclass and d.objid = t.oid
  join pg_shdepend o on o.classid = d.refclassid and o.objid = d.refobjid and o.deptype = 'o'
    and o.dbid = (select b.oid from pg_database b where b.datname = current_database())
  where t.tgrelid = source and exists (select from unnest(api_roles) r (role) where pg_has_role(r.role, o.refobjid, 'member'))
  limit 1;
  if found then
    raise exception 'the trigger % of % runs code that an API role owns', found_name, source
      using errcode = '55000', hint = format('Drop it: drop trigger %I on %s;', found_name, source);
  end if;
  -- Workers run as service_role, which may have no access to schemas other than public.
  if not has_schema_privilege('service_role', relation.relnamespace, 'usage') then
    execute format('grant usage on schema %s to service_role', relation.relnamespace::regnamespace);
  end if;
  execute format('grant select, update on %s to service_role', source);
  -- In some projects the right of PUBLIC to execute functions was revoked.
  execute format('grant execute on function embedding.document_text(%s) to service_role', source);
  perform embedding.admit_service_role(source);
end;
$$;
comment on function embedding.set_privileges is
  'Lets API roles only read and write rows, because triggers of the table run as the owner of the functions that write '
  'its vectors. Workers run as service_role, which gets these rights in any schema.';
revoke all on function embedding.set_privileges from public, anon, authenticated, service_role;

create function embedding.key_of(source regclass, out key_column name, out key_type text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  select a.attname, format_type(a.atttypid, null) into key_column, key_type
  from pg_index i
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
  where i.indrelid = source and i.indisprimary and i.indnkeyatts = 1;
  if not found then
    raise exception '% has no primary key of one column', source
      using errcode = '42830', hint = format('Add one: alter table %s add column id bigint generated always as identity primary key.', source);
  end if;
  if key_type not in ('uuid', 'bigint', 'integer', 'smallint', 'text', 'character varying') then
    raise exception 'primary key %.% has type %, which cannot be tracked', source, key_column, key_type
      using errcode = '42804', hint = 'Use uuid, bigint, integer, smallint, text or varchar.';
  end if;
end;
$$;
comment on function embedding.key_of is 'The primary key of a table and its type. Raises an error for a key that the queue cannot store.';
revoke all on function embedding.key_of from public, anon, authenticated, service_role;

create function embedding.text_config_name(text_config regconfig)
returns text language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  config record;
begin
  select t.cfgname, t.cfgnamespace, n.nspname into strict config
  from pg_ts_config t
  join pg_namespace n on n.oid = t.cfgnamespace
  where t.oid = text_config;
  if config.cfgnamespace = pg_my_temp_schema() or pg_is_other_temp_schema(config.cfgnamespace) then
    raise exception 'text search configuration % is temporary', text_config using errcode = '42809', hint = 'Use a permanent one.';
  end if;
  return format('%I.%I', config.nspname, config.cfgname);
end;
$$;
comment on function embedding.text_config_name is 'The name of a text search configuration with its schema. Raises an error for a temporary one.';
revoke all on function embedding.text_config_name from public, anon, authenticated, service_role;

create function embedding.add_columns(source regclass, config_name text)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('alter table %s add column if not exists embedding extensions.vector, add column if not exists embedding_model text, add column if not exists embedding_hash bytea', source);
  -- If fts is a generated column, it is used as it is. Otherwise a trigger computes it.
  execute format('drop trigger if exists zz_embedding_fts on %s', source);
  if not exists (
    select from pg_attribute a where a.attrelid = source and a.attname = 'fts' and a.attgenerated = 's' and not a.attisdropped
  ) then
    execute format('alter table %s add column if not exists fts tsvector', source);
    -- The prefix zz_ makes it fire after the table's own BEFORE triggers, which may still change the text.
    execute format('create trigger zz_embedding_fts before insert or update on %s for each row execute function embedding.refresh_fts(%L)', source, config_name);
  end if;
  -- Full-text search ranks by how rare a lexeme is. It reads the frequencies of the 6,000 most frequent lexemes from the
  -- planner's statistics (ten times this number), and counts rarer lexemes in the index. With a higher number, each search
  -- and each plan would be slower.
  execute format('alter table %s alter column fts set statistics 600', source);
end;
$$;
comment on function embedding.add_columns is 'Adds the columns of the vectors, and fts with its trigger. No row is read.';
revoke all on function embedding.add_columns from public, anon, authenticated, service_role;

create function embedding.add_collection(source regclass, model text, config_name text, reuse text, client_vectors boolean)
returns embedding.collections language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  key constant record := embedding.key_of(source);
  present_name constant text := embedding.table_name(source);
  added embedding.collections;
begin
  -- Delete collections whose table was dropped, because the table to be tracked may have the same name as one of them.
  delete from embedding.collections c where not exists (select from embedding.tracked_tables t where t.id = c.id);
  -- Other tables may have been renamed, and the new table may have such a former name. So give all collections the present
  -- names of their tables. This takes two steps, because two tables may have exchanged their names.
  update embedding.collections c set name = format('(%s)', c.id)
  from embedding.tracked_tables t
  where t.id = c.id and c.name <> embedding.table_name(t.source);
  update embedding.collections c set name = embedding.table_name(t.source)
  from embedding.tracked_tables t
  where t.id = c.id and c.name = format('(%s)', c.id);
  -- The queue has the keys as text. The keys of another column would be wrong, so the pending rows are queued again.
  delete from embedding.queue q
  using embedding.collections c
  where q.collection_id = c.id and c.id = (select t.id from embedding.tracked_tables t where t.source = add_collection.source)
    and (c.key_column, c.key_type) is distinct from (key.key_column, key.key_type);
  -- A table that is already tracked keeps its collection, under the table's present name.
  update embedding.collections c
  set name = present_name, key_column = key.key_column, key_type = key.key_type,
      model = coalesce(c.model, add_collection.model), text_config = config_name,
      reuse = coalesce(add_collection.reuse, c.reuse), client_vectors = coalesce(add_collection.client_vectors, c.client_vectors),
      -- If clients may write vectors, make a new mark, because they may have copied the former one.
      reuse_mark = case when c.client_vectors then substring(uuid_send(gen_random_uuid()) for 6) else c.reuse_mark end
  where c.id = (select t.id from embedding.tracked_tables t where t.source = add_collection.source)
  returning c.* into added;
  if not found then
    insert into embedding.collections as c (name, key_column, key_type, model, text_config, reuse, client_vectors)
    values (present_name, key.key_column, key.key_type, add_collection.model, config_name,
      coalesce(add_collection.reuse, 'all'), coalesce(add_collection.client_vectors, false))
    returning c.* into added;
  end if;
  -- The argument of the triggers is the collection's id. It connects the collection with its table.
  execute format('create or replace trigger embedding_check_insert after insert on %s
    referencing new table as new_rows for each statement execute function embedding.check_vectors(%L)', source, added.id);
  execute format('create or replace trigger embedding_check_update after update on %s
    referencing old table as old_rows new table as new_rows for each statement execute function embedding.check_vectors(%L)', source, added.id);
  execute format('create or replace trigger embedding_dequeue_delete after delete on %s
    referencing old table as old_rows for each statement execute function embedding.dequeue_deleted(%L)', source, added.id);
  execute format('create or replace trigger embedding_dequeue_truncate after truncate on %s
    for each statement execute function embedding.dequeue_deleted(%L)', source, added.id);
  -- Their names sort before embedding_check, so that they fire first.
  execute format('drop trigger if exists embedding_api_insert on %1$s; drop trigger if exists embedding_api_update on %1$s', source);
  if not added.client_vectors then
    execute format('create trigger embedding_api_insert after insert on %s
      referencing new table as new_rows for each statement execute function embedding.refuse_client_vectors()', source);
    execute format('create trigger embedding_api_update after update on %s
      referencing old table as old_rows new table as new_rows for each statement execute function embedding.refuse_client_vectors()', source);
  end if;
  return added;
end;
$$;
comment on function embedding.add_collection is 'Records a table as a collection and creates its triggers.';
revoke all on function embedding.add_collection from public, anon, authenticated, service_role;

create function embedding.check_model_is_named(source regclass, model text)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  unnamed boolean := false;
begin
  if model is null and embedding.default_model(source) is null
    and (select count(*) = 2 from pg_attribute a
      where a.attrelid = source and a.attname in ('embedding', 'embedding_model') and not a.attisdropped) then
    execute format('select exists (select from %s s where s.embedding is not null and s.embedding_model is null)', source) into unnamed;
  elsif model is null and embedding.default_model(source) is null
    and exists (select from pg_attribute a where a.attrelid = source and a.attname = 'embedding' and not a.attisdropped) then
    execute format('select exists (select from %s s where s.embedding is not null)', source) into unnamed;
  end if;
  if unnamed then
    raise exception '% has vectors without an embedding_model', source
      using errcode = '22023',
            hint = format('Name the model that made them: select track_embeddings(%L, model => ''...''), or clear them: update %s set embedding = null.', source, source);
  end if;
end;
$$;
comment on function embedding.check_model_is_named is 'Raises an error for a table with vectors whose model is not known.';
revoke all on function embedding.check_model_is_named from public, anon, authenticated, service_role;

create function embedding.check_reuse(source regclass, reuse text)
returns void language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if reuse not in ('all', 'none') and not exists (
    select from pg_attribute a
    where a.attrelid = source and a.attname = reuse and a.attnum > 0 and not a.attisdropped
      and a.attname not in ('embedding', 'embedding_model', 'embedding_hash', 'fts')
  ) then
    raise exception 'reuse must be all, none or a column of %, not "%"', source, reuse
      using errcode = '22023', hint = 'With a column, such as that of the tenant, only rows with the same value share the vector of equal texts.';
  end if;
end;
$$;
comment on function embedding.check_reuse is 'Refuses a value of reuse that is neither all nor none nor a column.';
revoke all on function embedding.check_reuse from public, anon, authenticated, service_role;

create function public.track_embeddings(
  source regclass, model text default null, text_config regconfig default 'english', reuse text default null,
  client_vectors boolean default null
)
returns text
-- Security definer, because only the table's owner can add columns, indexes and triggers.
-- client_min_messages is set, because "if not exists" would print a notice for everything that the table already has.
language plpgsql security definer set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
  collection embedding.collections;
  config_name text;
  index record;
  last_id text;
  tracked_before boolean;
begin
  -- All checks run before anything is added.
  perform embedding.check_session();
  perform embedding.check_table(source);
  perform embedding.check_ownership(source);
  perform embedding.check_reuse(source, reuse);
  if model is not null then
    perform embedding.check_width(source, model);
  end if;
  config_name := embedding.text_config_name(text_config);
  perform embedding.lock_tracking(source);
  perform embedding.check_model_is_named(source, model);
  perform embedding.lock_briefly(source);
  perform embedding.set_privileges(source);

  tracked_before := exists (select from pg_attribute a where a.attrelid = source and a.attname = 'embedding_hash' and not a.attisdropped)
    and not exists (select from embedding.tracked_tables t where t.source = track_embeddings.source);
  perform embedding.add_columns(source, config_name);
  if model is not null then
    -- A client that writes vectors, such as LangChain, does not know this column.
    execute format('alter table %s alter column embedding_model set default %L', source, model);
  end if;
  collection := embedding.add_collection(source, model, config_name, reuse, client_vectors);
  -- No row of a large table is read under this lock: a backfill prepares the rows in batches and builds the indexes.
  update embedding.collections c
  set preparing = true, prepared_to = null, vectors_unchecked = c.vectors_unchecked or tracked_before
  where c.id = collection.id;
  if pg_table_size(source) <= 1024 * 1024 then
    for index in select i.name, i.columns from embedding.tracking_indexes(source) i where i.found is null loop
      execute format('create index if not exists %I on %s %s', index.name, source, index.columns);
    end loop;
    loop
      select q.last_id into last_id from public.reconcile_embeddings(collection.name, null::text, 1000) q;
      exit when last_id is null;
    end loop;
  end if;
  return collection.name;
end;
$$;
comment on function public.track_embeddings is
  'Keeps a table embedded: adds missing columns, indexes and triggers, and queues its rows. A table of more than 1 MB gets its columns and triggers at once; the next backfill builds the indexes and reads the rows, while the table is in use. reuse says which rows share the vector of equal texts: all, none, or those with an equal value in the column of this name. If client_vectors is true, anon and authenticated may write vectors. Safe to repeat: null does not change reuse and client_vectors (at first they are all and false). Returns the collection''s name.';
revoke all on function public.track_embeddings from public, anon, authenticated, service_role;
grant execute on function public.track_embeddings to service_role;

create function public.untrack_embeddings(collection text)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  tracked embedding.tracked_tables := embedding.get_collection(collection, check_owner => false);
  trigger_name name;
begin
  perform embedding.lock_tracking(tracked.source);
  perform embedding.lock_briefly(tracked.source);
  for trigger_name in
    select t.tgname from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = tracked.source and p.pronamespace = 'embedding'::regnamespace and not t.tgisinternal
      -- Keep the triggers touch_updated_at and note_change.
      and t.tgname ~ '^(zz_)?embedding_'
  loop
    execute format('drop trigger %I on %s', trigger_name, tracked.source);
  end loop;
  execute format('alter table %s alter column embedding_model drop default', tracked.source);
  delete from embedding.collections c where c.id = tracked.id;
end;
$$;
comment on function public.untrack_embeddings is 'Stops tracking a table. Its columns, vectors and indexes stay.';
revoke all on function public.untrack_embeddings from public, anon, authenticated, service_role;
grant execute on function public.untrack_embeddings to service_role;

-- 33_missing_rows.sql

-- The rows decide what is pending, not the queue. A row that was written while the triggers were off (logical replication, a
-- restore) is not queued, so a backfill reads the pending rows themselves before it ends.
--
-- The index over the pending rows has NULLs first, while the primary key has NULLs last. So the order that the statements
-- below ask for fits only this index. If both had the same order, the planner could read the whole primary key instead,
-- because the statistics of a table that was just loaded say that every row is pending.
create function embedding.tracking_indexes(source regclass)
returns table (name name, columns text, found regclass, usable boolean) language sql stable set search_path = pg_catalog, pg_temp as $$
  select
    -- A table that was renamed keeps the names of its indexes.
    case when exists (
      select from pg_class t join pg_index x on x.indexrelid = t.oid
      where t.relnamespace = r.relnamespace and t.relname = left(r.relname, i.length) || i.suffix and x.indrelid <> r.oid
    ) then left(r.relname, i.length - 11) || i.suffix || '_' || r.oid else left(r.relname, i.length) || i.suffix end::name,
    i.columns, f.indexrelid::regclass, coalesce(f.indisvalid, false)
  from pg_class r
  cross join lateral embedding.key_of(r.oid) k
  cross join lateral (values
    (1, 41, '_embedding_pending_idx', format('(%I nulls first) where embedding is null', k.key_column), k.key_column, 'btree', 2, '(embedding IS NULL)'),
    -- This index finds the vector that equal texts share.
    (2, 43, '_embedding_hash_idx', '(embedding_hash) where embedding is not null', 'embedding_hash', 'btree', 0, '(embedding IS NOT NULL)'),
    (3, 50, '_fts_idx', 'using gin (fts)', 'fts', 'gin', 0, null)
  ) i (place, length, suffix, columns, first_column, method, options, predicate)
  -- Look for an index with the same definition, not the same name: the table may have been renamed, or have had such an index.
  left join lateral (
    select x.indexrelid, x.indisvalid
    from pg_index x
    join pg_class n on n.oid = x.indexrelid
    join pg_am m on m.oid = n.relam
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = r.oid and x.indnkeyatts = 1 and a.attname = i.first_column and m.amname = i.method
      and x.indoption[0] = i.options and pg_get_expr(x.indpred, x.indrelid) is not distinct from i.predicate
    order by x.indisvalid desc, x.indexrelid limit 1
  ) f on true
  where r.oid = tracking_indexes.source
  order by i.place
$$;
comment on function embedding.tracking_indexes is
  'The indexes of a tracked table; the index over its pending rows is the first. found is null if the index is missing. usable is true if it is complete.';
revoke all on function embedding.tracking_indexes from public, anon, authenticated, service_role;
grant execute on function embedding.tracking_indexes to service_role;
grant execute on function embedding.key_of to service_role;

create function embedding.has_pending_index(source regclass)
returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  select i.usable from embedding.tracking_indexes(has_pending_index.source) i limit 1
$$;
comment on function embedding.has_pending_index is 'Whether the index over the pending rows of a table can be used.';
revoke all on function embedding.has_pending_index from public, anon, authenticated, service_role;
grant execute on function embedding.has_pending_index to service_role;

create function embedding.missing_indexes(collection text)
returns setof text language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select s.statement
  from embedding.get_collection(missing_indexes.collection) c
  cross join lateral embedding.tracking_indexes(c.source) with ordinality i (name, columns, found, usable, place)
  cross join lateral (values
    -- Drop the incomplete index that an interrupted build leaves.
    (1, i.found is not null, format('drop index concurrently if exists %s', i.found)),
    (2, true, format('create index concurrently %I on %s %s', i.name, c.source, i.columns))
  ) s (step, needed, statement)
  where not i.usable and s.needed
  order by i.place, s.step
$$;
comment on function embedding.missing_indexes is
  'Statements that build the missing indexes of a collection without a lock on its writers. Each must run outside of a transaction, as the owner of the table.';
revoke all on function embedding.missing_indexes from public, anon, authenticated, service_role;
grant execute on function embedding.missing_indexes to service_role;

create function embedding.next_keys(c embedding.tracked_tables, after text, wanted integer, out keys text[], out last_id text)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  indexed constant boolean := not c.preparing and embedding.has_pending_index(c.source);
begin
  execute format($sql$
    select array_agg(k.key::text order by k.key) filter (where k.needed), (array_agg(k.key::text order by k.key desc))[1]
    from (select s.%1$I as key, %2$s as needed from %3$s s where %4$s %5$s order by s.%1$I %6$s limit $2) k
  $sql$, c.key_column, case when c.preparing then 'true' else 's.embedding is null' end, c.source,
    case when indexed then 's.embedding is null' else 'true' end,
    case when after is not null then format('and s.%I > $1::%s', c.key_column, c.key_type) end,
    case when indexed then 'nulls first' end)
  -- Without the index, a call reads only a part of the table, so that it ends before a timeout.
  into keys, last_id using after, case when c.preparing or indexed then wanted else 10000 end;
exception
  when others then
    perform embedding.concerns_rows(c, sqlstate, sqlerrm);
    raise;
end;
$$;
comment on function embedding.next_keys is
  'The keys of the next rows without a vector after a given key, and the last key that was read. While the collection is being prepared, the keys of all rows are returned.';
revoke all on function embedding.next_keys from public, anon, authenticated, service_role;
grant execute on function embedding.next_keys to service_role;

create function embedding.adopt_vectors(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  execute format($sql$
    update %2$s s
    set embedding_model = coalesce(s.embedding_model, $2),
        embedding_hash = coalesce(s.embedding_hash, embedding.text_hash(embedding.document_text(s.*))),
        -- The table may have been tracked before, and rows may have been edited since then.
        embedding = case when coalesce(substring(s.embedding_hash for 32) = embedding.text_hash(embedding.document_text(s.*)), s.embedding_hash is null)
          then s.embedding end
    from (
      select d.%1$I as key from %2$s d
      where d.%1$I = any ($1::%3$s[]) and case when d.embedding is null then false
        else d.embedding_model is null or substring(d.embedding_hash for 32) is distinct from embedding.text_hash(embedding.document_text(d.*)) end
      order by d.%1$I for no key update
    ) found
    where s.%1$I = found.key
  $sql$, c.key_column, c.source, c.key_type) using keys, embedding.default_model(c.source);
end;
$$;
comment on function embedding.adopt_vectors is
  'Accepts vectors that the table already has: they are assumed to belong to its present texts and to the model that was given to track_embeddings. The triggers raise an error for a model that is not registered or has another width.';
revoke all on function embedding.adopt_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.adopt_vectors to service_role;
grant execute on function embedding.default_model to service_role;

create function embedding.fill_full_text(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  if embedding.computes_fts(c.source) then
    -- The trigger computes fts.
    execute format($sql$
      update %2$s s set fts = null
      from (
        select d.%1$I as key from %2$s d where d.%1$I = any ($1::%3$s[]) and (d.fts is null %4$s) order by d.%1$I for no key update
      ) outdated
      where s.%1$I = outdated.key
    $sql$, c.key_column, c.source, c.key_type, case when c.preparing then format(
      -- fts may be that of an earlier text or configuration.
      'or d.fts is distinct from embedding.fit_lexemes(%L::regconfig, coalesce(embedding.document_text(d.*), %L))', c.text_config, '') end)
    using keys;
  end if;
end;
$$;
comment on function embedding.fill_full_text is 'Computes fts of these rows if it is missing or, while the collection is being prepared, if it is that of an earlier text.';
revoke all on function embedding.fill_full_text from public, anon, authenticated, service_role;
grant execute on function embedding.fill_full_text to service_role;

create function embedding.prepare_rows(c embedding.tracked_tables, keys text[])
returns void language plpgsql security invoker
-- lock_timeout is short: while a batch waits for a locked row, writers would wait for the other rows of the batch.
set search_path = pg_catalog, pg_temp set lock_timeout = '300ms' as $$
declare
  key text;
begin
  if c.preparing then
    perform embedding.adopt_vectors(c, keys);
  end if;
  perform embedding.fill_full_text(c, keys);
exception
  when others then
    -- 22023 means that a vector has an unknown model, or another width than its model. Only the user can correct this.
    if sqlstate = '22023' or not embedding.concerns_rows(c, sqlstate, sqlerrm) then
      raise;
    end if;
    if cardinality(keys) > 1 then
      foreach key in array keys loop
        perform embedding.prepare_rows(c, array[key]);
      end loop;
    end if;
    -- This row cannot be read or written. Its claim marks it as failed, and verify_embeddings reports its old vector.
end;
$$;
comment on function embedding.prepare_rows is
  'Computes missing fts of these rows and, while the collection is being prepared, accepts the vectors that they already have. A row that cannot be read or written is skipped.';
revoke all on function embedding.prepare_rows from public, anon, authenticated, service_role;
grant execute on function embedding.prepare_rows to service_role;

create function embedding.queue_missing_keys(c embedding.tracked_tables, keys text[])
returns bigint language plpgsql security invoker
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set lock_timeout = '300ms' as $$
declare
  statement constant text := format($sql$
    insert into embedding.queue (collection_id, row_id)
    select $1, s.%1$I::text
    from %2$s s cross join lateral embedding.try_document_text(s.*) t
    where s.%1$I = any ($2::%3$s[]) and (t.text is not null or t.error is not null)
      -- In a CASE, so that the rows are found by their keys alone.
      and case when s.embedding is null or s.embedding_model = any ($3) then true else false end
    order by s.%1$I
    on conflict on constraint queue_pkey do nothing
  $sql$, c.key_column, c.source, c.key_type);
  -- Use an array and no join: for a join the planner would scan the whole queue if statistics say that it is empty.
  missing constant text[] := array(
    select k from unnest(keys) k
    except
    select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (keys));
  replaced constant text[] := array(select embedding.replaced_models(c));
  key text;
  queued bigint := 0;
  added bigint;
begin
  if missing <> '{}' then
    execute statement using c.id, missing, replaced;
    get diagnostics queued = row_count;
  end if;
  return queued;
exception
  when lock_not_available then
    if c.preparing then
      raise;
    end if;
    -- A transaction has written one of the rows, and so queued it, but has not ended. It may take long, so skip that row.
    perform set_config('lock_timeout', '5ms', true);
    foreach key in array missing loop
      begin
        execute statement using c.id, array[key], replaced;
        get diagnostics added = row_count;
        queued := queued + added;
      exception
        when lock_not_available then
          null;
      end;
    end loop;
    return queued;
end;
$$;
comment on function embedding.queue_missing_keys is 'Queues those of the given rows that are pending and not queued. Returns how many were queued.';
revoke all on function embedding.queue_missing_keys from public, anon, authenticated, service_role;
grant execute on function embedding.queue_missing_keys to service_role;

create function public.reconcile_embeddings(collection text, after text default null, batch_size integer default null)
returns table (
  queued bigint, last_id text, preparing boolean, missing_indexes text[], ready bigint, leased bigint, waiting bigint, failed bigint
)
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  keys text[];
begin
  queued := 0;
  preparing := c.preparing;
  if batch_size is null then
    queued := embedding.queue_pending_rows(c);
    return next;
    return;
  end if;
  if after is null then
    missing_indexes := array(select embedding.missing_indexes(collection));
    update embedding.queue q set leased_at = null, available_at = clock_timestamp()
    where q.collection_id = c.id and q.row_id = any (array(select embedding.stray_leases(c.id, clock_timestamp())));
  end if;
  if c.preparing then
    -- Only one backfill prepares a batch at a time. It reads here how far others have come, so that no row is prepared twice.
    select k.preparing, k.prepared_to into c.preparing, c.prepared_to
    from embedding.collections k where k.id = c.id for no key update skip locked;
    if not found then
      last_id := c.prepared_to;
      return next;
      return;
    end if;
  end if;
  select n.keys, n.last_id into keys, last_id
  from embedding.next_keys(c, case when c.preparing then c.prepared_to else after end, least(greatest(batch_size, 1), 10000)) n;
  begin
    perform embedding.prepare_rows(c, keys);
    queued := embedding.queue_missing_keys(c, keys);
  exception
    when lock_not_available then
      -- A transaction has locked one of the rows.
      if c.preparing then
        last_id := c.prepared_to;
        return next;
        return;
      end if;
      -- A row that was not prepared gets its fts when its vector is saved.
      queued := embedding.queue_missing_keys(c, keys);
  end;
  if c.preparing then
    update embedding.collections k
    set prepared_to = reconcile_embeddings.last_id, preparing = reconcile_embeddings.last_id is not null,
        vectors_unchecked = k.vectors_unchecked and reconcile_embeddings.last_id is not null
    where k.id = c.id;
  elsif last_id is null then
    select q.ready, q.leased, q.waiting, q.failed into ready, leased, waiting, failed from public.embedding_queue(collection) q;
  end if;
  return next;
end;
$$;
comment on function public.reconcile_embeddings is
  'Queues pending rows that the triggers did not see (disabled for a load, restored from a dump). Without batch_size it reads the whole table. '
  'With batch_size it reads so many rows without a vector, in the order of their keys after the key `after`, and fills their fts; last_id is the '
  'key to go on with, null at the end, where ready, leased, waiting and failed are the state of the queue. preparing: the table was large when it was tracked, so a batch of all of its rows was read, after the last '
  'one of any backfill; call again without `after`. missing_indexes: statements that build its indexes, where `after` is null.';
revoke all on function public.reconcile_embeddings from public, anon, authenticated, service_role;
grant execute on function public.reconcile_embeddings to service_role;

-- The scheduled worker calls this first, so that it records no run if there is nothing to do.
create function public.has_ready_embeddings()
returns boolean language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  present timestamptz := clock_timestamp();
  -- The number of pending rows at each end of their index that are compared with the queue. A load without the triggers
  -- usually adds keys at one end. Other rows are found by the next backfill, which reads all pending rows.
  looked_at constant integer := 10;
  c embedding.tracked_tables;
  keys text[];
  missing boolean;
begin
  -- Use a loop and no join: for a join the planner would scan the whole queue for each collection if statistics say that it
  -- is empty.
  for c in select t.* from embedding.tracked_tables t loop
    perform from embedding.queue q
    where q.collection_id = c.id and q.failed_at is null and q.available_at <= present
    order by q.available_at limit 1;
    if found or c.preparing or exists (select from embedding.stray_leases(c.id, present)) then
      return true;
    end if;
  end loop;
  for c in select t.* from embedding.tracked_tables t where embedding.has_pending_index(t.source) and embedding.ownership_error(t.source) is null
  loop
    begin
      execute format($sql$
        select array_agg(k.key::text) from (
          (select s.%1$I as key from %2$s s where s.embedding is null order by s.%1$I nulls first limit $1)
          union
          (select s.%1$I from %2$s s where s.embedding is null order by s.%1$I desc nulls last limit $1)
        ) k
      $sql$, c.key_column, c.source) into keys using looked_at;
      keys := array(
        select k from unnest(keys) k
        except
        select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (keys));
      if keys <> '{}' then
        execute format(
          'select exists (select from %2$s s where s.%1$I = any ($1::%3$s[]) and embedding.present_text(embedding.document_text(s.*)) is not null)',
          c.key_column, c.source, c.key_type) into missing using keys;
        if missing then
          return true;
        end if;
      end if;
    exception
      when others then
        -- A table or a row cannot be read. Go on with the other collections; a run reports the error.
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
    end;
  end loop;
  return false;
end;
$$;
comment on function public.has_ready_embeddings is
  'Whether a row of any collection can be claimed now, or is pending and missing in the queue. For the latter, only the first and the last ten pending rows of each collection are read.';
revoke all on function public.has_ready_embeddings from public, anon, authenticated, service_role;
grant execute on function public.has_ready_embeddings to service_role;

-- 34_tracking_locks.sql

-- Tracking changes a table that may be in use. The functions below make its readers and writers wait only for a moment.
create function embedding.lock_briefly(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '400ms' as $$
begin
  -- While this lock waits, every later statement on the table waits behind it. So give up soon, and try again later.
  for attempt in 1..60 loop
    begin
      execute format('lock table %s in access exclusive mode', source);
      return;
    exception
      when lock_not_available then
        perform pg_sleep(0.3 + random() / 5);
    end;
  end loop;
  raise exception '% is in use by a long transaction', source
    using errcode = '55P03', hint = 'Try again when that transaction has ended. See pg_stat_activity.';
end;
$$;
comment on function embedding.lock_briefly is 'Locks a table, and makes its readers and writers wait only for a short time.';
revoke all on function embedding.lock_briefly from public, anon, authenticated, service_role;

create function embedding.lock_tracking(source regclass)
returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Lock the collection first and then the table, in the same order as a backfill that prepares the table.
  perform from embedding.collections c
  where c.id = (select t.id from embedding.tracked_tables t where t.source = lock_tracking.source)
  for no key update;
  -- With this lock only one session at a time tracks a table. Its mode does not block readers and writers.
  execute format('lock table %s in share update exclusive mode', source);
end;
$$;
comment on function embedding.lock_tracking is 'Waits for other sessions that track, untrack or prepare the table.';
revoke all on function embedding.lock_tracking from public, anon, authenticated, service_role;

-- 35_client_vectors.sql

-- Searches of other users find a row by its vector, so the roles of end users may not choose the vector. This trigger runs as
-- the role that writes. In a SECURITY DEFINER function of the application, this is the function's owner, who may do so.
create function embedding.refuse_client_vectors()
returns trigger language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if not (current_user in ('anon', 'authenticated')
    -- Another role to which PostgREST has switched for a request.
    or session_user = 'authenticator' and current_user = current_setting('role') and not pg_has_role(current_user, 'service_role', 'usage')
  ) then
    return null;
  end if;
  -- A vector may be removed, as some triggers do on each edit. An unchanged vector may be sent with the other columns.
  if tg_op = 'INSERT' then
    perform from new_rows n where n.embedding is not null or n.embedding_hash is not null limit 1;
  else
    -- Compare byte by byte, which needs no privilege on the schema extensions.
    perform from new_rows n
    where n.embedding is not null
      and not exists (
        select from old_rows o
        where o.embedding_hash = n.embedding_hash and o.embedding_model = n.embedding_model
          and record_image_eq(row(o.embedding), row(n.embedding)))
      -- If the table had this vector before it was tracked, the vector has no hash until a backfill has prepared the table.
      and not (n.embedding_hash is null and exists (
        select from old_rows o
        where o.embedding_hash is null and o.embedding_model is not distinct from n.embedding_model
          and record_image_eq(row(o.embedding), row(n.embedding))))
    limit 1;
  end if;
  if found then
    raise exception 'role "%" may not write the columns embedding, embedding_model and embedding_hash of %', current_user, tg_relid::regclass
      using errcode = '42501',
            hint = format('Leave them out: the vector follows the text. If clients shall write vectors: select track_embeddings(%L, client_vectors => true);', tg_relid::regclass);
  end if;
  return null;
end;
$$;
comment on function embedding.refuse_client_vectors is
  'Runs after an insert or update by anon, authenticated or another role of a request, and refuses a vector, a model or a hash that the row did not have before.';
revoke all on function embedding.refuse_client_vectors from public, anon, authenticated, service_role;

-- 36_updated_at.sql

create function embedding.touch_updated_at()
returns trigger language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from new_rows) then
    return null;
  end if;
  -- To save a vector is not an edit, so only the columns in the arguments are compared. This trigger fires after the
  -- statement and not before each row, because with a BEFORE UPDATE trigger PostgreSQL would compute generated columns again
  -- for every saved vector.
  execute format($sql$
    update %1$s s
    set updated_at = now()
    from new_rows n
    join old_rows o on o.id = n.id
    where s.id = n.id and s.updated_at <> now() and n.updated_at = o.updated_at
      and (%2$s) is distinct from (%3$s)
  $sql$, tg_relid::regclass,
    (select string_agg(format('n.%I', c), ', ') from unnest(tg_argv) c),
    (select string_agg(format('o.%I', c), ', ') from unnest(tg_argv) c));
  return null;
end;
$$;
comment on function embedding.touch_updated_at is
  'Sets updated_at of edited rows, unless the edit itself sets it. For tables with the key id. The arguments are the columns whose change counts as an edit.';
revoke all on function embedding.touch_updated_at from public, anon, authenticated;
grant execute on function embedding.touch_updated_at to service_role;

-- 39_samples.sql

-- The rows of a large table are counted on a sample of its blocks, and texts are read from the sample. So this takes as long
-- with a hundred million rows as with a million. The queue is counted completely: pending rows are usually few and lie side
-- by side, so a sample of blocks would miss them or find too many. The sample only adds pending rows that are not queued.
create function embedding.is_large(source regclass)
returns boolean language sql stable set search_path = pg_catalog, pg_temp as $$
  -- A row with a vector of 384 dimensions takes 2 kB. With 1,536 dimensions it takes 7 kB, most of it in the TOAST table.
  select pg_relation_size(source) > 32 * 1024 * 1024 or pg_table_size(source) > 128 * 1024 * 1024
$$;
comment on function embedding.is_large is 'Whether the rows of a table are counted on a sample.';
revoke all on function embedding.is_large from public, anon, authenticated, service_role;
grant execute on function embedding.is_large to service_role;

create function embedding.sampled_percent(source regclass)
returns float8 language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when embedding.is_large(source)
    then least(100, 100.0 * 2000 * current_setting('block_size')::integer / pg_relation_size(source)) else 100 end
$$;
comment on function embedding.sampled_percent is
  'The share of a table''s blocks that a sample reads, in percent: 2,000 blocks of a large table, else all of them.';
revoke all on function embedding.sampled_percent from public, anon, authenticated, service_role;
grant execute on function embedding.sampled_percent to service_role;

create function embedding.sample_vectors(c embedding.tracked_tables, out rows bigint, out embedded bigint, out models jsonb)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := embedding.sampled_percent(c.source);
  known constant float8 := (select r.reltuples from pg_class r where r.oid = c.source);
  sampled record;
  total float8;
begin
  -- `repeatable` reads the same blocks each time, so that the numbers of an unchanged table do not change.
  execute format($sql$
    select coalesce(sum(h.rows), 0)::float8 as rows, jsonb_object_agg(h.model, h.rows) filter (where h.model is not null) as models
    from (
      select case when s.embedding is not null then coalesce(s.embedding_model, '') end as model, count(*) as rows
      from %s s tablesample system (%s) repeatable (1)
      group by 1
    ) h
  $sql$, c.source, percent) into sampled;
  total := sampled.rows * 100 / percent;
  if percent < 100 and abs(known - total) <= total / 10 then
    -- Use the count of the last ANALYZE or VACUUM if the sample agrees with it, because that count is more exact.
    total := known;
  end if;
  rows := round(total);
  select coalesce(jsonb_object_agg(m.key, round(m.value::float8 * total / sampled.rows)::bigint), '{}') into models
  from jsonb_each_text(sampled.models) m;
  select coalesce(sum(m.value::bigint), 0) into embedded from jsonb_each_text(models) m where c.model is null or m.key = any (c.kept_models);
end;
$$;
comment on function embedding.sample_vectors is
  'Estimates how many rows a table has, how many of them have a vector that is kept, and how many vectors each model has. The numbers are exact if the table is not large.';
revoke all on function embedding.sample_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.sample_vectors to service_role;

create function embedding.sampled_texts(c embedding.tracked_tables, rows bigint)
returns integer language sql stable set search_path = pg_catalog, pg_temp as $$
  select least(20000, greatest(1000, 64 * 1024 * 1024 / greatest(pg_table_size(c.source) / greatest(rows, 1), 1)))::integer
$$;
comment on function embedding.sampled_texts is
  'How many texts a sample reads: 20,000, or fewer if the texts are long, but at least 1,000. rows is the number of rows of the table.';
revoke all on function embedding.sampled_texts from public, anon, authenticated, service_role;
grant execute on function embedding.sampled_texts to service_role;

create function embedding.sample_unqueued(
  c embedding.tracked_tables, kept_models text[], needy bigint, out rows bigint, out places jsonb, wanted integer default 10000
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := least(embedding.sampled_percent(c.source), 150.0 * wanted / greatest(needy, 1));
  sampled record;
  texts bigint;
begin
  rows := 0;
  -- Read whole blocks in a random order; embedding.distinct_texts explains why.
  execute format($sql$
    select array_agg(k.key) as keys, array_agg(k.block) as blocks
    from (
      select s.%1$I::text as key, (s.ctid::text::point)[0]::bigint as block
      from %2$s s tablesample system (%3$s) repeatable (1)
      where s.embedding is null or s.embedding_model <> all ($1)
      order by hashint8((s.ctid::text::point)[0]::bigint), 2
      limit $2
    ) k
  $sql$, c.key_column, c.source, percent)
  into sampled using kept_models, wanted;
  select coalesce(jsonb_object_agg(k.key, k.block), '{}') into places
  from unnest(sampled.keys, sampled.blocks) k (key, block)
  where k.key not in (select q.row_id from embedding.queue q where q.collection_id = c.id and q.row_id = any (sampled.keys));
  if places <> '{}' then
    select r.texts into texts
    from embedding.read_table(c, $sql$
      select count(*)
      from jsonb_object_keys($2) k (key)
      join %2$s s on s.%1$I = k.key::%4$s
      cross join lateral %3$s t
      where t.text is not null or t.error is not null
    $sql$, places, array[c.key_type]) r (texts bigint);
    rows := round(needy::float8 * texts / cardinality(sampled.keys));
  end if;
end;
$$;
comment on function embedding.sample_unqueued is
  'Estimates how many rows have a text and are not in the queue, among the `needy` rows: those without a vector of these models. places are the rows that are not in the queue among up to `wanted` sampled rows, as {key: block}.';
revoke all on function embedding.sample_unqueued from public, anon, authenticated, service_role;
grant execute on function embedding.sample_unqueued to service_role;

create function embedding.sample_queue(c embedding.tracked_tables, queued bigint, texts integer)
returns jsonb language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  percent constant float8 := least(100, 200.0 * texts / greatest(queued, 1));
begin
  return (
    select coalesce(jsonb_object_agg(k.row_id, k.block), '{}')
    from (
      select q.row_id, (q.ctid::text::point)[0]::bigint as block
      from embedding.queue q tablesample system (percent) repeatable (1)
      where q.collection_id = c.id and q.failed_at is null
      order by hashint8((q.ctid::text::point)[0]::bigint), 2
      limit texts
    ) k);
end;
$$;
comment on function embedding.sample_queue is
  'Up to `texts` queued rows of a collection that are not failed, as {key: block of the queue}. queued is the number of all such rows.';
revoke all on function embedding.sample_queue from public, anon, authenticated, service_role;
grant execute on function embedding.sample_queue to service_role;

-- 40_coverage.sql

create function embedding.count_vectors(
  c embedding.tracked_tables, queued bigint, out embedded bigint, out pending bigint, out models jsonb, out estimated boolean
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  table_rows bigint;
begin
  estimated := embedding.is_large(c.source);
  if estimated then
    select v.rows, v.models, v.embedded into table_rows, models, embedded from embedding.sample_vectors(c) v;
    select u.rows + queued into pending
    from embedding.sample_unqueued(c, c.kept_models, table_rows - embedded) u;
    return;
  end if;
  select v.* into embedded, models, pending
  from embedding.read_table(c, $sql$
    with held as (select s.embedding_model as model, count(*) as vectors from %2$s s where s.embedding is not null group by 1)
    select
      coalesce(sum(h.vectors) filter (where ($1).model is null or h.model = any (($1).kept_models)), 0)::bigint,
      coalesce(jsonb_object_agg(coalesce(h.model, ''), h.vectors), '{}'),
      coalesce(sum(h.vectors) filter (where h.model <> all (($1).kept_models)), 0)::bigint
        + (select count(*) from %2$s s cross join lateral %3$s t where s.embedding is null and (t.text is not null or t.error is not null))
    from held h
  $sql$) v (embedded bigint, models jsonb, pending bigint);
exception
  when others then
    if embedding.collection_error(c) is null then
      raise;
    end if;
    pending := queued;
    begin
      select v.models, v.embedded into models, embedded from embedding.sample_vectors(c) v;
    exception
      when others then
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
        -- The vectors cannot be counted either, for example because their columns are missing. So report none.
        embedded := 0;
        models := '{}';
    end;
end;
$$;
comment on function embedding.count_vectors is
  'Counts rows with a vector that is kept, rows that need one, and vectors by model. A row whose text cannot be read counts as pending; if no text can be read, the `queued` rows count as pending. estimated is true if the table is large: then only the queue was counted, and the other numbers are from a sample.';
revoke all on function embedding.count_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.count_vectors to service_role;

create function embedding.foreign_vectors(c embedding.tracked_tables)
returns jsonb language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  found jsonb := '{}';
begin
  -- Usually there are no such models, and nothing has to be counted.
  if cardinality(c.kept_models) > 1 then
    select v.models into found from embedding.sample_vectors(c) v;
  end if;
  return (
    select coalesce(jsonb_object_agg(m.key, m.value), '{}') from jsonb_each(found) m
    where m.key = any (c.kept_models) and m.key <> c.model);
end;
$$;
comment on function embedding.foreign_vectors is
  'The number of vectors of each model that is not the collection''s and whose vectors no backfill makes or replaces. The numbers are estimates if the table is large.';
revoke all on function embedding.foreign_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.foreign_vectors to service_role;

create function public.embedding_coverage()
-- models: the number of vectors by the model that made them. During a model switch there is more than one key.
returns table (
  collection text, model text, total bigint, embedded bigint, pending bigint, failed bigint, leased bigint, models jsonb,
  estimated boolean
)
language sql stable security invoker set search_path = '' as $$
  select k.name, k.model, v.embedded + v.pending, v.embedded, v.pending - least(q.failed, v.pending), least(q.failed, v.pending), q.leased, v.models,
    v.estimated
  from embedding.tracked_tables k
  cross join lateral (
    select
      count(*) as queued,
      count(*) filter (where e.failed_at is not null) as failed,
      count(*) filter (where e.failed_at is null and e.leased_at is not null and e.available_at > clock_timestamp()) as leased
    from embedding.queue e
    where e.collection_id = k.id
  ) q
  cross join lateral embedding.count_vectors(k, q.queued) v
  order by k.name
$$;
comment on function public.embedding_coverage is
  'One row for each collection: total = embedded + pending + failed, counted in the table itself; leased rows are among the pending ones. estimated is true if the table is large: its rows are then counted on a sample; failed and leased are exact. If the rows of a table cannot be read (list_embedding_collections(true) has the error), the queued rows count as pending.';
revoke all on function public.embedding_coverage from public, anon, authenticated, service_role;
grant execute on function public.embedding_coverage to service_role;

-- 41_verify.sql

create function embedding.mismatched_rows(c embedding.tracked_tables, max_rows integer)
returns table (row_id text, reason text, wrong text)
language sql security invoker set search_path = pg_catalog, pg_temp as $$
  select u.*
  from embedding.read_table(c, $sql$
    select array_agg(r.key), array_agg(r.reason), array_agg(r.wrong)
    from (
      select w.key::text, coalesce(w.of_vector, w.of_queue, w.of_fts) as reason,
        case
          when w.of_vector is null then case when w.of_queue is null then 'fts' else 'queue' end
          when w.error is null and not w.unknown then case when w.unhashed then 'hash' else 'vector' end
        end as wrong
      from (
        select
          s.%1$I as key,
          t.error,
          s.embedding_hash is null and t.text is not null and extensions.vector_dims(s.embedding) = m.dimensions as unhashed,
          s.embedding_model is not null and m.name is null and t.text is not null
            and (substring(s.embedding_hash for 32) = embedding.text_hash(t.text)) is not false as unknown,
          case
            when s.embedding is null then null
            -- The vectors of a table that is being prepared get the collection's model at the end of that.
            when ($1).preparing and s.embedding_model is null and s.embedding_hash is null then null
            when t.error is not null then 'the vector cannot be compared with the text: ' || t.error
            when t.text is null then 'the row has a vector, but no text to embed'
            when substring(s.embedding_hash for 32) <> embedding.text_hash(t.text) then 'the vector belongs to another text'
            when m.name is null then 'embedding_model is not a registered model: register it, or set embedding to null'
            when extensions.vector_dims(s.embedding) <> m.dimensions then 'the vector does not have the width of its model'
            when s.embedding_hash is null then 'the vector has no hash of its text'
          end as of_vector,
          case
            when ($1).preparing or s.embedding is not null and s.embedding_model = any (array(select embedding.replaced_models($1))) is not true then null
            when (t.text is not null or t.error is not null)
              and not exists (select from embedding.queue q where q.collection_id = ($1).id and q.row_id = s.%1$I::text)
              then 'the row has no vector and no queue lists it'
          end as of_queue,
          case when %4$s then 'fts does not belong to the text' end as of_fts
        from %2$s s cross join lateral %3$s t
        left join embedding.models m on m.name = s.embedding_model
      ) w
      where coalesce(w.of_vector, w.of_queue, w.of_fts) is not null
      union all
      -- A claim removes such an entry, but it claims neither failed rows nor those that another worker seems to hold.
      select q.row_id, 'the queue lists the row as failed, waiting or leased, but it needs no vector or does not exist', 'entry'
      from embedding.queue q
      where q.collection_id = ($1).id and not ($1).preparing and (q.failed_at is not null or q.available_at > now())
        and not exists (
          select from %2$s s cross join lateral %3$s t
          where s.%1$I = q.row_id::%5$s and (s.embedding is null or s.embedding_model = any (array(select embedding.replaced_models($1))))
            and (t.text is not null or t.error is not null))
      limit ($2 ->> 'max_rows')::integer
    ) r
  $sql$, jsonb_build_object('max_rows', max_rows), array[
    -- The fts of a large table is complete only after a backfill has prepared it.
    case when embedding.computes_fts(c.source) and not c.preparing
      then format('t.error is null and s.fts is distinct from embedding.fit_lexemes(%L::regconfig, coalesce(t.text, %L))', c.text_config, '')
      else 'false' end,
    c.key_type]) r (row_ids text[], reasons text[], wrong text[])
  cross join lateral unnest(r.row_ids, r.reasons, r.wrong) u
$$;
comment on function embedding.mismatched_rows is
  'The rows of mismatched_embeddings. wrong: vector, hash, queue (no entry), entry (an entry too many) or fts; null if only the user can repair the row: its text cannot be read, or its model is not registered.';
revoke all on function embedding.mismatched_rows from public, anon, authenticated, service_role;
grant execute on function embedding.mismatched_rows to service_role;

create function embedding.remove_entries(c embedding.tracked_tables, row_ids text[])
returns bigint language sql security invoker set search_path = pg_catalog, pg_temp as $$
  select r.removed
  from embedding.read_table(c, $sql$
    with held as materialized (
      select q.row_id from embedding.queue q
      where q.collection_id = ($1).id and q.row_id = any (array(select jsonb_array_elements_text($2)))
      order by q.row_id for update skip locked
    ),
    removed as (
      delete from embedding.queue q
      using held h
      where q.collection_id = ($1).id and q.row_id = h.row_id
        -- Look again: the row may have been written since it was listed.
        and not exists (
          select from %2$s s cross join lateral %3$s t
          where s.%1$I = q.row_id::%4$s and (s.embedding is null or s.embedding_model = any (array(select embedding.replaced_models($1))))
            and (t.text is not null or t.error is not null))
      returning 1
    )
    select count(*) from removed
  $sql$, to_jsonb(row_ids), array[c.key_type]) r (removed bigint)
$$;
comment on function embedding.remove_entries is
  'Removes these entries of the queue, except those of rows that need a vector and those that another transaction has locked. Returns how many it removed.';
revoke all on function embedding.remove_entries from public, anon, authenticated, service_role;
grant execute on function embedding.remove_entries to service_role;

create function public.mismatched_embeddings(collection text, max_rows integer default 100)
returns table (row_id text, reason text) language sql stable security invoker set search_path = '' as $$
  select r.row_id, r.reason from embedding.mismatched_rows(embedding.get_collection(collection), max_rows) r
$$;
comment on function public.mismatched_embeddings is
  'Rows whose vector does not belong to their present text or model, or cannot be compared with it; pending rows that no queue lists; failed or leased entries of the queue that no row needs; rows whose fts does not belong to their text. With the reason. max_rows null: all of them.';
revoke all on function public.mismatched_embeddings from public, anon, authenticated, service_role;
grant execute on function public.mismatched_embeddings to service_role;

create function public.verify_embeddings(collection text)
returns bigint language sql stable security invoker set search_path = '' as $$
  select count(*) from embedding.mismatched_rows(embedding.get_collection(collection), null)
$$;
comment on function public.verify_embeddings is 'How many rows mismatched_embeddings lists. The result must be 0.';
revoke all on function public.verify_embeddings from public, anon, authenticated, service_role;
grant execute on function public.verify_embeddings to service_role;

create function public.repair_embeddings(collection text)
returns bigint language plpgsql security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  row_ids text[];
  wrong text[];
begin
  -- A row whose text cannot be read stays as it is: the cause is its text or the function. So does a vector of a model that is
  -- not registered: another program may have made it.
  select array_agg(r.row_id), array_agg(r.wrong) into row_ids, wrong
  from embedding.mismatched_rows(c, null) r where r.wrong is not null;
  -- A vector without a hash is assumed to belong to the present text, as when it is written with the triggers: they add the hash.
  execute format($sql$
    with listed as materialized (
      select s.%1$I as key, w.wrong
      from unnest($1, $2) w (row_id, wrong)
      join %2$s s on s.%1$I = w.row_id::%3$s
      where w.wrong <> 'entry'
      order by s.%1$I
      for no key update of s
    )
    update %2$s s set embedding = case when l.wrong <> 'vector' then s.embedding end%4$s
    from listed l
    where s.%1$I = l.key
  $sql$, c.key_column, c.source, c.key_type,
    -- The trigger computes fts again.
    case when embedding.computes_fts(c.source) then ', fts = null' end)
  using row_ids, wrong;
  if 'queue' = any (wrong) then
    perform embedding.queue_pending_rows(c);
  end if;
  if 'entry' = any (wrong) then
    perform embedding.remove_entries(c, array(select w.row_id from unnest(row_ids, wrong) w (row_id, wrong) where w.wrong = 'entry'));
  end if;
  return coalesce(cardinality(row_ids), 0);
end;
$$;
comment on function public.repair_embeddings is 'Repairs the rows that verify_embeddings counts: clears wrong vectors, adds missing hashes, queues pending rows, removes queue entries that no row needs, computes fts. Rows whose text cannot be read, and vectors of a model that is not registered, stay. Returns how many it repaired.';
revoke all on function public.repair_embeddings from public, anon, authenticated, service_role;
grant execute on function public.repair_embeddings to service_role;

-- 42_vector_index.sql

create function embedding.vector_index_name(c embedding.tracked_tables, model text)
returns name language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(
    -- Return the name of an existing index if there is one: after a table is renamed, its indexes keep their old names.
    (select x.relname from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
      where i.indrelid = r.oid and position(n.part in x.relname) > 0 limit 1),
    case when exists (
      select from pg_catalog.pg_class t where t.relnamespace = r.relnamespace and t.relname = left(r.relname, 32) || n.part || '_idx'
    ) then left(r.relname, 25) || n.part || '_' || r.oid || '_idx' else left(r.relname, 32) || n.part || '_idx' end)::name
  from pg_catalog.pg_class r
  cross join lateral (select '_vector_' || left(md5(vector_index_name.model), 12) as part) n
  where r.oid = c.source
$$;
comment on function embedding.vector_index_name is 'The name of the index over one model''s vectors.';
revoke all on function embedding.vector_index_name from public, anon, authenticated, service_role;
grant execute on function embedding.vector_index_name to service_role;

create function embedding.lacks_vector_index(c embedding.tracked_tables, model text, min_rows integer)
returns boolean language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  index_name constant name := embedding.vector_index_name(c, model);
  enough boolean;
begin
  if exists (
    select from pg_index i join pg_class r on r.oid = i.indexrelid
    where i.indrelid = c.source and i.indisvalid and r.relname = index_name
  ) then
    return false;
  end if;
  execute format('select count(*) >= $1 from (select from %s s where s.embedding_model = $2 limit $1) counted', c.source)
  into enough using min_rows, model;
  return enough;
end;
$$;
comment on function embedding.lacks_vector_index is 'Whether the table has at least min_rows vectors of the model and no valid index over them.';
revoke all on function embedding.lacks_vector_index from public, anon, authenticated, service_role;
grant execute on function embedding.lacks_vector_index to service_role;

create function public.create_embedding_index(
  collection text, model text default null, m integer default 16, ef_construction integer default 128, min_rows integer default 0
)
returns text
-- Security definer, because only the table's owner can create an index.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  indexed embedding.models;
  index_name name;
begin
  if coalesce(create_embedding_index.model, c.model) is null then
    if min_rows > 0 then
      return null;
    end if;
    raise exception 'collection "%" has no model yet', c.name
      using errcode = '55000', hint = 'Run a backfill first: the index is built over the vectors of one model.';
  end if;
  indexed := embedding.get_model(coalesce(create_embedding_index.model, c.model));
  index_name := embedding.vector_index_name(c, indexed.name);
  if min_rows > 0 and not embedding.lacks_vector_index(c, indexed.name, min_rows) then
    return null;
  end if;
  execute format(
    'create index if not exists %I on %s using hnsw ((embedding::extensions.halfvec(%s)) extensions.halfvec_cosine_ops) with (m = %s, ef_construction = %s) where embedding_model = %L',
    index_name, c.source, indexed.dimensions, coalesce(create_embedding_index.m, 16), coalesce(create_embedding_index.ef_construction, 128), indexed.name
  );
  -- Full-text search ranks by the table's statistics. If the index is built after a bulk load, they are out of date.
  execute format('analyze %s', c.source);
  return index_name;
end;
$$;
comment on function public.create_embedding_index is
  'Builds the HNSW index over one model''s vectors (half precision) and returns its name. Call it after the bulk load. With min_rows it returns null if the index exists or there are fewer vectors, for which an exact scan is fast enough. On a large table call it through DATABASE_URL, because the API''s statement timeout would cancel it.';
revoke all on function public.create_embedding_index from public, anon, authenticated, service_role;
grant execute on function public.create_embedding_index to service_role;

-- 43_model_switch.sql

-- Moves a collection to another model during searches. A row keeps its old vector until the new one replaces it, so each row
-- has a vector of exactly one model; a search embeds the query with each model that has rows.
create function public.set_collection_model(collection text, model text, replace_foreign boolean default false)
returns bigint language plpgsql security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  named text[] := '{}';
begin
  perform embedding.check_width(c.source, set_collection_model.model);
  if replace_foreign then
    execute format('select array(select distinct s.embedding_model from %s s where s.embedding is not null and s.embedding_model is not null)', c.source)
    into named;
  end if;
  update embedding.collections k
  set model = set_collection_model.model,
      retiring_models = array(
        select distinct m.name from embedding.models m
        where m.name <> set_collection_model.model
          and (m.name = any (k.retiring_models || named) or m.name = k.model and m.made_here)
        order by m.name)
  where k.id = c.id;
  select k.* into strict c from embedding.tracked_tables k where k.id = c.id;
  -- Rows that were queued for the former model, but have a vector of the new model or another one that is kept, are done.
  execute format($sql$
    delete from embedding.queue q using %2$s s
    where q.collection_id = $1 and s.%1$I = q.row_id::%3$s and s.embedding_model = any ($2)
  $sql$, c.key_column, c.source, c.key_type) using c.id, c.kept_models;
  return embedding.queue_pending_rows(c);
end;
$$;
comment on function public.set_collection_model is
  'Moves a collection to another registered model. Rows keep their old vector, and searches use it, until the new one replaces it. Vectors of a model that no backfill makes stay unless replace_foreign is true. To switch back, call it with the former model. Returns how many rows were queued.';
revoke all on function public.set_collection_model from public, anon, authenticated, service_role;
grant execute on function public.set_collection_model to service_role;

create function embedding.retire_models(collection text)
returns setof text
-- Security definer, because only the table's owner can drop an index.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  candidate text;
  schema_name regnamespace;
  in_use boolean;
begin
  foreach candidate in array c.retiring_models loop
    execute format('select exists (select from %s s where s.embedding_model = $1)', c.source) into in_use using candidate;
    continue when in_use;
    select r.relnamespace::regnamespace into schema_name from pg_class r where r.oid = c.source;
    execute format('drop index if exists %s.%I', schema_name, embedding.vector_index_name(c, candidate));
    update embedding.collections k set retiring_models = array_remove(k.retiring_models, candidate) where k.id = c.id;
    return next candidate;
  end loop;
end;
$$;
comment on function embedding.retire_models is
  'Ends a model switch: removes former models that have no vectors any more, with their indexes, and returns them.';
revoke all on function embedding.retire_models from public, anon, authenticated, service_role;
grant execute on function embedding.retire_models to service_role;

create function public.collection_models(collection text, model text default null, dimensions integer default null)
returns setof embedding.models language plpgsql stable security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  stored embedding.models;
begin
  if collection_models.dimensions is not null then
    select m.* into stored from embedding.models m where m.name = collection_models.model;
    perform embedding.check_dimensions(stored, collection_models.dimensions);
    perform embedding.check_width(c.source, collection_models.model, collection_models.dimensions);
  end if;
  return query
  select m.* from embedding.models m
  where m.name = c.model or m.name = any (c.retiring_models)
  order by m.name <> c.model, m.name;
end;
$$;
comment on function public.collection_models is
  'The model of the collection, then the models that a switch is replacing. With a model and its dimensions, raises an error if the collection cannot store vectors of this model, which does not have to be registered.';
revoke all on function public.collection_models from public, anon, authenticated, service_role;
grant execute on function public.collection_models to service_role;

-- 44_runs.sql

-- The name of a constraint is the error message that a caller reads (see shared/database/translate.py).
create table embedding.runs (
  id uuid primary key default gen_random_uuid(),
  -- embedding is a backfill, generation is a run that writes synonyms.
  kind text not null default 'embedding'
    constraint "kind must be embedding or generation" check (kind in ('embedding', 'generation')),
  collection_id integer references embedding.collections (id) on delete cascade,
  model text constraint "model must hold at most 255 characters" check (char_length(model) <= 255),
  status text not null default 'running'
    constraint "status must be queued, running, completed, failed, interrupted"
    check (status in ('queued', 'running', 'completed', 'failed', 'interrupted')),
  processed bigint not null default 0 constraint "processed must not be below 0" check (processed >= 0),
  embedded bigint not null default 0 constraint "embedded must not be below 0" check (embedded >= 0),
  failed bigint not null default 0 constraint "failed must not be below 0" check (failed >= 0),
  stale bigint not null default 0 constraint "stale must not be below 0" check (stale >= 0),
  reused bigint not null default 0 constraint "reused must not be below 0" check (reused >= 0),
  truncated bigint not null default 0 constraint "truncated must not be below 0" check (truncated >= 0),
  calls bigint not null default 0 constraint "calls must not be below 0" check (calls >= 0),
  tokens bigint not null default 0 constraint "tokens must not be below 0" check (tokens >= 0),
  cost_usd numeric(14, 6) not null default 0
    constraint "cost_usd must be a number that is not below 0" check (cost_usd >= 0 and cost_usd < 'NaN'),
  error text,
  started_at timestamptz not null default now(),
  -- The time when work began. It is later than started_at if the run was queued first. The rate is computed from it.
  begun_at timestamptz,
  -- Each report sets this. A run whose status is running and that has not reported for a long time has crashed.
  reported_at timestamptz not null default now(),
  finished_at timestamptz
);
comment on table embedding.runs is 'One row for each run: what it did, what it cost and how it ended.';
comment on column embedding.runs.begun_at is 'When work began; null while the run is queued.';
comment on column embedding.runs.calls is 'Requests made to the provider, retries included.';
create index runs_by_collection on embedding.runs (collection_id, started_at desc);
-- For lists of the runs of all collections, by day, latest first.
create index runs_by_start on embedding.runs (started_at desc);
revoke all on embedding.runs from public, anon, authenticated;
grant select, insert, update, delete on embedding.runs to service_role;

create function public.record_embedding_run(
  run_id uuid default null, collection text default null, model text default null, status text default 'running',
  report jsonb default '{}', kind text default 'embedding'
)
returns uuid language plpgsql security invoker set search_path = '' as $$
declare
  -- Counts that are missing in the report are 0. A run may be recorded after it has worked for some seconds, so begun_at is
  -- computed from the `seconds` of the report.
  entry embedding.runs := jsonb_populate_record(null::embedding.runs, jsonb_build_object(
    'processed', 0, 'embedded', 0, 'failed', 0, 'stale', 0, 'reused', 0, 'truncated', 0, 'calls', 0, 'tokens', 0, 'cost_usd', 0)
    || jsonb_strip_nulls(coalesce(report, '{}'))
    || jsonb_build_object(
      'id', coalesce(run_id, gen_random_uuid()), 'kind', kind, 'model', model, 'status', status,
      'error', left(report ->> 'error', 2000),
      'collection_id', case when collection is not null then (embedding.get_collection(collection)).id end,
      'started_at', now(), 'reported_at', now(),
      'begun_at', case when status <> 'queued' then now() - make_interval(secs => coalesce((report ->> 'seconds')::float, 0)) end,
      'finished_at', case when status not in ('queued', 'running') then now() end));
begin
  insert into embedding.runs as r select entry.*
  on conflict on constraint runs_pkey do update
  set status = excluded.status,
      collection_id = coalesce(excluded.collection_id, r.collection_id),
      model = coalesce(excluded.model, r.model),
      processed = excluded.processed, embedded = excluded.embedded, failed = excluded.failed, stale = excluded.stale,
      reused = excluded.reused, truncated = excluded.truncated, tokens = excluded.tokens, cost_usd = excluded.cost_usd,
      -- Both the task and its backfill report, but the task does not know the number of requests.
      calls = greatest(r.calls, excluded.calls),
      error = excluded.error, reported_at = now(),
      begun_at = coalesce(r.begun_at, excluded.begun_at), finished_at = excluded.finished_at
  -- AWS may deliver a task again after it has ended.
  where r.finished_at is null
  returning r.id into entry.id;
  return entry.id;
end;
$$;
comment on function public.record_embedding_run is 'Starts a run (run_id null) or reports on it. Returns its id, or null if the run has ended already: its record stays as it is.';
revoke all on function public.record_embedding_run from public, anon, authenticated, service_role;
grant execute on function public.record_embedding_run to service_role;

create function public.finish_embedding_run(
  collection text, model text, run_id uuid default null, status text default 'completed', report jsonb default '{}',
  index_min_rows integer default null
)
returns table (ready bigint, leased bigint, waiting bigint, failed bigint, foreign_vectors jsonb, lacks_index boolean)
language plpgsql security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables;
begin
  perform embedding.retire_models(collection);
  if run_id is not null or (report ->> 'processed')::bigint > 0 or report ->> 'error' is not null then
    perform public.record_embedding_run(run_id, collection, model, status, report);
  end if;
  c := embedding.get_collection(collection);
  return query
  select q.ready, q.leased, q.waiting, q.failed, embedding.foreign_vectors(c),
    case when (report ->> 'embedded')::bigint > 0 and index_min_rows > 0
      then embedding.lacks_vector_index(c, finish_embedding_run.model, index_min_rows) else false end
  from public.embedding_queue(collection) q;
end;
$$;
comment on function public.finish_embedding_run is
  'Ends a backfill: removes the models that no row has a vector of any more, records how the run ended and returns the state of the queue, and how many rows have vectors of models that no backfill makes ({model: rows}). lacks_index: rows were embedded, and there are index_min_rows vectors of the model or more and no index. '
  'A run without an id that found no row is not recorded, because a schedule starts many of them.';
revoke all on function public.finish_embedding_run from public, anon, authenticated, service_role;
grant execute on function public.finish_embedding_run to service_role;

create function embedding.is_recent(reported_at timestamptz, silent_seconds integer)
returns boolean language sql set search_path = pg_catalog, pg_temp as $$
  -- A report from the future: the clock was ahead and has been set back. A run that lives reports again within seconds.
  select reported_at between clock_timestamp() - make_interval(secs => silent_seconds) and clock_timestamp() + interval '1 minute'
$$;
comment on function embedding.is_recent is 'Whether a run that reported at this time may still be alive.';
revoke all on function embedding.is_recent from public, anon, authenticated, service_role;
grant execute on function embedding.is_recent to service_role;

create function public.list_embedding_runs(
  of_collection text default null, max_rows integer default 50, silent_seconds integer default 120, of_run uuid default null
)
returns table (
  run_id uuid, kind text, collection text, model text, provider text, status text, processed bigint, embedded bigint, failed bigint,
  stale bigint, reused bigint, truncated bigint, calls bigint, tokens bigint, cost_usd numeric, error text, recorded_at timestamptz,
  started_at timestamptz, reported_at timestamptz, finished_at timestamptz, ended_at timestamptz, seconds double precision
)
language sql stable security invoker set search_path = '' as $$
  select
    r.id, r.kind, c.name, r.model, m.provider, r.state,
    r.processed, r.embedded, r.failed, r.stale, r.reused, r.truncated, r.calls, r.tokens, r.cost_usd, r.error,
    r.started_at, r.work_began, r.reported_at, r.finished_at,
    -- For a crashed run, the end is the time of its last report.
    case when r.state = 'crashed' then r.reported_at else r.finished_at end,
    greatest(extract(epoch from case when r.state = 'crashed' then r.reported_at else coalesce(r.finished_at, clock_timestamp()) end - r.work_began), 0)::float
  from (
    select r.*, coalesce(r.begun_at, r.started_at) as work_began,
      -- A running worker reports every few seconds. A queued task is reported less often.
      case
        when r.status in ('queued', 'running') and not embedding.is_recent(r.reported_at, silent_seconds) then 'crashed'
        else r.status
      end as state
    from embedding.runs r
    where (of_run is null or r.id = of_run)
      and (of_collection is null or r.collection_id = (embedding.get_collection(of_collection)).id)
    order by r.started_at desc, r.id
    limit coalesce(max_rows, 50)
  ) r
  left join embedding.collections c on c.id = r.collection_id
  left join embedding.models m on m.name = r.model
  order by r.started_at desc, r.id
$$;
comment on function public.list_embedding_runs is
  'Runs, latest first: those of of_collection, the run of_run, or all. collection is null for a run over all collections; each of these has a run of its own, too. kind is generation for a run that wrote synonyms. '
  'status is crashed if a run is queued or running and has not reported for silent_seconds. started_at is when work began, recorded_at when the run was recorded.';
revoke all on function public.list_embedding_runs from public, anon, authenticated, service_role;
grant execute on function public.list_embedding_runs to service_role;

create function public.running_embedding_runs(silent_seconds integer default 30)
returns table (collection text, run_id uuid, started_at timestamptz, done bigint, rows_per_second double precision)
language sql stable security invoker set search_path = '' as $$
  select
    c.name,
    -- Runs of a collection at the same time are added up to one. It has the id of the latest run.
    (array_agg(r.id order by r.started_at desc))[1],
    min(coalesce(r.begun_at, r.started_at)),
    sum(w.done)::bigint,
    sum(w.done / nullif(w.seconds, 0))::float
  from embedding.runs r
  left join embedding.collections c on c.id = r.collection_id
  cross join lateral (
    select r.embedded + r.failed + r.stale, greatest(extract(epoch from r.reported_at - coalesce(r.begun_at, r.started_at)), 0)
  ) w (done, seconds)
  where r.kind = 'embedding' and r.status = 'running' and embedding.is_recent(r.reported_at, silent_seconds)
  group by c.name
$$;
comment on function public.running_embedding_runs is
  'One row for each collection with running backfills: the rows that are done, and the rate up to the latest report (null before the first report). collection is null for a run over all collections.';
revoke all on function public.running_embedding_runs from public, anon, authenticated, service_role;
grant execute on function public.running_embedding_runs to service_role;

create table embedding.spending (
  day date primary key,
  -- A query may cost less than a millionth of a dollar.
  cost_usd numeric(24, 12) not null
    constraint "spent_usd must be a number that is not below 0" check (cost_usd >= 0 and cost_usd < 'NaN')
);
comment on table embedding.spending is
  'What each day (UTC) has cost: the calls of all programs with EMBEDDING_BUDGET_PER_DAY, also those that belong to no run.';
revoke all on embedding.spending from public, anon, authenticated;
grant select, insert, update, delete on embedding.spending to service_role;

create function embedding.add_spending(usd numeric)
returns numeric language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  today date := (now() at time zone 'UTC')::date;
  total numeric;
begin
  if usd < 0 then
    raise exception 'spent_usd must be a number that is not below 0' using errcode = '22023';
  end if;
  insert into embedding.spending as s (day, cost_usd)
  -- The first call of a day counts the runs that ran without a budget until then.
  select today, add_spending.usd + coalesce(sum(r.cost_usd), 0)
  from embedding.runs r
  where r.started_at >= today::timestamp at time zone 'UTC' and r.collection_id is not null
  on conflict on constraint spending_pkey do update set cost_usd = s.cost_usd + add_spending.usd
  returning s.cost_usd into total;
  return total;
end;
$$;
comment on function embedding.add_spending is 'Adds to what today (UTC) has cost, and returns the sum.';
revoke all on function embedding.add_spending from public, anon, authenticated, service_role;
grant execute on function embedding.add_spending to service_role;

create function public.embedding_costs(days integer default 30, spent_usd double precision default null)
returns jsonb language sql security invoker set search_path = '' as $$
  -- One value: Supabase returns at most 1,000 rows of a call.
  select jsonb_build_object(
    'entries', coalesce(jsonb_agg(to_jsonb(d) order by d.day desc, d.model), '[]'),
    'spent_today', case when spent_usd is not null then embedding.add_spending(spent_usd::numeric) end,
    'resets_in', extract(epoch from ((now() at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC' - now())::float)
  from (
    select
      (r.started_at at time zone 'UTC')::date as day, r.model, min(m.provider) as provider,
      count(*) as runs, sum(r.embedded) as embedded, sum(r.tokens) as tokens, sum(r.cost_usd) as cost_usd
    from embedding.runs r
    left join embedding.models m on m.name = r.model
    where r.started_at >= ((clock_timestamp() at time zone 'UTC')::date - embedding_costs.days + 1)::timestamp at time zone 'UTC'
      and r.model is not null
      -- Leave out a run over all collections: the run of each collection has the same counts.
      and (r.collection_id is not null or r.kind <> 'embedding')
    group by 1, 2
  ) d
$$;
comment on function public.embedding_costs is
  'Runs, rows, tokens and cost by day (UTC) and model, latest first; and the seconds until the next day. '
  'With spent_usd (0 or more): adds it to what today has cost, for a budget of the day, and returns the sum as spent_today.';
revoke all on function public.embedding_costs from public, anon, authenticated, service_role;
grant execute on function public.embedding_costs to service_role;

-- 45_map_sample.sql

-- pg_stats is a security barrier view. In a join by the name of a table, PostgreSQL would read all of it and check the
-- privileges of every column. This took 40 ms of each request for coverage, even with empty tables. The subqueries below are
-- evaluated first, so that only the statistics of one table are read.
create function embedding.text_columns(c embedding.tracked_tables)
returns table (attname name, attnum smallint, is_text boolean, reltuples real, null_frac real, n_distinct real)
language sql stable security invoker set search_path = pg_catalog, pg_temp as $$
  select a.attname, a.attnum, t.typcategory = 'S', r.reltuples, st.null_frac, st.n_distinct
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_type t on t.oid = a.atttypid
  join pg_catalog.pg_class r on r.oid = a.attrelid
  left join pg_catalog.pg_stats st
    -- These are subqueries and not columns of r, for the reason given above.
    on st.schemaname = (
      select n.nspname from pg_class s join pg_namespace n on n.oid = s.relnamespace where s.oid = c.source)
    and st.tablename = (select s.relname from pg_catalog.pg_class s where s.oid = c.source)
    and st.attname = a.attname and not st.inherited
  where a.attrelid = c.source and a.attnum > 0 and not a.attisdropped
    and (t.typcategory in ('S', 'B') or t.typtype = 'e')
    and a.attname not in (c.key_column, 'embedding_model')
$$;
comment on function embedding.text_columns is 'The columns of type text, enum or boolean, with their statistics.';
revoke all on function embedding.text_columns from public, anon, authenticated, service_role;
grant execute on function embedding.text_columns to service_role;

create function embedding.collection_columns(c embedding.tracked_tables, out label_column text, out category_columns text[])
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  uncounted text;
  counted jsonb := '{}';
begin
  -- Before the first ANALYZE there are no statistics. So count the values in 1,000 rows.
  select string_agg(format('jsonb_build_array(count(s.%1$I), count(distinct s.%1$I)) as %1$I', d.attname), ', ') into uncounted
  from embedding.text_columns(c) d
  where d.n_distinct is null;
  if uncounted is not null then
    begin
      execute format('select to_jsonb(d.*) from (select %s from (select * from %s limit 1000) s) d', uncounted, c.source) into counted;
    exception
      when others then
        -- A table that cannot be read must not hide the other collections.
        if embedding.error_scope(sqlstate) = 'passing' then
          raise;
        end if;
    end;
  end if;

  select
    (array_agg(d.attname::text order by array_position(array['title', 'name'], d.attname::text), d.attnum)
      filter (where d.is_text and not d.is_category))[1],
    coalesce(array_agg(d.attname::text order by d.attnum) filter (where d.is_category), '{}')
  into label_column, category_columns
  from (
    select
      t.attname, t.attnum, t.is_text,
      -- People cannot distinguish more than sixty colours. A column in which most values are distinct is not a category.
      t.attname not in ('title', 'name') and coalesce(
        case when t.n_distinct < 0 then -t.n_distinct * greatest(t.reltuples, 0) else t.n_distinct end,
        (counted -> t.attname::text ->> 1)::float
      ) between 2 and least(60, coalesce(
        (1 - t.null_frac) * greatest(t.reltuples, 0), (counted -> t.attname::text ->> 0)::float) / 2) as is_category
    from embedding.text_columns(c) t
  ) d;
end;
$$;
comment on function embedding.collection_columns is
  'The column that names a row (title, name, or the first text column that is not a category; null if there is none) and the columns with few distinct values.';
revoke all on function embedding.collection_columns from public, anon, authenticated, service_role;
grant execute on function embedding.collection_columns to service_role;

create function public.sample_embeddings(
  collection text, model text default null, sample_size integer default 2000, category_column text default null,
  known_version text default null
)
returns jsonb language plpgsql stable security invoker set search_path = '' set plan_cache_mode = force_custom_plan as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  sampled_model text := sample_embeddings.model;
  version text;
  label_column text;
  sampled jsonb;
begin
  if sample_size not between 1 and 2000 then
    raise exception 'sample_size must be between 1 and 2000, not %', sample_size using errcode = '22023';
  end if;
  if category_column is not null and not exists (select from embedding.text_columns(c) t where t.attname = category_column) then
    raise exception 'category: "%" is not a text, enum or boolean column of "%"', category_column, c.name
      using errcode = '22023',
            hint = format('Columns with few distinct values: %s.',
              coalesce(nullif(array_to_string((embedding.collection_columns(c)).category_columns, ', '), ''), 'none'));
  end if;
  if sampled_model is null then
    -- Find the model that made most of the vectors in the sample.
    execute format($sql$
      select h.embedding_model
      from (select s.embedding_model from %s s where s.embedding is not null order by s.embedding_hash limit $1) h
      group by 1
      order by count(*) desc, h.embedding_model = $2 desc nulls last, 1
      limit 1
    $sql$, c.source) into sampled_model using sample_size, c.model;
  end if;
  -- The version is a hash that changes if a row of the sample changes. xmin changes with every update of a row: of its text,
  -- its vector or its category.
  execute format($sql$
    select md5(coalesce(string_agg(h.key || ':' || h.version, ',' order by h.key), ''))
    from (
      select s.%1$I::text as key, s.xmin::text as version
      from %2$s s
      where s.embedding is not null and s.embedding_model = $1
      order by s.embedding_hash, s.%1$I
      limit $2
    ) h
  $sql$, c.key_column, c.source) into version using sampled_model, sample_size;
  if version = known_version then
    return jsonb_build_object('model', sampled_model, 'version', version);
  end if;
  -- The sample is the rows whose text has the smallest SHA-256. It is as good as a random sample, and it is the same for the
  -- same rows. An existing index (embedding_hash) starts with these rows, so that a million rows are neither scanned nor
  -- sorted. A TABLESAMPLE would depend on where rows are stored.
  -- Unit length and half precision are enough for a map, and need a quarter of the space of printed numbers.
  -- Return one value, because Supabase returns at most 1,000 rows of a call.
  label_column := (embedding.collection_columns(c)).label_column;
  select r.sampled into sampled
  from embedding.read_table(c, $sql$
    with head as materialized (
      select
        s.%1$I::text as id,
        left(coalesce(nullif(btrim(%4$s), ''), t.text), 120) as label,
        left(%5$s, 120) as category,
        extensions.l2_normalize(s.embedding)::extensions.halfvec as vector,
        row_number() over (order by s.embedding_hash, s.%1$I) as place
      from %2$s s cross join lateral %3$s t
      where s.embedding is not null and s.embedding_model = $2 ->> 'model'
      order by s.embedding_hash, s.%1$I
      limit ($2 ->> 'sample_size')::integer
    )
    select jsonb_build_object(
      'total', (select count(*) from %2$s s where s.embedding is not null and s.embedding_model = $2 ->> 'model'),
      'ids', coalesce(jsonb_agg(h.id order by h.place), '[]'),
      'labels', coalesce(jsonb_agg(h.label order by h.place), '[]'),
      'categories', coalesce(jsonb_agg(h.category order by h.place), '[]'),
      -- The first four bytes of halfvec_send are the width. After them, each number has two bytes, big-endian.
      'vectors', coalesce(encode(string_agg(substring(extensions.halfvec_send(h.vector) from 5), ''::bytea order by h.place), 'base64'), '')
    )
    from head h
  $sql$,
    jsonb_build_object('model', sampled_model, 'sample_size', sample_size),
    array[
      case when label_column is null then 'null' else format('s.%I::text', label_column) end,
      case when category_column is null then 'null' else format('s.%I::text', category_column) end
    ]) r (sampled jsonb);
  return sampled || jsonb_build_object('model', sampled_model, 'version', version);
end;
$$;
comment on function public.sample_embeddings is
  'A sample of up to 2,000 rows with a vector of one model (if model is null, of the model that made most of the vectors): {model, version, total, ids, labels, categories, vectors}. An unchanged table has the same sample each time. vectors is base64 of big-endian half floats of unit length, row after row. '
  'If version equals known_version, the result is only {model, version}, which takes much less time.';
revoke all on function public.sample_embeddings from public, anon, authenticated, service_role;
grant execute on function public.sample_embeddings to service_role;

-- 46_webhook.sql

-- A webhook that calls the functions for each row without a vector. Its payload has the form of Supabase's own database
-- webhooks, but contains only the key of the row; the secret is read from the vault.
create function embedding.post_webhook()
returns trigger
-- Security definer, because a role that may write the table may not read the vault.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  target constant text := tg_argv[1];
  secret_name constant text := tg_argv[2];
  key_column name;
  secret text;
  key_value jsonb;
begin
  select c.key_column into key_column from embedding.collections c where c.id = tg_argv[0]::integer;
  execute 'select s.decrypted_secret from vault.decrypted_secrets s where s.name = $1' into secret using secret_name;
  if key_column is null or secret is null then
    -- A write must not fail because of the webhook: the scheduled worker finds the row later.
    raise warning 'no webhook sent for %: % is missing', tg_relid::regclass,
      case when key_column is null then 'its tracking' else 'the vault secret ' || secret_name end;
    return null;
  end if;
  -- Convert only the key to JSON: to_jsonb of the row would call casts, which the owners of the columns' types can create.
  execute format('select to_jsonb(($1).%I)', key_column) into key_value using new;
  -- pg_net sends the request in the background, after the commit.
  execute 'select net.http_post(url := $1, body := $2, headers := $3, timeout_milliseconds := 30000)'
  using target,
    jsonb_build_object(
      'type', tg_op, 'table', tg_table_name, 'schema', tg_table_schema, 'old_record', null,
      'record', jsonb_build_object(key_column, key_value)),
    jsonb_build_object('Content-Type', 'application/json', 'x-webhook-secret', secret);
  return null;
end;
$$;
comment on function embedding.post_webhook is
  'Sends the key of a row without a vector to the HTTP functions. The arguments are the collection''s id, the address, and the name of the secret in the vault.';
revoke all on function embedding.post_webhook from public, anon, authenticated, service_role;

create function public.create_embedding_webhook(collection text, url text, secret_name text default 'tonnetz_webhook_secret')
returns void
-- Security definer, because only the table's owner can create a trigger.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
  if to_regnamespace('net') is null or to_regclass('vault.decrypted_secrets') is null then
    raise exception 'the webhook needs pg_net and the vault, which this database does not have'
      using errcode = '55000',
            hint = 'On Supabase: create extension pg_net. On other servers scripts/backfill.py or the server''s schedule finds new rows.';
  end if;
  if url !~ '^https?://[^[:space:]]+$' then
    raise exception 'url must start with http:// or https://' using errcode = '22023';
  end if;
  -- The caller chooses the address to which the secret is sent, so other secrets of the vault must not be used.
  if secret_name !~ '^tonnetz_' and not has_table_privilege(caller, 'vault.decrypted_secrets', 'select') then
    raise exception 'secret_name must begin with tonnetz_' using errcode = '22023', hint = 'Other secrets need select on vault.decrypted_secrets.';
  end if;
  execute format(
    'create or replace trigger embedding_webhook after insert or update on %s for each row when (new.embedding is null)
     execute function embedding.post_webhook(%L, %L, %L)',
    c.source, c.id, url, secret_name);
end;
$$;
comment on function public.create_embedding_webhook is
  'Sends the key of each row without a vector to the HTTP functions (POST /api/webhooks/embeddings). The secret is read from the vault when '
  'a row is written; store it with select vault.create_secret(''...'', ''tonnetz_webhook_secret''). To stop it, drop the trigger embedding_webhook.';
revoke all on function public.create_embedding_webhook from public, anon, authenticated, service_role;
grant execute on function public.create_embedding_webhook to service_role;

create function public.ping_embeddings()
returns boolean language sql stable security invoker set search_path = '' as $$
  select true
$$;
comment on function public.ping_embeddings is 'Returns true: the database answers and has the migrations of this version.';
revoke all on function public.ping_embeddings from public, anon, authenticated, service_role;
grant execute on function public.ping_embeddings to service_role;

-- 47_installation_check.sql

-- Checks an installation inside the database, for scripts/doctor.py, with a scratch table. All of it happens in a
-- subtransaction that is always rolled back, so nothing stays after a failure, an interrupt or a lost connection.
create function public.describe_installation()
returns jsonb language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  applied text[] := '{}';
begin
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    select coalesce(array_agg(to_jsonb(m) ->> 'name'), '{}') into applied from supabase_migrations.schema_migrations m;
  end if;
  return jsonb_build_object(
    'server', current_setting('server_version'),
    'server_version', current_setting('server_version_num')::int,
    'vector', (select x.extversion from pg_extension x where x.extname = 'vector'),
    'migrations', applied,
    -- Use session_user, because inside this function current_user is its owner.
    'roles', (
      select jsonb_object_agg(n.name, case when r.oid is not null then
        jsonb_build_object('granted', pg_has_role(session_user, r.oid, 'member'), 'sees_tracked_rows',
          not exists (select from embedding.tracked_tables t where not embedding.sees_every_row(t.source, r.rolname))) end)
      from unnest(array['anon', 'authenticated', 'service_role']) n (name)
      left join pg_roles r on r.rolname = n.name));
end;
$$;
comment on function public.describe_installation is
  'The versions of PostgreSQL and pgvector, the names of the applied migrations, and for each API role, whether it is granted to the session''s user and '
  'whether it sees all rows of the tracked tables. For scripts/doctor.py.';
revoke all on function public.describe_installation from public, anon, authenticated, service_role;
grant execute on function public.describe_installation to service_role;

create function embedding.create_installation_check()
returns void
-- Security definer, because a tracked table belongs to the owner of these functions and not to an API role.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  create table embedding.installation_check (id bigint primary key, body text not null);
  alter table embedding.installation_check enable row level security;
  create policy "everyone reads" on embedding.installation_check for select to anon using (true);
  grant select on embedding.installation_check to anon;
  grant select, insert, update, delete on embedding.installation_check to service_role;
  create function embedding.document_text(document embedding.installation_check) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $f$ select document.body $f$;
  grant execute on function embedding.document_text(embedding.installation_check) to service_role;
  -- Give all arguments with their types, so that the call cannot match another function with the same name in public.
  perform public.track_embeddings('embedding.installation_check'::regclass, null::text, 'english'::regconfig, null::text, null::boolean);
end;
$$;
comment on function embedding.create_installation_check is 'Creates and tracks the table of check_installation, which rolls it back.';
revoke all on function embedding.create_installation_check from public, anon, authenticated, service_role;
grant execute on function embedding.create_installation_check to service_role;

create function public.check_installation(
  model text, provider text, document text, document_embedding extensions.vector, query text, query_embedding extensions.vector
)
returns table (step text, error text) language plpgsql security invoker set search_path = '' as $$
#variable_conflict use_column
declare
  caller constant text := current_setting('role');
  scratch constant text := 'embedding.installation_check';
  steps constant text[] := array['row written', 'row embedded', 'full-text search', 'semantic search', 'row deleted'];
  passed int := 0;
  problem text;
  hint text;
  counted bigint;
begin
  begin
    perform embedding.create_installation_check();
    insert into embedding.installation_check (id, body) values (1, check_installation.document);
    passed := 1;

    perform public.register_embedding_model(
      check_installation.model, check_installation.provider, extensions.vector_dims(document_embedding));
    select sum(s.saved) into counted
    from public.claim_embeddings(scratch, model => check_installation.model) c
    cross join lateral public.save_embeddings(scratch, check_installation.model, jsonb_build_array(
      jsonb_build_object('row_id', c.row_id, 'text_hash', c.text_hash, 'embedding', document_embedding::text))) s;
    if counted is distinct from 1 then
      raise exception 'the row could not be claimed, or its vector was not saved'
        using hint = 'Grant service_role the attribute BYPASSRLS: alter role service_role bypassrls;';
    end if;
    passed := 2;

    perform set_config('role', 'anon', true);
    if not exists (select from embedding.search_hits(scratch::regclass, query_text => check_installation.query)) then
      raise exception 'anon did not find the row';
    end if;
    passed := 3;
    if not exists (
      select from embedding.search_hits(
        scratch::regclass, query_embedding => check_installation.query_embedding, embedding_model => check_installation.model)
    ) then
      raise exception 'anon did not find the row';
    end if;
    passed := 4;

    perform set_config('role', caller, true);
    delete from embedding.installation_check;
    if exists (select from embedding.search_hits(scratch::regclass, query_text => check_installation.query)) then
      raise exception 'the row was still found after it was deleted';
    end if;
    passed := 5;
    raise exception 'undo' using errcode = 'TN000';
  exception
    when sqlstate 'TN000' then
      null;
    when others then
      get stacked diagnostics problem = message_text, hint = pg_exception_hint;
      problem := concat_ws('. ', rtrim(problem, '.'), coalesce(nullif(hint, ''),
        'A function, grant or setting of the database was changed: restore it as in supabase/schemas.'));
  end;
  return query
  select s.name, case when s.number > passed then problem end
  from unnest(steps) with ordinality s (name, number)
  where s.number <= passed + 1 order by s.number;
end;
$$;
comment on function public.check_installation is
  'Writes a row to a scratch table, embeds it, finds it as anon and deletes it; then rolls everything back. Returns each step with its error; '
  'the steps after an error are not returned.';
revoke all on function public.check_installation from public, anon, authenticated, service_role;
grant execute on function public.check_installation to service_role;

-- 48_estimate.sql

-- Estimates how many distinct texts all rows have, from a sample of whole blocks. `blocks` has, for each text of the sample,
-- the number of blocks in which it was found. Equal texts in one block count once: rows that were written together often have
-- equal texts, which would make every text look frequent. `scale` is the number of rows of the table for each sampled row.
--
-- A text in three blocks or more is frequent, so nearly all such texts are in the sample. The other texts are of two kinds.
-- Some are repeated in the table. If there were only these, the numbers of texts in one, two and three blocks would form a
-- series (a Poisson distribution). So the numbers for two and three blocks tell how many of the texts in one block are
-- repeated. Haas and Stokes' estimator, which ANALYZE also uses, counts the repeated texts. The remaining texts in one block
-- are unique, and the table has `scale` times as many. An estimator for only one kind is wrong: if half of the rows have a
-- unique text and the other half one of 1,000 texts, the estimator of ANALYZE finds a quarter of the texts.
create function embedding.distinct_texts(blocks bigint[], scale float8)
returns float8 language sql immutable set search_path = pg_catalog, pg_temp as $$
  select f.three_or_more + (f.one - r.one) * scale
    + case when r.one + f.two > 0
        then (r.one + 2 * f.two) * (r.one + f.two) / (2 * f.two + r.one / scale) else 0 end
  from (
    select
      count(*) filter (where b = 1)::float8 as one, count(*) filter (where b = 2)::float8 as two,
      count(*) filter (where b = 3)::float8 as three, count(*) filter (where b >= 3)::float8 as three_or_more
    from unnest(blocks) b
  ) f
  -- Subtract one standard deviation, so that a few texts in three blocks do not determine the result.
  cross join lateral (select least(f.one, 2 * f.two ^ 2 / (3 * nullif(f.three - sqrt(f.three), 0))) as one) r
$$;
comment on function embedding.distinct_texts is 'Estimates the number of distinct texts from the number of blocks in which each text of a sample was found.';
revoke all on function embedding.distinct_texts from public, anon, authenticated, service_role;
grant execute on function embedding.distinct_texts to service_role;

create function embedding.estimate_from_sample(
  c embedding.tracked_tables, model text, sample_size integer, queued bigint,
  out rows bigint, out texts bigint, out characters bigint, out sample text[]
)
language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
declare
  vectors record;
  unqueued record;
  needy bigint;
  texts_wanted integer;
  looks_up boolean;
  kept constant text[] := coalesce(embedding.kept_models(model, c.retiring_models), array[model]);
begin
  select v.* into vectors from embedding.sample_vectors(c) v;
  -- Without this index the look-up would read the whole table.
  looks_up := vectors.models ? model and not c.client_vectors and exists (
    select from pg_index x
    join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
    where x.indrelid = c.source and a.attname = 'embedding_hash' and x.indisvalid);
  needy := vectors.rows - (select coalesce(sum(m.value::bigint), 0) from jsonb_each_text(vectors.models) m where m.key = any (kept));
  texts_wanted := embedding.sampled_texts(c, vectors.rows);
  select u.* into unqueued from embedding.sample_unqueued(c, kept, needy) u;
  if unqueued.rows > queued then
    select u.* into unqueued from embedding.sample_unqueued(c, kept, needy, texts_wanted) u;
  end if;
  rows := queued + unqueued.rows;
  select r.* into texts, characters, sample
  from embedding.read_table(c, $sql$
    with read as materialized (
      select t.text as document, %6$s as suffix, p.value as block, count(*) as rows
      from jsonb_each_text($2 -> 'places') p
      join %2$s s on s.%1$I = p.key::%4$s
      cross join lateral %3$s t
      where t.text is not null
      group by 1, 2, 3
    ),
    found as materialized (
      select r.document, count(*) as blocks, %5$s as held from read r group by r.document, r.suffix
    ),
    counted as (
      select
        embedding.distinct_texts(
          array_agg(d.blocks), greatest(($2 ->> 'rows')::float8 / (select sum(r.rows) from read r), 1))
          * avg((not d.held)::integer) as texts,
        avg(char_length(d.document)) filter (where not d.held) as length
      from found d
    )
    select
      coalesce(round(d.texts), 0)::bigint,
      coalesce(round(d.texts * d.length), 0)::bigint,
      coalesce((select array_agg(x.document) from (select f.document from found f where not f.held limit ($2 ->> 'sample_size')::integer) x), '{}')
    from counted d
  $sql$,
    jsonb_build_object('model', model, 'sample_size', sample_size, 'rows', rows, 'places',
      -- Read the texts of the queued rows or those of the other rows, whichever kind has more rows.
      case when unqueued.rows > queued then unqueued.places
        else embedding.sample_queue(c, queued, texts_wanted) end),
    array[c.key_type, case when looks_up then $sql$exists (
      select from $sql$ || c.source::text || $sql$ s
      where s.embedding_hash = embedding.text_hash(r.document) || r.suffix and s.embedding_model = $2 ->> 'model' and s.embedding is not null
      -- Look up each text separately. Without this line the planner may read the whole table.
      offset 0
    )$sql$ else 'false' end, embedding.hash_suffix(c)]) r (texts bigint, characters bigint, sample text[]);
exception
  when others then
    -- If no row can be read, this raises an error that names the fix.
    perform embedding.concerns_rows(c, sqlstate, sqlerrm);
    raise;
end;
$$;
comment on function embedding.estimate_from_sample is
  'Like estimate_embeddings, for a large table or a long queue. queued is the number of queued rows that are not failed. The rows are the queued ones, and others that are estimated from a sample; texts are read from 20,000 rows.';
revoke all on function embedding.estimate_from_sample from public, anon, authenticated, service_role;
grant execute on function embedding.estimate_from_sample to service_role;

create function public.estimate_embeddings(collection text, model text, sample_size integer default 1000)
returns table (rows bigint, texts bigint, characters bigint, sample text[], estimated boolean)
language plpgsql stable security invoker set search_path = '' as $$
declare
  c embedding.tracked_tables := embedding.get_collection(collection);
  queued constant bigint := (select count(*) from embedding.queue q where q.collection_id = c.id and q.failed_at is null);
  kept constant text[] := coalesce(embedding.kept_models(model, c.retiring_models), array[model]);
begin
  estimated := queued > 20000 or embedding.is_large(c.source);
  if estimated then
    select e.* into rows, texts, characters, sample from embedding.estimate_from_sample(c, model, sample_size, queued) e;
    return next;
    return;
  end if;
  select r.* into rows, texts, characters, sample
  from embedding.read_table(c, $sql$
    with pending as (
      select t.text as document, %4$s as suffix
      from %2$s s cross join lateral %3$s t
      where (s.embedding is null or (s.embedding_model = any (array(select jsonb_array_elements_text($2 -> 'kept')))) is not true)
        and not exists (
          select from embedding.queue q
          where q.collection_id = ($1).id and q.row_id = s.%1$I::text and q.failed_at is not null
        )
    ),
    -- Equal texts are embedded once; texts that have a vector of this model in the table are not embedded again.
    payable as (
      select distinct on (p.document, p.suffix) p.document
      from pending p
      where p.document is not null
        and not exists (
          select from %2$s s
          where s.embedding_hash = embedding.text_hash(p.document) || p.suffix and s.embedding_model = $2 ->> 'model' and s.embedding is not null
            and not ($1).client_vectors
        )
    )
    select
      (select count(*) from pending p where p.document is not null),
      count(*),
      coalesce(sum(char_length(t.document)), 0)::bigint,
      coalesce((select array_agg(x.document) from (select y.document from payable y limit ($2 ->> 'sample_size')::integer) x), '{}')
    from payable t
  $sql$, jsonb_build_object('model', model, 'sample_size', sample_size, 'kept', kept), array[embedding.hash_suffix(c)]) r (rows bigint, texts bigint, characters bigint, sample text[]);
  return next;
end;
$$;
comment on function public.estimate_embeddings is
  'What a backfill with this model would have to embed: the rows that have no vector of this model or of a model that no backfill makes (without failed rows), their distinct texts that need a provider, the characters of these texts, and a sample of them on which tokens can be counted. estimated is true if the table or the queue is so long that the numbers are from a sample.';
revoke all on function public.estimate_embeddings from public, anon, authenticated, service_role;
grant execute on function public.estimate_embeddings to service_role;

-- 50_bm25.sql

-- BM25 for full-text search, in plain SQL. These functions read the frequencies of a table's lexemes from the planner's
-- statistics, compute the weights of the lexemes of a query, and return the expression that scores a row. All of them are
-- plpgsql, which keeps its plans for the session; before PostgreSQL 18 an SQL function with a SET clause is planned again
-- for every search.

-- Statistics of the whole table are read only for a role that sees every row, because they contain words of all rows.
create function embedding.sees_every_row(source regclass, caller name)
returns boolean language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select has_table_privilege(r.oid, t.oid, 'select') and (
      not t.relrowsecurity or r.rolsuper or r.rolbypassrls
      or (not t.relforcerowsecurity and pg_has_role(r.oid, t.relowner, 'usage'))
      or (
        exists (
          select from pg_catalog.pg_policy p
          where p.polrelid = t.oid and p.polpermissive and p.polcmd in ('r', '*')
            and pg_get_expr(p.polqual, p.polrelid) = 'true'
            and exists (select from unnest(p.polroles) member where member = 0 or pg_has_role(r.oid, member, 'usage')))
        and not exists (
          select from pg_catalog.pg_policy p
          where p.polrelid = t.oid and not p.polpermissive and p.polcmd in ('r', '*'))))
    from pg_catalog.pg_class t, pg_catalog.pg_roles r
    where t.oid = sees_every_row.source and r.rolname = sees_every_row.caller
  );
end;
$$;
comment on function embedding.sees_every_row is
  'Whether the role may read every row of the table: row level security does not apply to the role, or there is a policy `using (true)` '
  'for it and no restrictive policy. False if this is not certain.';
revoke all on function embedding.sees_every_row from public, anon, authenticated, service_role;
grant execute on function embedding.sees_every_row to anon, authenticated, service_role;

create function embedding.lexeme_statistics(source regclass, lexemes text[])
returns table (total_rows float8, average_length float8, frequencies float8[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- The role of the caller. Inside a SECURITY DEFINER function current_user is the owner; the setting `role` is unchanged.
  caller name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
  -- The statistics have hundreds of lexemes, by default up to 1,000. Their array (anyarray) is converted to a text with a
  -- separator, and then to text[]. This takes a third of the time of a cast through an array literal. No lexeme contains the
  -- separator, because the text search parser treats it as white space.
  separator constant text := chr(1);
  widest_vector constant int := 16000;   -- the most dimensions that pgvector allows
  common text[];
  shares real[];
  share_vector extensions.vector;
begin
  if not coalesce(embedding.sees_every_row(source, caller), false) then
    return;
  end if;
  select string_to_array(array_to_string(s.most_common_elems, separator), separator), s.most_common_elem_freqs
  into common, shares
  from pg_catalog.pg_class t
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  join pg_catalog.pg_stats s on s.schemaname = n.nspname and s.tablename = t.relname and s.attname = 'fts' and not s.inherited
  where t.oid = source;
  if common is null then
    return;
  end if;
  -- The array has more entries than there are lexemes. The lowest and the highest share follow at its end.
  shares := shares[1:cardinality(common)];
  if cardinality(common) <= widest_vector then
    share_vector := shares::extensions.vector;
  end if;
  return query
  select
    -- Multiply the rows per page at the last ANALYZE by the present number of pages. So it stays right while the table grows.
    t.reltuples::float8 / greatest(t.relpages, 1) * (pg_relation_size(t.oid) / current_setting('block_size')::int),
    -- The sum of the shares is the mean number of distinct lexemes of a row. pgvector adds them up in one call: l1_distance
    -- sums the differences between two vectors, here between the shares and zeros. For 600 shares this takes 0.02 ms,
    -- and sum() over unnest() takes 0.18 ms, which would be a twelfth of a full-text search.
    coalesce(extensions.l1_distance(share_vector, share_vector operator(extensions.-) share_vector),
             (select sum(share)::float8 from unnest(shares) share)),
    case when cardinality(lexemes) <= 24 then
      array(select shares[array_position(common, wanted.lexeme)]::float8
            from unnest(lexemes) with ordinality wanted (lexeme, place) order by wanted.place)
    else
      array(select known.share::float8
            from unnest(lexemes) with ordinality wanted (lexeme, place)
            left join unnest(common, shares) known (lexeme, share) on known.lexeme = wanted.lexeme
            order by wanted.place)
    end
  from pg_catalog.pg_class t
  where t.oid = source and t.reltuples > 0;
end;
$$;
comment on function embedding.lexeme_statistics is
  'Reads from the planner''s statistics: the number of rows, the mean number of distinct lexemes of a row, and for each '
  'lexeme the share of rows that contain it (NULL if it is not among the most common). It is security definer, because pg_stats '
  'shows no statistics of a table with row level security. Returns no row unless the caller may read every row of the table.';
revoke all on function embedding.lexeme_statistics from public, anon, authenticated, service_role;
grant execute on function embedding.lexeme_statistics to anon, authenticated, service_role;

create function embedding.query_terms(source regclass, query_text text, text_config regconfig)
returns table (terms text[], weights float8[], counts float8[], average_length float8, total_terms int, total_weight float8)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  longest_text constant int := 24000;    -- characters of a query that are read: at least 3,000 words, far less than a tsvector allows
  most_lexemes constant int := 256;      -- lexemes of a query that are looked up
  most_terms constant int := 64;         -- lexemes that are scored: the rarest ones
  sample_rows constant int := 1000;      -- rows that are sampled if the statistics cannot be used
  counted_rows constant int := 2000;     -- rows that are read to count the rare lexemes
  lexemes text[];
  quoted text[];
  total float8;
  mean_length float8;
  shares float8[];                       -- for each lexeme, the share of rows that contain it; NULL for a rare lexeme, which has to be counted
  most_share float8 := 1;                -- upper bound for the share of a counted lexeme
  hits int[];
begin
  lexemes := tsvector_to_array(to_tsvector(text_config, left(query_text, longest_text)));
  if coalesce(cardinality(lexemes), 0) = 0 then
    return;
  end if;

  select s.total_rows, s.average_length, s.frequencies into total, mean_length, shares
  from embedding.lexeme_statistics(source, lexemes) s;
  if cardinality(lexemes) > most_lexemes then
    select array_agg(l.lexeme), case when shares is not null then array_agg(l.share) end into lexemes, shares
    from (select u.lexeme, u.share from unnest(lexemes, shares) u (lexeme, share)
          order by u.share nulls first, length(u.lexeme) desc, u.lexeme limit most_lexemes) l;
  end if;
  -- A printed tsvector of one lexeme has the quotes that the tsquery parser expects, so nothing in it is read as an operator.
  quoted := array(select array_to_tsvector(array[l.lexeme])::text from unnest(lexemes) with ordinality l (lexeme, place) order by l.place);

  if shares is null then
    execute format(
      'with sample as materialized (select s.fts || '''' as fts from %s s where s.fts is not null limit %s)
       select count(*), avg(length(sample.fts)),
              array(select (select count(*) from sample where sample.fts @@ l.term) from unnest($1) with ordinality l (term, place) order by l.place)
       from sample', source, sample_rows)
    into total, mean_length, hits using quoted::tsquery[];
    if total < sample_rows then
      shares := array(select h / greatest(total, 1) from unnest(hits) with ordinality h (h, place) order by h.place);
    else
      shares := array(select case when h.h >= 10 then h.h / total end from unnest(hits) with ordinality h (h, place) order by h.place);
      most_share := 10 / total;
      -- The caller may see any number of rows. Stop counting at a number above which the weights hardly change.
      execute format('select count(*) from (select from %s limit %s) s', source, 20 * sample_rows) into total;
    end if;
  end if;

  -- Rare lexemes are counted among the rows that the caller sees, all in one scan.
  if array_position(shares, null) is not null then
    execute format(
      'with held as materialized (
         select s.fts || '''' as fts from %s s where s.fts @@ %L::tsquery limit %s
       )
       select array_agg(coalesce(l.share, least((select count(*) from held where held.fts @@ l.term) / $3, $4)) order by l.place)
       from unnest($1, $2) with ordinality l (term, share, place)',
      source,
      (select string_agg(l.term, ' | ') from unnest(quoted, shares) l (term, share) where l.share is null),
      counted_rows)
    into shares using quoted::tsquery[], shares, greatest(total, 1), most_share;
  end if;

  return query
  with term as (
    select l.term, l.share * total as n, ln(1 + (total - l.share * total + 0.5) / (l.share * total + 0.5)) as idf
    from unnest(quoted, shares) l (term, share)
  ), ranked as (
    select t.term, t.n, t.idf, row_number() over (order by t.n = 0, t.n, t.term) as place from term t
  )
  select array_agg(r.term order by r.place) filter (where r.n > 0),
         array_agg(r.idf order by r.place) filter (where r.n > 0),
         array_agg(r.n order by r.place) filter (where r.n > 0),
         greatest(mean_length, 1), count(*)::int, sum(r.idf)
  from ranked r
  where r.place <= most_terms;
end;
$$;
comment on function embedding.query_terms is
  'The lexemes of a query that occur in the table, rarest first: each quoted as a tsquery, with its BM25 weight (idf) '
  'and the number of its rows. Also the mean length of a row, and the number and the sum of the weights of all lexemes.';
revoke all on function embedding.query_terms from public, anon, authenticated, service_role;
grant execute on function embedding.query_terms to anon, authenticated, service_role;

create function embedding.bm25_expression(terms text[], weights float8[])
returns text language plpgsql immutable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  -- tf is the number of times that the row contains the lexeme. BM25's tf * (k1 + 1) / (tf + k) equals 2.2 * (1 - k / (k + tf)).
  -- ts_rank of one lexeme is (1 + 1/4 + ... + 1/tf^2) / 1.645, and the expression computes tf from it exactly. This takes a
  -- third of the time of unnest(fts), because ts_rank does not read the row's other lexemes.
  return (
    select string_agg(
      format('%s * (1 - d.k / (d.k + round(1 / (1.64493406685 * (1 - ts_rank(''{1,1,1,1}'', d.fts, %L::tsquery))) - 0.5)))',
        2.2 * t.weight, t.term), ' + ')
    from unnest(terms, weights) t (term, weight)
  );
end;
$$;
comment on function embedding.bm25_expression is
  'SQL for the BM25 score (k1 = 1.2, b = 0.75) of d.fts, with d.k = k1 * (1 - b + b * length / mean length).';
revoke all on function embedding.bm25_expression from public, anon, authenticated, service_role;
grant execute on function embedding.bm25_expression to anon, authenticated, service_role;

-- 51_filters.sql

-- Filters of every search: {"kind": "song"}, {"path": {"prefix": "src/"}}, {"path": {"like": "%.py"}}, {"tags": {"contains": "jazz"}}.
-- The condition is part of the scans that find candidates, so a filtered search still returns match_count rows.
create function embedding.filter_condition(source regclass, filter jsonb)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  field record;
  test record;
  kept record;
  one text;
  condition text := '';
begin
  if filter is null or jsonb_typeof(filter) = 'null' then
    return '';
  elsif jsonb_typeof(filter) <> 'object' then
    raise exception 'filter must be an object of column names and values, not %', jsonb_typeof(filter)
      using errcode = '22023';
  elsif pg_column_size(filter) > 65536 then
    raise exception 'filter must have at most 64 kB' using errcode = '22023';
  end if;
  for field in select f.key as name, f.value from jsonb_each(filter) f order by f.key loop
    select format_type(a.atttypid, a.atttypmod) as type, coalesce(l.collisdeterministic, true) as is_exact into kept
    from pg_catalog.pg_attribute a
    left join pg_catalog.pg_collation l on l.oid = a.attcollation
    where a.attrelid = source and a.attname = field.name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'filter: there is no column "%" in %', left(field.name, 100), source using errcode = '22023';
    end if;
    for test in
      select f.key as operator, f.value #>> '{}' as wanted
      from jsonb_each(case when jsonb_typeof(field.value) = 'object' then field.value else jsonb_build_object('equals', field.value) end) f
      order by f.key
    loop
      if test.operator not in ('equals', 'prefix', 'like', 'contains') then
        raise exception 'filter supports equals, prefix, like and contains, not "%"', left(test.operator, 100) using errcode = '22023';
      end if;
      continue when test.wanted is null;
      one := case test.operator
        when 'equals' then format(' and s.%I = %L', field.name, test.wanted)
        when 'prefix' then format(' and s.%I ^@ %L', field.name, test.wanted)
        when 'like' then format(' and s.%I like %L', field.name, test.wanted)
        else format(' and s.%I @> %L', field.name, array[test.wanted])
      end;
      -- Run the condition without reading a row. This shows whether the column's type has the operator and accepts the value.
      begin
        -- PostgreSQL would raise an error for this only when it compares a row.
        if not kept.is_exact and (test.operator = 'prefix' or test.operator = 'like' and current_setting('server_version_num')::int < 180000) then
          raise feature_not_supported;
        end if;
        execute format('select from %s s where false%s', source, one);
      exception
        -- The caller may not read the column. Raise this error unchanged.
        when insufficient_privilege then
          raise;
        when syntax_error_or_access_rule_violation or feature_not_supported then
          raise exception 'filter: % with this value does not fit the column "%", whose type is %', test.operator, field.name, kept.type
            using errcode = '22023', hint = 'equals takes a value of the column''s type, prefix and like are for text, contains is for arrays.';
      end;
      condition := condition || one;
    end loop;
  end loop;
  return condition;
end;
$$;
comment on function embedding.filter_condition is
  'The SQL condition for a filter {column: value} or {column: {operator: value}}. All entries must be true. The operators are equals, prefix, like and '
  'contains (for arrays). An entry with the value NULL is ignored. Values are quoted.';
revoke all on function embedding.filter_condition from public, anon, authenticated, service_role;
grant execute on function embedding.filter_condition to anon, authenticated, service_role;

-- 52_search.sql

-- The search functions that all collections share. search_hits searches any tracked table and runs as the caller. It builds
-- one statement from two lists of candidates, full-text (BM25) and semantic (cosine), and then scores each candidate by both.

create function embedding.check_weight(argument text, weight double precision)
returns double precision language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  -- NaN and infinite weights are refused: a score of NaN cannot be ordered, and infinity times 0 is NaN.
  if abs(weight) < 'infinity' then
    return weight;
  end if;
  raise exception '% must be a finite number, not %', argument, coalesce(weight::text, '<null>') using errcode = '22023';
end;
$$;
comment on function embedding.check_weight is 'Returns the weight. Raises an error that names the argument if the weight is NaN, infinite or NULL.';
revoke all on function embedding.check_weight from public, anon, authenticated, service_role;
grant execute on function embedding.check_weight to anon, authenticated, service_role;

create function embedding.query_vectors(
  collection_name text, collection_model text, query_embedding extensions.vector, embedding_model text, query_embeddings jsonb
)
returns table (model text, dimensions int, vector extensions.vector)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  given record;
begin
  if jsonb_typeof(query_embeddings) not in ('object', 'null') then
    raise exception 'query_embeddings must be an object of models and vectors, not %', jsonb_typeof(query_embeddings)
      using errcode = '22023';
  elsif pg_column_size(query_embeddings) > 4194304 then
    raise exception 'query_embeddings must have at most 4 MB' using errcode = '22023';
  end if;
  for given in
    select e.key as model, e.value #>> '{}' as written, null::extensions.vector as vector, format('query_embeddings[%s]', e.key) as argument
    from jsonb_each(case when jsonb_typeof(query_embeddings) = 'object' then query_embeddings end) e
    where jsonb_typeof(e.value) <> 'null'
    union all
    select coalesce(embedding_model, collection_model), null, query_embedding, 'query_embedding'
    where query_embedding is not null and coalesce(embedding_model, collection_model) is not null
      and not coalesce(query_embeddings ? coalesce(embedding_model, collection_model), false)
    order by 1
  loop
    model := given.model;
    dimensions := embedding.model_dimensions(given.model);
    -- The name is checked before the vector is read, because reading a vector takes longer.
    if dimensions is null then
      raise exception 'model "%" is not registered', left(given.model, 100) using errcode = '22023';
    end if;
    vector := coalesce(given.vector, given.written::extensions.vector);
    if extensions.vector_dims(vector) <> dimensions then
      raise exception '% has % dimensions, but model "%" of collection "%" has %',
        given.argument, extensions.vector_dims(vector), given.model, collection_name, dimensions
        using errcode = '22023', hint = 'Embed the query with the model that embedded the rows.';
    elsif extensions.vector_norm(vector) = 0 then
      raise exception '% is a zero vector, which has no direction', given.argument using errcode = '22023';
    end if;
    -- The length of a vector does not change its cosine. But the numbers of a very long vector are too large for half
    -- precision, and the square of a very short one is 0 in single precision.
    vector := extensions.l2_normalize(vector);
    return next;
  end loop;
end;
$$;
comment on function embedding.query_vectors is
  'The normalised vector of the query for each model. Raises an error if a model is not registered or a vector does not '
  'have the dimensions of its model.';
revoke all on function embedding.query_vectors from public, anon, authenticated, service_role;
grant execute on function embedding.query_vectors to anon, authenticated, service_role;

create function embedding.held_model(source regclass, collection_name text)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  held text[];
begin
  execute format(
    'select array_agg(m.name order by m.name) from (select distinct s.embedding_model as name from %s s where s.embedding is not null limit 3) m',
    source) into held;
  if cardinality(held) > 1 then
    raise exception 'collection "%" has no model yet, and its rows hold vectors of several models: %', collection_name,
      array_to_string(held, ', ')
      using errcode = '22023', hint = 'Name the model of the query: embedding_model => ''...''.';
  end if;
  return held[1];
end;
$$;
comment on function embedding.held_model is
  'The model of the vectors in a table, for a collection without a model. Raises an error if there are several.';
revoke all on function embedding.held_model from public, anon, authenticated, service_role;
grant execute on function embedding.held_model to anon, authenticated, service_role;

create function embedding.full_text_candidates(
  source regclass, collection record, query_text text, condition text, depth int, out candidates_sql text, out bm25_sql text,
  out matched_weight_sql text, out k_sql text, out total_weight float8, out total_terms int
)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  row_budget constant int := 600;        -- rows that are scored by BM25
  query record;
  rare int;                              -- how many of the rarest terms fit into the budget with all their rows
  rare_rows float8;
  rare_query text;
  pair_query text;
  few_only constant text := format(' and (select count(*) from first) < %s', depth);
  first_sql text;
  other_sql text;
begin
  select t.* into query from embedding.query_terms(source, query_text, collection.text_config) t;
  if coalesce(cardinality(query.terms), 0) = 0 then
    candidates_sql := null;
    bm25_sql := 'null::float8';
    matched_weight_sql := 'null::float8';
    k_sql := 'null::float8';
    return;
  end if;
  total_weight := query.total_weight;
  total_terms := query.total_terms;

  -- Take rows that contain one of the rarest terms, then rows that contain two of the other terms, until the budget is used
  -- up. Rows with a single common term are added only if there are fewer than depth rows. Each tsquery is a literal, so that
  -- the planner uses the frequency of its lexemes.
  select count(*), max(c.so_far) into rare, rare_rows
  from (select sum(c.n) over (order by c.place) as so_far from unnest(query.counts) with ordinality c (n, place)) c
  where c.so_far <= row_budget;
  rare_query := nullif(array_to_string(query.terms[1:rare], ' | '), '');
  pair_query := query.terms[rare + 1] || ' & (' || nullif(array_to_string(query.terms[rare + 2:], ' | '), '') || ')';
  select
    string_agg(part.rows_sql, ' union all ' order by part.place) filter (where part.place < 3),
    string_agg(' union all ' || part.rows_sql, '' order by part.place) filter (where part.place > 2)
  into first_sql, other_sql
  from (
    select a.place, format('(select s.%I as key, s.fts from %s s where s.fts @@ %L::tsquery%s%s%s limit %s)', collection.key_column, source,
      a.query,
      -- This leaves out the rows of the earlier parts. It is a CASE, because for a plain condition the planner would read the
      -- statistics of thousands of lexemes again.
      ' and case when s.fts @@ ' || quote_literal(nullif(a.seen, '')) || '::tsquery then false else true end', condition, a.guard, row_budget) as rows_sql
    from (values
      (1, rare_query, '', ''),
      (2, pair_query, rare_query, ''),
      (3, query.terms[rare + 1], concat_ws(' | ', rare_query, '(' || pair_query || ')'), few_only),
      (4, nullif(array_to_string(query.terms[rare + 2:], ' | '), ''),
        concat_ws(' | ', rare_query, query.terms[rare + 1]), few_only)
    ) a (place, query, seen, guard)
    where a.query is not null
      -- Skip a part with a guard if the rarest terms alone have enough rows, because to plan the part takes time.
      and (a.guard = '' or condition <> '' or rare_rows is null or rare_rows < depth)
  ) part;

  bm25_sql := embedding.bm25_expression(query.terms, query.weights);
  select string_agg(format('case when d.fts @@ %L::tsquery then %s else 0 end', t.term, t.weight), ' + ') into matched_weight_sql
  from unnest(query.terms, query.weights) t (term, weight);
  k_sql := format('1.2 * (0.25 + 0.75 * length(s.fts) / %s)', query.average_length);
  -- fts || '' decompresses a stored tsvector once, instead of once for each term.
  candidates_sql := format(
    'with first as materialized (select f.* from (%s) f limit %s)
       select d.key, %s as bm25
       from (select s.key, s.fts, %s as k from (select a.key, a.fts || '''' as fts from (select * from first%s) a limit %s) s offset 0) d
       order by bm25 desc, d.key limit %s',
    coalesce(first_sql, format('select s.%I as key, s.fts from %s s where false', collection.key_column, source)), row_budget,
    bm25_sql, k_sql, other_sql, row_budget, depth);
end;
$$;
comment on function embedding.full_text_candidates is
  'SQL for the full-text candidates of a search. candidates_sql lists key and bm25 of the best rows, at most depth; it is null if no term '
  'occurs in the table. For any row d, bm25_sql is its BM25 score, matched_weight_sql the sum of the weights of the terms that it '
  'contains, and k_sql the k of bm25_expression. total_weight and total_terms are those of the query.';
revoke all on function embedding.full_text_candidates from public, anon, authenticated, service_role;
grant execute on function embedding.full_text_candidates to anon, authenticated, service_role;

create function embedding.semantic_candidates(
  source regclass, collection record, query_embedding extensions.vector, embedding_model text, query_embeddings jsonb,
  condition text, depth int, out candidates_sql text, out cosine_sql text, out vectors extensions.vector[]
)
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
declare
  -- A table that was tracked before may contain vectors of earlier texts, until a backfill has compared them.
  checked constant text := case when collection.vectors_unchecked then
    format(' and s.%I <= %L::%s', collection.key_column, collection.prepared_to, collection.key_type) else '' end;
begin
  -- Each model ranks the rows that it embedded. The index is used because ORDER BY and WHERE repeat its expression and condition.
  select
    string_agg(format(
      '(select s.%1$I as key from %2$s s where s.embedding_model = %3$L%4$s
          order by s.embedding::extensions.halfvec(%5$s) operator(extensions.<=>) $1[%6$s]::extensions.halfvec(%5$s) limit %7$s)',
      collection.key_column, source, v.model, condition || checked, v.dimensions, v.place, depth), ' union all '),
    coalesce('case' || string_agg(format(
      ' when s.embedding_model = %L%s then nullif(1 - (s.embedding operator(extensions.<=>) $1[%s]), ''NaN'')',
      v.model, checked, v.place), '') || ' end', 'null::float8'),
    array_agg(v.vector order by v.place)
  into candidates_sql, cosine_sql, vectors
  from embedding.query_vectors(
    collection.name,
    case when collection.model is null and query_embedding is not null and embedding_model is null
      then embedding.held_model(source, collection.name) else collection.model end,
    query_embedding, embedding_model, query_embeddings)
    with ordinality v (model, dimensions, vector, place);
end;
$$;
comment on function embedding.semantic_candidates is
  'SQL for the semantic candidates of a search. candidates_sql lists the keys of the nearest rows of each model, at most depth; it is null '
  'if there is no vector of the query. cosine_sql is the cosine of any row s. In both, $1 is the argument vectors.';
revoke all on function embedding.semantic_candidates from public, anon, authenticated, service_role;
grant execute on function embedding.semantic_candidates to anon, authenticated, service_role;

create function embedding.fusion_statement(
  source regclass, key_column name, full_text record, semantic record, fusion text, match_count int
)
returns text language plpgsql stable security invoker set search_path = pg_catalog, pg_temp as $$
begin
  return format(
    $sql$
    with full_text as materialized (%1$s),
    semantic as materialized (%2$s),
    -- This is materialized, so that the join below compares plain columns. Under row level security, a join on an expression
    -- that could leak values cannot use the primary key, and the planner would read every visible row.
    found as materialized (
      select coalesce(t.key, v.key) as key, t.bm25, v.key is not null as is_semantic
      from full_text t
      full join semantic v on v.key = t.key
    ),
    candidate as (
      -- Each row that is in one of the lists, with both of its scores.
      select d.key, d.model, coalesce(d.bm25, %3$s) as bm25, %4$s as matched_weight, d.cosine, d.is_semantic
      from (
        select s.%5$I as key, s.embedding_model as model, s.fts || '' as fts, %6$s as k, f.bm25, %7$s as cosine, f.is_semantic
        from found f
        join %8$s s on s.%5$I = f.key
        offset 0
      ) d
    ),
    best as (
      -- Cosines of different models cannot be compared. So the cosines of a model are divided by that of its own best row. If
      -- a model has few rows here, the best row of all models is used in part.
      select b.model, (b.rows * b.cosine + ($2 - b.rows) * max(b.cosine) over ()) / $2 as cosine
      from (select c.model, least(count(*), $2) as rows, max(c.cosine) as cosine from candidate c where c.is_semantic group by c.model) b
    ),
    scaled as (
      select c.key, nullif(c.bm25, 0) as bm25, c.bm25 / nullif(max(c.bm25) over (), 0) as full_text_share,
             case when %9$L then least(1, c.matched_weight / 8) * (c.matched_weight / $3) ^ (5.0 / $4) else 1 end as full_text_trust,
             c.cosine, c.is_semantic, (c.cosine + 1) / nullif(b.cosine + 1, 0) as semantic_share
      from candidate c
      left join best b on b.model = c.model
    ),
    estimated as (
      -- A row without a vector of these models gets an estimated semantic share. It is between the lowest and the highest
      -- share of the semantic candidates, and rises with the full-text score. Otherwise a new row would not be found until it
      -- is embedded.
      select s.*, coalesce(s.semantic_share, m.lowest + (1 - m.lowest) * s.full_text_share * s.full_text_trust) as semantic_estimate
      from scaled s
      cross join (select min(x.semantic_share) as lowest from scaled x where x.is_semantic) m
    ),
    ranked as (
      select r.*,
             case when r.bm25 is not null then row_number() over (order by r.bm25 desc nulls last, r.key) end as full_text_rank,
             case when r.is_semantic then row_number() over (order by r.is_semantic desc, r.semantic_share desc nulls last, r.key) end as semantic_rank
      from estimated r
    ),
    fused as (
      select r.*,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.full_text_rank) else r.full_text_share * r.full_text_trust end, 0)::float8 as full_text_score,
             coalesce(case %10$L when 'rrf' then 1.0 / (60 + r.semantic_rank) else r.semantic_estimate end, 0)::float8 as semantic_score
      from ranked r
    )
    select f.key::text, $5 * f.full_text_score + $6 * f.semantic_score, f.full_text_score, f.full_text_rank::int, f.semantic_score, f.semantic_rank::int,
           f.bm25, case when f.bm25 is not null then f.full_text_trust end::float8, f.cosine
    from fused f
    order by 2 desc, f.key
    limit %11$s
    $sql$,
    coalesce(full_text.candidates_sql, format('select s.%I as key, null::float8 as bm25 from %s s where false', key_column, source)),
    coalesce(semantic.candidates_sql, format('select s.%I as key from %s s where false', key_column, source)),
    full_text.bm25_sql, full_text.matched_weight_sql, key_column, full_text.k_sql, semantic.cosine_sql, source,
    full_text.candidates_sql is not null and semantic.candidates_sql is not null, fusion, match_count);
end;
$$;
comment on function embedding.fusion_statement is
  'The statement of a search, from the results of full_text_candidates and semantic_candidates. If there are semantic scores, full_text_trust lowers the '
  'full-text score of a row that contains few terms of the query, or only common ones. '
  'Parameters: $1 vectors, $2 depth, $3 total_weight, $4 total_terms, $5 full_text_weight, $6 semantic_weight.';
revoke all on function embedding.fusion_statement from public, anon, authenticated, service_role;
grant execute on function embedding.fusion_statement to anon, authenticated, service_role;

create function embedding.search_hits(
  source regclass, query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter jsonb default null, full_text_weight float8 default 0.3, semantic_weight float8 default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  row_id text, score float8, full_text_score float8, full_text_rank int, semantic_score float8, semantic_rank int, bm25 float8,
  full_text_trust float8, cosine float8
)
language plpgsql stable security invoker rows 10
set search_path = pg_catalog, pg_temp set jit = off set max_parallel_workers_per_gather = 0
as $$
declare
  hit_count constant int := least(greatest(coalesce(match_count, 10), 1), 200);
  depth constant int := greatest(hit_count, 100);        -- candidates of each list
  full_text_factor constant float8 := embedding.check_weight('full_text_weight', coalesce(full_text_weight, 0.3));
  semantic_factor constant float8 := embedding.check_weight('semantic_weight', coalesce(semantic_weight, 0.7));
  method constant text := coalesce(fusion, 'weighted');
  condition text;
  collection record;
  full_text record;
  semantic record;
  previous text[];                                       -- the caller's settings of pgvector
begin
  select c.* into collection from embedding.describe_collection(source) c;
  if not found then
    raise exception '% is not tracked', source
      using errcode = '42704', hint = 'Track it first: select track_embeddings(''...'').';
  end if;
  if method not in ('weighted', 'rrf') then
    raise exception 'fusion must be weighted or rrf, not "%"', left(method, 100) using errcode = '22023';
  end if;
  condition := embedding.filter_condition(source, filter);
  -- If the weight of a list is 0, the list stays empty.
  full_text := embedding.full_text_candidates(
    source, collection, case when full_text_factor <> 0 then query_text end, condition, depth);
  semantic := embedding.semantic_candidates(
    source, collection, case when semantic_factor <> 0 then query_embedding end, embedding_model,
    case when semantic_factor <> 0 then query_embeddings end, condition, depth);
  if full_text.candidates_sql is null and semantic.candidates_sql is null then
    return;
  end if;
  if semantic.candidates_sql is not null then
    -- These settings make an index scan continue until enough rows pass the filter. They are not a SET clause of the function,
    -- because only a superuser could then create the function, or restore it from a dump, in a session that has not loaded
    -- pgvector. So they are changed here and set back below. After an error PostgreSQL sets them back.
    previous := array[current_setting('hnsw.iterative_scan'), current_setting('hnsw.ef_search'), current_setting('hnsw.max_scan_tuples')];
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', '200', true),
      set_config('hnsw.max_scan_tuples', '40000', true);
  end if;
  return query execute embedding.fusion_statement(source, collection.key_column, full_text, semantic, method, hit_count)
  using semantic.vectors, depth, full_text.total_weight, full_text.total_terms, full_text_factor, semantic_factor;
  if semantic.candidates_sql is not null then
    perform set_config('hnsw.iterative_scan', previous[1], true), set_config('hnsw.ef_search', previous[2], true),
      set_config('hnsw.max_scan_tuples', previous[3], true);
  end if;
end;
$$;
comment on function embedding.search_hits is
  'The hits of a search over any tracked table, best first, at most 200. score = full_text_weight * full_text_score + '
  'semantic_weight * semantic_score, where full_text_score = bm25 / highest bm25 * full_text_trust and semantic_score = '
  '(cosine + 1) / (highest cosine + 1); with fusion rrf both are 1 / (60 + rank). Runs as the caller.';
revoke all on function embedding.search_hits from public, anon, authenticated, service_role;
grant execute on function embedding.search_hits to anon, authenticated, service_role;
