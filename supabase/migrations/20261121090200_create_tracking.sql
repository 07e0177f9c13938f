-- Tracking a table: its columns, and the triggers that let no vector outlive its text and queue what
-- needs one.
--
-- The triggers run after the statement, over sets: a bulk insert costs one insert into the queue. They
-- are not BEFORE triggers, though those could mend a row in passing: with any such trigger on a table
-- PostgreSQL computes its generated columns anew on every update, so each saved vector would parse the
-- row's whole text for fts again (measured: more than half of the time of a save).

-- The overloads of this function say what is embedded. This first one exists so that the name does:
-- each tracked table adds its own, over its row type.
create function embedding.document_text(document text)
returns text
language sql
immutable parallel safe
set search_path = ''
return nullif(document, '');
comment on function embedding.document_text(text) is
  'The text to embed. Overloaded by row type, one for each tracked table; null means: this row is not to be embedded.';
revoke all on function embedding.document_text(text) from public;
grant execute on function embedding.document_text(text) to service_role;

create function embedding.check_vectors()
returns trigger
language plpgsql
-- Fires for whoever writes the table, who holds no grant on the queue.
security definer
set search_path = ''
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
  select c.* into collection from embedding.collections c where c.source = tg_relid;
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
comment on function embedding.check_vectors() is
  'After an insert or update: refuses vectors of a wrong width or unknown model, keeps the queue true, and drops every vector whose text has changed.';

create function embedding.refresh_fts()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  document text;
  changed boolean := true;
begin
  if tg_op = 'UPDATE' then
    -- Saving a vector must not cost a parse of the text.
    execute 'select embedding.document_text($1) is distinct from embedding.document_text($2) or ($1).fts is distinct from ($2).fts'
    into changed using new, old;
  end if;
  if changed then
    execute 'select embedding.document_text($1)' into document using new;
    new.fts := to_tsvector(tg_argv[0]::regconfig, coalesce(document, ''));
  end if;
  return new;
end;
$$;
comment on function embedding.refresh_fts() is
  'Keeps fts of a tracked table that has no generated column of that name. Argument: the text search configuration.';

create function embedding.dequeue_deleted()
returns trigger
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  collection embedding.collections;
begin
  select c.* into collection from embedding.collections c where c.source = tg_relid;
  if tg_op = 'TRUNCATE' then
    delete from embedding.queue q where q.collection_id = collection.id;
  else
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
comment on function embedding.dequeue_deleted() is 'Forgets deleted rows.';

revoke all on function embedding.check_vectors(), embedding.refresh_fts(), embedding.dequeue_deleted() from public;

create function public.track_embeddings(
  source regclass,
  model text default null,
  text_config regconfig default 'english'
)
returns text
language plpgsql
-- Adds columns, indexes and triggers: that takes the table's owner, which service_role is not.
security definer
set search_path = ''
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
  select n.nspname, c.relname into schema_name, table_name
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where c.oid = source and c.relkind = 'r';
  if not found then
    raise exception '% is not an ordinary table', coalesce(source::text, '<null>')
      using errcode = '42809', hint = 'Only tables can be tracked, not views, foreign or partitioned tables.';
  end if;
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
    execute format('update %1$s s set fts = to_tsvector(%2$L::regconfig, coalesce(embedding.document_text(s), '''')) where s.fts is null', source, text_config);
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
    update %s s
    set embedding_model = coalesce(s.embedding_model, $1),
        embedding_hash = coalesce(s.embedding_hash, embedding.text_hash(embedding.document_text(s)))
    where s.embedding is not null and (s.embedding_model is null or s.embedding_hash is null)
  $sql$, source)
  using track_embeddings.model;
  -- A table that was tracked before may have been edited since.
  execute format($sql$
    update %s s set embedding = null
    where s.embedding is not null
      and s.embedding_hash is distinct from embedding.text_hash(embedding.document_text(s))
  $sql$, source);

  perform embedding.enqueue_pending(tracked);
  return tracked.name;
end;
$$;
comment on function public.track_embeddings(regclass, text, regconfig) is
  'Keep a table embedded: adds what is missing (columns, indexes, triggers) and queues its rows. Safe to repeat. Returns the collection''s name.';

create function embedding.enqueue_pending(collection embedding.collections)
returns bigint
language plpgsql
security definer
set search_path = ''
as $$
declare
  queued bigint;
begin
  execute format($sql$
    insert into embedding.queue (collection_id, row_id)
    select $1, s.%1$I::text
    from %2$s s
    where (s.embedding is null or s.embedding_model <> $2)
      and embedding.document_text(s) is not null
    order by s.%1$I
    on conflict on constraint queue_pkey do nothing
  $sql$, collection.key_column, collection.source)
  using collection.id, collection.model;
  get diagnostics queued = row_count;
  return queued;
end;
$$;
comment on function embedding.enqueue_pending(embedding.collections) is
  'Queues every row that has a text and no vector of the collection''s model and is not queued yet. Returns how many.';

create function public.untrack_embeddings(collection text)
returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
  tracked embedding.collections := embedding.get_collection(collection);
  trigger_name name;
begin
  for trigger_name in
    select t.tgname from pg_catalog.pg_trigger t
    join pg_catalog.pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = tracked.source and p.pronamespace = 'embedding'::regnamespace and not t.tgisinternal
  loop
    execute format('drop trigger %I on %s', trigger_name, tracked.source);
  end loop;
  delete from embedding.collections c where c.id = tracked.id;
end;
$$;
comment on function public.untrack_embeddings(text) is
  'Stop keeping a table embedded. Its columns, vectors and indexes stay; nothing guards them any more.';

revoke all on function embedding.enqueue_pending(embedding.collections) from public;
grant execute on function embedding.enqueue_pending(embedding.collections) to service_role;
revoke all on function public.track_embeddings(regclass, text, regconfig), public.untrack_embeddings(text) from public, anon, authenticated;
grant execute on function public.track_embeddings(regclass, text, regconfig), public.untrack_embeddings(text) to service_role;
