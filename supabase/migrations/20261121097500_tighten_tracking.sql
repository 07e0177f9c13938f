-- Nobody becomes the owner through a function that runs as the owner. service_role could: with a trigger on a table that such a
-- function writes, with a collection whose source is a view of its own, and with a type or table of its session that took the
-- name of one of PostgreSQL's (an empty search_path searches pg_temp first).
-- Besides, tracking refuses what would break the writes of its users later, and a filter that does not fit is refused by name.

-- Loads pgvector, whose types are named below.
select '[0]'::extensions.vector is not null;

-- What the API's roles hold beyond the rows

-- As on Supabase, tables and sequences in public were made with every privilege for every role of the API.
do $$
declare
  -- maintain is new in PostgreSQL 17.
  beyond_rows constant text := 'trigger, references, truncate' || case when current_setting('server_version_num')::int >= 170000 then ', maintain' else '' end;
  relation regclass;
begin
  for relation in
    select c.source from embedding.collections c join pg_catalog.pg_class r on r.oid = c.source
    union
    select unnest(array['public.genre_tags', 'public.mood_tags', 'public.dataset_scores', 'public.dataset_overview']::regclass[])
  loop
    execute format('revoke %s on %s from public, anon, authenticated, service_role', beyond_rows, relation);
  end loop;
end;
$$;
revoke insert, update, delete on public.dataset_overview from service_role;
-- An identity column takes its number without a privilege on the sequence.
revoke all on sequence public.genre_tags_id_seq, public.mood_tags_id_seq, public.mir_synonyms_id_seq from public, anon, authenticated;

-- Where a collection lies is for track_embeddings to say; a worker sets its model.
revoke insert, update, delete on embedding.collections from service_role;
grant update (model, retiring_models) on embedding.collections to service_role;

-- A trigger that is there fires without it; with it, one of service_role's own could send any secret of the vault anywhere.
revoke all on function embedding.post_webhook() from service_role;

-- Functions that run as their owner

-- pg_temp last, where an empty search_path has it first; these alone, and what they call, could be led astray by it.
do $$
declare
  f regprocedure;
begin
  for f in
    select p.oid
    from pg_catalog.pg_proc p
    where 'search_path=""' = any (p.proconfig)
      and pg_catalog.pg_has_role(p.proowner, 'usage')
      and (p.pronamespace = 'embedding'::regnamespace
        or p.pronamespace = 'public'::regnamespace and p.proname in (
          'track_embeddings', 'untrack_embeddings', 'create_embedding_index', 'drop_embedding_index', 'retire_models',
          'create_embedding_webhook', 'drop_embedding_webhook', 'touch_music_knowledge'))
  loop
    execute format('alter function %s set search_path = pg_catalog, pg_temp', f);
  end loop;
end;
$$;

create function embedding.check_session()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Within a function that runs as its owner current_user is the owner; the setting still names the caller.
  caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
  borrowed name;
begin
  if pg_has_role(caller, current_user, 'member') then
    return;
  end if;
  -- A domain whatever its name: a function that was compiled with it keeps it through any renaming.
  select t.typname into borrowed
  from pg_type t
  where t.typnamespace = pg_my_temp_schema() and t.typtype <> 'b'
    and (t.typtype = 'd' or exists (
      select from pg_type o
      where o.typname = t.typname and o.typnamespace <> t.typnamespace and not pg_is_other_temp_schema(o.typnamespace)))
  limit 1;
  if found then
    raise exception 'the temporary type or table "%" of this session could stand in for another', borrowed
      using errcode = '55000',
            hint = 'Rows of tracked tables are looked after as their owner, so nothing of the session may be taken for something else: drop it, or give a table another name.';
  end if;
end;
$$;
comment on function embedding.check_session() is
  'Refuses a session whose temporary types or tables could be found, by code that runs as the owner, in place of others: a document_text, a trigger of the table.';

create or replace function public.create_embedding_webhook(
  collection text,
  url text,
  secret_name text default 'tonnetz_webhook_secret'
)
returns void
language plpgsql
-- Creating a trigger takes the table's owner.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  caller constant name := case current_setting('role') when 'none' then session_user else current_setting('role') end;
begin
  if to_regnamespace('net') is null or to_regclass('vault.decrypted_secrets') is null then
    raise exception 'the webhook needs pg_net and the vault, which this database does not have'
      using errcode = '55000',
            hint = 'On Supabase: create extension pg_net; elsewhere let scripts/backfill.py or the server''s schedule find new rows.';
  end if;
  if url !~ '^https?://[^[:space:]]+$' then
    raise exception 'url must start with http:// or https://' using errcode = '22023';
  end if;
  -- What is named here is sent to an address that the caller names.
  if secret_name !~ '^tonnetz_' and not has_table_privilege(caller, 'vault.decrypted_secrets', 'select') then
    raise exception 'secret_name must begin with tonnetz_' using errcode = '22023', hint = 'Any other secret of the vault is for its readers.';
  end if;
  execute format(
    'create or replace trigger embedding_webhook after insert or update on %s for each row when (new.embedding is null)
     execute function embedding.post_webhook(%L, %L)',
    c.source, url, secret_name);
end;
$$;

-- Words of any text

create function embedding.fit_words(text_config regconfig, document text)
returns tsvector
language plpgsql
immutable strict
set search_path = pg_catalog, pg_temp
as $$
declare
  head text := document;
begin
  loop
    begin
      return to_tsvector(text_config, head);
    exception
      -- A tsvector ends at 1 MB. A row is written all the same, and is found by the words that it begins with.
      when program_limit_exceeded then
        head := left(head, char_length(head) / 2);
    end;
  end loop;
end;
$$;
comment on function embedding.fit_words(regconfig, text) is 'The words of a text: of as much of it, from its beginning, as a tsvector can hold.';

create or replace function embedding.words(document text, variadic configs regconfig[])
returns tsvector
language plpgsql
-- Not parallel safe: what is caught takes a subtransaction.
immutable strict parallel unsafe
set search_path = pg_catalog, pg_temp
as $$
declare
  head text := document;
  lexemes tsvector;
  config regconfig;
begin
  loop
    begin
      lexemes := '';
      foreach config in array configs loop
        -- Accents go after stemming, which reads them. A tsvector prints quoted, so letters can be exchanged in its text.
        lexemes := lexemes || embedding.fold_accents(to_tsvector(config, head)::text)::tsvector;
      end loop;
      return lexemes;
    exception
      when program_limit_exceeded then
        head := left(head, char_length(head) / 2);
    end;
  end loop;
end;
$$;
alter function embedding.query_words(text, regconfig[]) parallel unsafe;

create or replace function embedding.code_words(path text, content text)
returns tsvector
language sql
immutable parallel unsafe
set search_path = pg_catalog, pg_temp
return embedding.fit_words('english', embedding.split_identifiers(left(concat_ws(' ', path, content), 200000)));

-- fts of music_knowledge and of datasets stays generated by PostgreSQL's own to_tsvector: another expression would write
-- every row and every index anew, the one over the vectors too, while the table is locked. So these refuse what does not fit.
create function embedding.check_word_count()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  longest text;
begin
  select c.name into longest from unnest(tg_argv) c (name) order by length(to_jsonb(new) ->> c.name) desc nulls last limit 1;
  begin
    perform to_tsvector('english', string_agg(to_jsonb(new) ->> c.name, ' ')) from unnest(tg_argv) c (name);
  exception
    when program_limit_exceeded then
      raise exception '% holds more words than can be indexed', longest
        using errcode = '22023', hint = format('PostgreSQL indexes 1 MB of distinct words a row. Divide it over several rows of %s.', tg_table_name);
  end;
  return new;
end;
$$;
comment on function embedding.check_word_count() is
  'Refuses by name a text of more distinct words than the generated fts can hold. Arguments: the columns it is made from.';
-- On insert alone, which an upsert is as well: with a BEFORE trigger on update every saved vector would parse its row's text
-- again (see create_tracking). An update is refused by PostgreSQL itself (54000).
create trigger check_word_count before insert on public.music_knowledge for each row
when (octet_length(new.topic) + octet_length(new.category) + octet_length(new.content) > 200000)
execute function embedding.check_word_count('topic', 'category', 'content');
create trigger check_word_count before insert on public.datasets for each row
when (new.is_active and new.enrichment_status = 'enriched' and 2 * octet_length(new.title) + octet_length(new.description) > 200000)
execute function embedding.check_word_count('title', 'title', 'description');

-- The triggers of a tracked table

create function embedding.check_columns(source regclass, key_column name)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  missing text;
begin
  select string_agg(format('"%s"', w.name), ', ') into missing
  from unnest(array[key_column, 'embedding', 'embedding_model', 'embedding_hash']) w (name)
  where not exists (select from pg_attribute a where a.attrelid = source and a.attname = w.name and not a.attisdropped);
  if missing is not null then
    raise exception '% was tracked with the column %, which it no longer has', source, missing
      using errcode = '42703',
            hint = format('After a column was renamed or dropped, track the table again: select track_embeddings(%L).', source);
  end if;
end;
$$;
comment on function embedding.check_columns(regclass, name) is 'Says what to do where a tracked table lost its key or a column of its vectors.';

create or replace function embedding.check_vectors()
returns trigger
language plpgsql
-- Fires for whoever writes the table, who holds no grant on the queue.
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  collection embedding.collections;
  -- An insert has no old rows: the same statements read an empty set in their place.
  old_rows text := 'old_rows';
  work record;
  wrong record;
begin
  -- A statement trigger fires for no rows, too; here is also where the update below ends.
  if not exists (select from new_rows) then
    return null;
  end if;
  if pg_my_temp_schema() <> 0 then
    perform embedding.check_session();
  end if;
  select c.* into collection from embedding.collections c where c.source = tg_relid;
  perform embedding.check_columns(tg_relid, collection.key_column);
  if tg_op = 'INSERT' then
    old_rows := format('(select * from %s where false)', collection.source);
  end if;

  -- One look at the rows tells which of the steps below there is work for: saving a batch takes one.
  execute format($sql$
    select
      min(n.%1$I::text) filter (where n.embedding is not null and m.dimensions is distinct from extensions.vector_dims(n.embedding)) as misfit,
      bool_or(n.embedding is null or n.embedding_model <> $1) as open,
      bool_or(n.embedding is not null and n.embedding_model is not distinct from coalesce($1, n.embedding_model)
        or t.text_hash is null or o.%1$I is null) as settled,
      bool_or(n.embedding is not null and (t.text_hash is null or n.embedding_hash is distinct from t.text_hash)
        or n.embedding is null and (n.embedding_model is not null or n.embedding_hash is not null)) as unfit
    from new_rows n
    left join %3$s o on o.%1$I = n.%1$I
    left join embedding.models m on m.name = n.embedding_model
    cross join lateral (select embedding.text_hash(embedding.document_text(row(n.*)::%2$s)) as text_hash) t
  $sql$, collection.key_column, collection.source, old_rows)
  into work
  using collection.model;

  -- A stored vector must be of a registered model, and as wide as it.
  if work.misfit is not null then
    execute format($sql$
      select n.embedding_model as model, extensions.vector_dims(n.embedding) as width, m.dimensions as expected
      from new_rows n left join embedding.models m on m.name = n.embedding_model
      where n.%1$I::text = $1
    $sql$, collection.key_column)
    into wrong
    using work.misfit;
    if wrong.expected is null then
      raise exception 'embedding_model "%" of row "%" in % is not registered', coalesce(wrong.model, '<null>'), work.misfit, collection.name
        using errcode = '22023',
              hint = 'A stored vector names its model: set embedding_model too, and register it with register_embedding_model(name, provider, dimensions).';
    end if;
    raise exception 'embedding of row "%" in % has % dimensions, model "%" has %', work.misfit, collection.name, wrong.width, wrong.model, wrong.expected
      using errcode = '22023',
            hint = 'Store it under the model that made it, or move the collection with set_collection_model.';
  end if;

  -- Rows that need nothing any more: embedded, no text left, or known by another key now.
  if work.settled and tg_op = 'UPDATE' then
    execute format($sql$
      delete from embedding.queue q
      using (
        select n.%1$I::text as row_id
        from new_rows n
        where case
          when n.embedding is null or n.embedding_model <> $2 then embedding.document_text(row(n.*)::%2$s) is null
          else true
        end
        union all
        select o.%1$I::text from old_rows o
        where not exists (select from new_rows n where n.%1$I = o.%1$I)
      ) done
      where q.collection_id = $1 and q.row_id = done.row_id
    $sql$, collection.key_column, collection.source)
    using collection.id, collection.model;
  end if;

  -- Rows that need a vector now and did not before, or whose text is another one: a changed text is a
  -- fresh start, also for a parked row. A lease stays: its worker will find its text stale and let go.
  if work.open then
    execute format($sql$
      insert into embedding.queue as q (collection_id, row_id)
      select $1, n.%1$I::text
      from new_rows n
      left join %3$s o on o.%1$I = n.%1$I
      where (n.embedding is null or n.embedding_model <> $2)
        and embedding.document_text(row(n.*)::%2$s) is not null
        and (
          o.%1$I is null
          or (o.embedding is not null and n.embedding is null)
          or (o.embedding_model = $2 and n.embedding_model <> $2)
          or embedding.document_text(row(o.*)::%2$s) is distinct from embedding.document_text(row(n.*)::%2$s)
        )
      order by 2
      on conflict on constraint queue_pkey do update
      set attempts = 0,
          failed_at = null,
          error = null,
          available_at = case
            when q.leased_at is not null and q.available_at > excluded.available_at then q.available_at
            else excluded.available_at
          end
    $sql$, collection.key_column, collection.source, old_rows)
    using collection.id, collection.model;
  end if;

  -- The one rule everything rests on: a vector stays only beside the text it was made from. A vector
  -- that came without a hash of its own is taken to be of the text in the same statement; any other
  -- whose hash is not that of the present text goes. (The update fires this function once more, which
  -- queues what lost its vector.)
  if work.unfit then
    execute format($sql$
      update %2$s s
      set embedding = case when fix.adopted then s.embedding end,
          embedding_model = case when fix.adopted then s.embedding_model end,
          embedding_hash = case when fix.adopted then fix.text_hash end
      from (
        select
          n.%1$I as key,
          t.text_hash,
          n.embedding is not null
            and t.text_hash is not null
            and n.embedding_hash is not distinct from o.embedding_hash
            and (
              o.embedding is null
              or n.embedding operator(extensions.<>) o.embedding
              or n.embedding_model is distinct from o.embedding_model
            ) as adopted
        from new_rows n
        left join %3$s o on o.%1$I = n.%1$I
        cross join lateral (select embedding.text_hash(embedding.document_text(row(n.*)::%2$s)) as text_hash) t
        where (n.embedding is not null and (t.text_hash is null or n.embedding_hash is distinct from t.text_hash))
           or (n.embedding is null and (n.embedding_model is not null or n.embedding_hash is not null))
      ) fix
      where s.%1$I = fix.key
    $sql$, collection.key_column, collection.source, old_rows);
  end if;
  return null;
end;
$$;
create or replace function embedding.refresh_fts()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  document text;
  changed boolean := true;
begin
  if pg_my_temp_schema() <> 0 then
    perform embedding.check_session();
  end if;
  if tg_op = 'UPDATE' then
    -- Saving a vector must not cost a parse of the text.
    execute 'select embedding.document_text($1) is distinct from embedding.document_text($2) or ($1).fts is distinct from ($2).fts'
    into changed using new, old;
  end if;
  if changed then
    execute 'select embedding.document_text($1)' into document using new;
    new.fts := embedding.fit_words(tg_argv[0]::regconfig, coalesce(document, ''));
  end if;
  return new;
end;
$$;

create or replace function embedding.dequeue_deleted()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
  collection embedding.collections;
begin
  select c.* into collection from embedding.collections c where c.source = tg_relid;
  if tg_op = 'TRUNCATE' then
    delete from embedding.queue q where q.collection_id = collection.id;
  else
    perform embedding.check_columns(tg_relid, collection.key_column);
    execute format($sql$
      delete from embedding.queue q
      using old_rows o
      where q.collection_id = $1 and q.row_id = o.%1$I::text
    $sql$, collection.key_column)
    using collection.id;
  end if;
  return null;
end;
$$;

-- Tracking

create function embedding.check_table(source regclass)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
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
      using errcode = '42809', hint = 'It ends with its session, and workers have sessions of their own: track a table that stays.';
  end if;
  if relation.relispartition or exists (select from pg_inherits i where source in (i.inhrelid, i.inhparent)) then
    raise exception '% is a partition, or inherits from another table, or another inherits from it', source
      using errcode = '42809',
            hint = 'A statement that names one table of a family changes rows of others, whose triggers do not see it: a vector would outlive its text. Track a table that stands alone.';
  end if;

  select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, w.type as wanted into wrong
  from pg_attribute a
  join (values ('embedding', 'extensions.vector'::regtype), ('embedding_model', 'text'), ('embedding_hash', 'bytea'), ('fts', 'tsvector'))
    w (name, type) on w.name = a.attname
  where a.attrelid = source and not a.attisdropped and a.atttypid <> w.type
    and not (a.attname = 'embedding_model' and a.atttypid = 'character varying'::regtype)
  order by a.attnum limit 1;
  if found then
    raise exception '%.% has type %, and tracking wants it as %', source, wrong.name, wrong.type, wrong.wanted
      using errcode = '42804', hint = format('Give your column another name: alter table %s rename column %I to ...;', source, wrong.name);
  end if;

  select a.attname as name, a.attgenerated, a.attnotnull into wrong
  from pg_attribute a
  where a.attrelid = source and not a.attisdropped
    and (a.attgenerated = 'v' or a.attname in ('embedding', 'embedding_model', 'embedding_hash') and (a.attnotnull or a.attgenerated <> ''))
  order by a.attnum limit 1;
  if found and wrong.attgenerated = 'v' then
    raise exception '%.% is a virtual generated column', source, wrong.name
      using errcode = '42611', hint = 'PostgreSQL shows triggers no row that has one. Make it stored: generated always as (...) stored.';
  elsif found then
    raise exception '%.% must be a plain column that may be null', source, wrong.name
      using errcode = '42611', hint = 'A row has no vector until it is embedded, and loses it when its text changes.';
  end if;
end;
$$;
comment on function embedding.check_table(regclass) is 'Refuses a table that could not be tracked, or whose writes would fail later, with the reason.';

create function embedding.close_table(source regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  api_roles constant oid[] := array(
    select r.oid from pg_roles r where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator') and not r.rolsuper);
  table_owner constant oid := (select c.relowner from pg_class c where c.oid = source);
  found_name text;
begin
  -- What they hung on the table would be run by the functions that look after it, as the owner of these.
  execute format('revoke trigger, references, truncate%s on %s from public, anon, authenticated, service_role',
    case when current_setting('server_version_num')::int >= 170000 then ', maintain' end, source);
  select r.role::regrole::text into found_name
  from unnest(api_roles) r (role)
  where pg_has_role(r.role, table_owner, 'member') or has_table_privilege(r.role, source, 'trigger');
  if found then
    raise exception '% may change the triggers of %', found_name, source
      using errcode = '55000', hint = format('Let another role own it, and take the privilege away: alter table %s owner to ...;', source);
  end if;
  -- A trigger depends on its function, and on what its condition calls.
  select t.tgname into found_name
  from pg_trigger t
  join pg_depend d on d.classid = 'pg_trigger'::regclass and d.objid = t.oid
  join pg_shdepend o on o.classid = d.refclassid and o.objid = d.refobjid and o.deptype = 'o'
    and o.dbid = (select b.oid from pg_database b where b.datname = current_database())
  where t.tgrelid = source and exists (select from unnest(api_roles) r (role) where pg_has_role(r.role, o.refobjid, 'member'))
  limit 1;
  if found then
    raise exception 'the trigger % of % runs code of a role of the API', found_name, source
      using errcode = '55000', hint = format('Drop it: drop trigger %I on %s;', found_name, source);
  end if;
end;
$$;
comment on function embedding.close_table(regclass) is
  'Leaves the roles of the API the rows of a table alone: its triggers, which run as the owner of the functions that look after it, are for its owner.';

create or replace function public.track_embeddings(
  source regclass,
  model text default null,
  text_config regconfig default 'english'
)
returns text
language plpgsql
-- Adds columns, indexes and triggers: that takes the table's owner, which service_role is not.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  schema_name text;
  table_name text;
  collection_name text;
  key_name name;
  key_type_oid oid;
  tracked embedding.collections;
  unnamed boolean;
begin
  perform embedding.check_session();
  perform embedding.check_table(source);
  select n.nspname, c.relname into strict schema_name, table_name
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.oid = source;
  collection_name := case when schema_name = 'public' then table_name else schema_name || '.' || table_name end;

  select a.attname, a.atttypid into key_name, key_type_oid
  from pg_catalog.pg_index i
  join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
  where i.indrelid = source and i.indisprimary and i.indnkeyatts = 1;
  if not found then
    raise exception '% has no primary key of one column', source
      using errcode = '42830', hint = format('Add one: alter table %s add column id bigint generated always as identity primary key.', source);
  end if;
  if key_type_oid not in ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'text'::regtype, 'character varying'::regtype) then
    raise exception 'primary key %.% has type %, which cannot be tracked', source, key_name, key_type_oid::regtype
      using errcode = '42804', hint = 'Use uuid, bigint, integer, smallint, text or varchar.';
  end if;

  if not exists (
    select from pg_catalog.pg_proc p
    where p.pronamespace = 'embedding'::regnamespace
      and p.proname = 'document_text'
      and p.pronargs = 1
      and p.proargtypes[0] = (select c.reltype from pg_catalog.pg_class c where c.oid = source)
      and p.prorettype = 'text'::regtype
  ) then
    raise exception 'there is no embedding.document_text(%)', source
      using errcode = '42883',
            hint = format('Say what is embedded: create function embedding.document_text(t %s) returns text language sql immutable return t.title || '' '' || t.body;', source);
  end if;
  if model is not null then
    perform embedding.get_model(model);
  end if;
  if exists (select from pg_catalog.pg_ts_config t where t.oid = text_config and pg_catalog.pg_is_other_temp_schema(t.cfgnamespace) or t.oid = text_config and t.cfgnamespace = pg_catalog.pg_my_temp_schema()) then
    raise exception 'text search configuration % ends with its session', text_config using errcode = '42809', hint = 'Name one that stays.';
  end if;
  perform embedding.close_table(source);

  execute format('alter table %s add column if not exists embedding extensions.vector, add column if not exists embedding_model text, add column if not exists embedding_hash bytea', source);

  execute format('drop trigger if exists zz_embedding_fts on %s', source);
  if not exists (
    select from pg_catalog.pg_attribute a
    where a.attrelid = source and a.attname = 'fts' and a.attgenerated = 's' and not a.attisdropped
  ) then
    execute format('alter table %s add column if not exists fts tsvector', source);
    -- zz_: after the table's own BEFORE triggers, which may still change the text.
    execute format('create trigger zz_embedding_fts before insert or update on %s for each row execute function embedding.refresh_fts(%L)', source, text_config);
    -- Rows that are already there are given their words here: no update of theirs would.
    execute format('update %1$s s set fts = embedding.fit_words(%2$L::regconfig, coalesce(embedding.document_text(row(s.*)::%1$s), '''')) where s.fts is null', source, text_config);
  end if;
  execute format('create index if not exists %I on %s using gin (fts)', left(table_name, 50) || '_fts_idx', source);
  -- Equal texts share their vector: this index finds it.
  execute format('create index if not exists %I on %s (embedding_hash) where embedding is not null', left(table_name, 43) || '_embedding_hash_idx', source);
  -- Keyword search ranks by how rare a word is, which it reads from the planner's statistics: the 6,000 most frequent
  -- ones. Each search and each plan reads them all; rarer words are counted in the index.
  execute format('alter table %s alter column fts set statistics 600', source);

  -- A worker is service_role, who owns nothing here and may know no schema but public.
  if not has_schema_privilege('service_role', schema_name, 'usage') then
    execute format('grant usage on schema %I to service_role', schema_name);
  end if;
  execute format('grant select, update on %s to service_role', source);

  -- A collection whose table was dropped is over; its name may be wanted again.
  delete from embedding.collections c where not exists (select from pg_catalog.pg_class r where r.oid = c.source);
  insert into embedding.collections as c (name, source, key_column, key_type, model, text_config)
  values (collection_name, track_embeddings.source, key_name, key_type_oid, track_embeddings.model, track_embeddings.text_config)
  on conflict on constraint collections_source_key do update
  set name = excluded.name,
      key_column = excluded.key_column,
      key_type = excluded.key_type,
      model = coalesce(c.model, excluded.model),
      text_config = excluded.text_config
  returning c.* into tracked;

  execute format('create or replace trigger embedding_check_insert after insert on %s
    referencing new table as new_rows for each statement execute function embedding.check_vectors()', source);
  execute format('create or replace trigger embedding_check_update after update on %s
    referencing old table as old_rows new table as new_rows for each statement execute function embedding.check_vectors()', source);
  execute format('create or replace trigger embedding_dequeue_delete after delete on %s
    referencing old table as old_rows for each statement execute function embedding.dequeue_deleted()', source);
  execute format('create or replace trigger embedding_dequeue_truncate after truncate on %s
    for each statement execute function embedding.dequeue_deleted()', source);

  -- Vectors that the table brings along are adopted under the model that is named for them, as of the present
  -- texts. (The triggers are in place: a model that is not registered, or has another width, is refused.)
  execute format('select exists (select from %s s where s.embedding is not null and s.embedding_model is null)', source) into unnamed;
  if unnamed and track_embeddings.model is null then
    raise exception '% has vectors, but no embedding_model says which model made them', source
      using errcode = '22023',
            hint = format('Name it: select track_embeddings(%L, model => ''...''), or clear them: update %s set embedding = null.', collection_name, source);
  end if;
  execute format($sql$
    update %1$s s
    set embedding_model = coalesce(s.embedding_model, $1),
        embedding_hash = coalesce(s.embedding_hash, embedding.text_hash(embedding.document_text(row(s.*)::%1$s)))
    where s.embedding is not null and (s.embedding_model is null or s.embedding_hash is null)
  $sql$, source)
  using track_embeddings.model;
  -- A table that was tracked before may have been edited since.
  execute format($sql$
    update %1$s s set embedding = null
    where s.embedding is not null
      and s.embedding_hash is distinct from embedding.text_hash(embedding.document_text(row(s.*)::%1$s))
  $sql$, source);

  perform embedding.enqueue_pending(tracked);
  return tracked.name;
end;
$$;

create or replace function embedding.enqueue_pending(collection embedding.collections)
returns bigint
language plpgsql
-- service_role may read and write all that this one touches, and may hand over a collection that it made up.
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
  queued bigint;
begin
  execute format($sql$
    insert into embedding.queue (collection_id, row_id)
    select $1, s.%1$I::text
    from %2$s s
    where (s.embedding is null or s.embedding_model <> $2)
      and embedding.document_text(row(s.*)::%2$s) is not null
    order by s.%1$I
    on conflict on constraint queue_pkey do nothing
  $sql$, collection.key_column, collection.source)
  using collection.id, collection.model;
  get diagnostics queued = row_count;
  return queued;
end;
$$;

create or replace function public.untrack_embeddings(collection text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tracked embedding.collections := embedding.get_collection(collection);
  trigger_name name;
begin
  for trigger_name in
    select t.tgname from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = tracked.source and p.pronamespace = 'embedding'::regnamespace and not t.tgisinternal
      -- and not those that keep updated_at, or tell of a change
      and t.tgname ~ '^(zz_)?embedding_'
  loop
    execute format('drop trigger %I on %s', trigger_name, tracked.source);
  end loop;
  delete from embedding.collections c where c.id = tracked.id;
end;
$$;

-- Filters

-- What does not fit is the caller's mistake (22023): as an undefined operator or column it read like a database out of date.
create or replace function embedding.filter_condition(source regclass, filter jsonb)
returns text
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
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
  end if;
  for field in select f.key as name, f.value from jsonb_each(filter) f order by f.key loop
    select format_type(a.atttypid, a.atttypmod) as type, coalesce(l.collisdeterministic, true) as is_exact into kept
    from pg_catalog.pg_attribute a
    left join pg_catalog.pg_collation l on l.oid = a.attcollation
    where a.attrelid = source and a.attname = field.name and a.attnum > 0 and not a.attisdropped;
    if not found then
      raise exception 'filter names the column "%", which % does not have', field.name, source
        using errcode = '22023';
    end if;
    for test in
      select f.key as operator, f.value #>> '{}' as wanted
      from jsonb_each(case when jsonb_typeof(field.value) = 'object' then field.value else jsonb_build_object('equals', field.value) end) f
      order by f.key
    loop
      if test.operator not in ('equals', 'prefix', 'like', 'contains') then
        raise exception 'filter knows equals, prefix, like and contains, not "%"', test.operator using errcode = '22023';
      end if;
      continue when test.wanted is null;
      one := case test.operator
        when 'equals' then format(' and s.%I = %L', field.name, test.wanted)
        when 'prefix' then format(' and s.%I ^@ %L', field.name, test.wanted)
        when 'like' then format(' and s.%I like %L', field.name, test.wanted)
        else format(' and s.%I @> %L', field.name, array[test.wanted])
      end;
      -- Whether the column's type knows the operator, and the operator this value, PostgreSQL tells without reading a row.
      begin
        -- This alone shows only once it meets a row.
        if not kept.is_exact and (test.operator = 'prefix' or test.operator = 'like' and current_setting('server_version_num')::int < 180000) then
          raise feature_not_supported;
        end if;
        execute format('select from %s s where false%s', source, one);
      exception
        -- As they are: the caller may not read the column, or the query was ended.
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

revoke all on function embedding.check_session(), embedding.check_columns(regclass, name), embedding.check_table(regclass), embedding.close_table(regclass),
  embedding.fit_words(regconfig, text), embedding.check_word_count() from public;
-- A generated column calls it as whoever writes the row.
grant execute on function embedding.fit_words(regconfig, text) to service_role;
