-- What the HTTP edge needs beside the queue: rows claimed by name, the state of a run, the list of collections, and
-- the webhook that tells the edge about a new row.

create function embedding.canonical_key(key text, key_type regtype)
returns text
language plpgsql
stable
set search_path = ''
as $$
declare
  canonical text;
begin
  execute format('select %L::%s::text', key, key_type) into canonical;
  return canonical;
exception
  -- Not of the key's type, so no row has it. Of all errors only the class of bad values is taken so.
  when data_exception then
    return null;
end;
$$;
comment on function embedding.canonical_key(text, regtype) is
  'A key as its type prints it (a uuid in lower case), null where it is not of that type.';

create function public.claim_embedding_rows(collection text, row_ids text[], lease_seconds integer default 300)
returns table (asked_id text, row_id text, state text, text text, text_hash text, attempts integer)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  c embedding.collections := embedding.get_collection(collection);
  lease interval := make_interval(secs => coalesce(lease_seconds, 300));
begin
  if coalesce(cardinality(row_ids), 0) not between 1 and 10000 then
    raise exception 'row_ids must hold between 1 and 10000 ids, not %', coalesce(cardinality(row_ids), 0) using errcode = '22023';
  end if;
  if lease not between interval '1 second' and interval '1 day' then
    raise exception 'lease_seconds must be between 1 and 86400, not %', lease_seconds using errcode = '22023';
  end if;

  return query execute format($sql$
    with asked as materialized (
      select a.asked_id, embedding.canonical_key(a.asked_id, $2) as row_id, a.place
      from unnest($3) with ordinality a (asked_id, place)
    ),
    document as materialized (
      select
        k.row_id,
        -- null: there is no such row
        s.embedding is not null and s.embedding_model = $4 as embedded,
        embedding.document_text(s) as text
      from (select distinct a.row_id from asked a where a.row_id is not null) k
      join %2$s s on s.%1$I = k.row_id::%3$s
    ),
    -- In key order, so that two workers never wait for each other in a circle. A row that another worker holds stays
    -- its own; a parked row, or one that backs off, is tried at once: somebody asks for it by name.
    leased as (
      insert into embedding.queue as q (collection_id, row_id, attempts, leased_at, available_at)
      select $1, d.row_id, 1, $5, $5 + $6
      from document d
      where d.text is not null and d.embedded is not true
      order by d.row_id
      on conflict on constraint queue_pkey do update
      set attempts = case when q.failed_at is null then q.attempts else 0 end + 1,
          leased_at = excluded.leased_at,
          available_at = excluded.available_at,
          failed_at = null
      where q.leased_at is null or q.available_at <= $5
      returning q.row_id, q.attempts
    )
    select
      a.asked_id,
      d.row_id,
      case
        when d.row_id is null then 'missing'
        when d.text is null then 'empty'
        when d.embedded then 'embedded'
        when l.row_id is null then 'leased'
        else 'claimed'
      end,
      d.text,
      encode(embedding.text_hash(d.text), 'hex'),
      l.attempts
    from asked a
    left join document d on d.row_id = a.row_id
    left join leased l on l.row_id = a.row_id
    order by a.place
  $sql$, c.key_column, c.source, c.key_type)
  using c.id, c.key_type, row_ids, c.model, clock_timestamp(), lease;
end;
$$;
comment on function public.claim_embedding_rows(text, text[], integer) is
  'Lease the rows with these keys, whatever their place in the queue. One row for each id, in order; state is claimed, '
  'embedded (nothing to do), leased (another worker has it), empty (no text to embed) or missing (no such row).';

create function public.list_embedding_collections()
returns table (collection text, key_column text, model text)
language sql
stable
security invoker
set search_path = ''
as $$
  select c.name, c.key_column::text, c.model from embedding.collections c order by c.name
$$;
comment on function public.list_embedding_collections() is 'The tracked tables, without counting their rows.';

create function public.get_embedding_run(run_id uuid, silent_seconds integer default 120)
returns table (
  id uuid,
  collection text,
  model text,
  status text,
  processed bigint,
  embedded bigint,
  failed bigint,
  stale bigint,
  reused bigint,
  truncated bigint,
  tokens bigint,
  cost_usd numeric,
  error text,
  started_at timestamptz,
  reported_at timestamptz,
  finished_at timestamptz
)
language sql
stable
security invoker
set search_path = ''
as $$
  select
    r.id, c.name, r.model,
    -- Who runs it reports every few seconds; who is to run it says so now and then.
    case when r.status in ('queued', 'running') and r.reported_at < clock_timestamp() - make_interval(secs => silent_seconds)
      then 'crashed' else r.status end,
    r.processed, r.embedded, r.failed, r.stale, r.reused, r.truncated, r.tokens, r.cost_usd, r.error,
    r.started_at, r.reported_at, r.finished_at
  from embedding.runs r
  left join embedding.collections c on c.id = r.collection_id
  where r.id = get_embedding_run.run_id
$$;
comment on function public.get_embedding_run(uuid, integer) is
  'A run as it stands; crashed where it should be at work and has not reported for silent_seconds. No row: no such run.';

create function public.ping_embeddings()
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select true
$$;
comment on function public.ping_embeddings() is 'True: the database answers, and its migrations are those of this version.';

-- The webhook. Supabase's own ("database webhooks" in its dashboard) send the same payload; this one sends only the
-- key of the row, takes its secret from the vault, and stays quiet about rows that have their vector.

create function embedding.post_webhook()
returns trigger
language plpgsql
-- Reads the vault, which whoever writes the table may not.
security definer
set search_path = ''
as $$
declare
  target constant text := tg_argv[0];
  secret_name constant text := tg_argv[1];
  key_column name;
  secret text;
begin
  select c.key_column into key_column from embedding.collections c where c.source = tg_relid;
  execute 'select s.decrypted_secret from vault.decrypted_secrets s where s.name = $1' into secret using secret_name;
  if key_column is null or secret is null then
    -- A write must not fail for want of a webhook: the schedule finds the row.
    raise warning 'no webhook sent for %: % is missing', tg_relid::regclass,
      case when key_column is null then 'its tracking' else 'the vault secret ' || secret_name end;
    return null;
  end if;
  -- pg_net sends it after the commit, in the background.
  execute 'select net.http_post(url := $1, body := $2, headers := $3, timeout_milliseconds := 30000)'
  using
    target,
    jsonb_build_object(
      'type', tg_op, 'table', tg_table_name, 'schema', tg_table_schema,
      'record', jsonb_build_object(key_column, to_jsonb(new) -> key_column),
      'old_record', null),
    jsonb_build_object('Content-Type', 'application/json', 'x-webhook-secret', secret);
  return null;
end;
$$;
comment on function embedding.post_webhook() is
  'Tells the functions of a row that waits for its vector. Arguments: the address, and the name of the secret in the vault.';

create function public.create_embedding_webhook(
  collection text,
  url text,
  secret_name text default 'tonnetz_webhook_secret'
)
returns void
language plpgsql
-- Creating a trigger takes the table's owner.
security definer
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  if to_regnamespace('net') is null or to_regclass('vault.decrypted_secrets') is null then
    raise exception 'the webhook needs pg_net and the vault, which this database does not have'
      using errcode = '55000',
            hint = 'On Supabase: create extension pg_net; elsewhere let scripts/backfill.py or the server''s schedule find new rows.';
  end if;
  if url !~ '^https?://[^[:space:]]+$' then
    raise exception 'url must start with http:// or https://' using errcode = '22023';
  end if;
  execute format(
    'create or replace trigger embedding_webhook after insert or update on %s for each row when (new.embedding is null)
     execute function embedding.post_webhook(%L, %L)',
    c.source, url, secret_name);
end;
$$;
comment on function public.create_embedding_webhook(text, text, text) is
  'Post each row that waits for a vector to the functions (POST /api/webhooks/embeddings). The secret is read from the vault when a row '
  'is written: select vault.create_secret(''...'', ''tonnetz_webhook_secret'').';

create function public.drop_embedding_webhook(collection text)
returns void
language plpgsql
security definer
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  execute format('drop trigger if exists embedding_webhook on %s', c.source);
end;
$$;
comment on function public.drop_embedding_webhook(text) is 'Send no more webhooks for the collection.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'embedding.canonical_key(text, regtype)',
    'public.claim_embedding_rows(text, text[], integer)',
    'public.list_embedding_collections()',
    'public.get_embedding_run(uuid, integer)',
    'public.ping_embeddings()',
    'embedding.post_webhook()',
    'public.create_embedding_webhook(text, text, text)',
    'public.drop_embedding_webhook(text)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
