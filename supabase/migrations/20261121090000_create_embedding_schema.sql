-- The private schema of the project. PostgREST does not expose it: everything a client may do goes
-- through functions in public. Rows of a tracked table keep their vector beside their own columns,
-- so there is no table of vectors here: only what is known about models, tracked tables, pending
-- rows and runs.

create schema if not exists extensions;
create extension if not exists vector with schema extensions;
-- Loads it: a function may be given one of its settings (hnsw.*) only where they are known, or by a superuser,
-- whom Supabase does not have.
select '[0]'::extensions.vector is not null;

create schema embedding;
comment on schema embedding is 'What keeps tracked tables embedded. Private: clients use the functions in public.';

revoke all on schema embedding from public;
-- anon and authenticated reach only the helpers that search needs; they hold no grant on a table here.
grant usage on schema embedding to anon, authenticated, service_role;

create table embedding.models (
  name text primary key check (name <> ''),
  provider text not null check (provider <> ''),
  -- 4,000 is what an HNSW index over halfvec can hold.
  dimensions integer not null check (dimensions between 1 and 4000),
  document_prefix text not null default '',
  query_prefix text not null default '',
  max_tokens integer check (max_tokens > 0),
  created_at timestamptz not null default now()
);
comment on table embedding.models is
  'Every model whose vectors may be stored. A name is one vector space: its width and prefixes never change.';

create table embedding.collections (
  id integer generated always as identity primary key,
  name text not null unique,
  source regclass not null unique,
  key_column name not null,
  key_type regtype not null,
  model text references embedding.models (name),
  retiring_models text[] not null default '{}',
  text_config regconfig not null default 'english',
  max_attempts integer not null default 5 check (max_attempts > 0),
  created_at timestamptz not null default now()
);
comment on table embedding.collections is
  'Tracked tables. model is null until the first backfill sets it; retiring_models may still hold rows while a switch is under way; max_attempts is how often a row is tried before it is parked.';

create table embedding.queue (
  collection_id integer not null references embedding.collections (id) on delete cascade,
  row_id text not null,
  attempts integer not null default 0,
  -- When the row may be claimed: at once, after a backoff, or when the lease of its worker ends.
  available_at timestamptz not null default now(),
  leased_at timestamptz,
  failed_at timestamptz,
  error text,
  primary key (collection_id, row_id)
) with (
  -- A queue turns over completely; the default of 20 % dead rows would leave claims to wade through them.
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_analyze_scale_factor = 0.05
);
comment on table embedding.queue is
  'Rows that need a vector. An index to the work, not the truth: a row with a text and no vector is pending even when it is missing here (see reconcile_embeddings).';

-- Claims read the head of this index and nothing else, so a claim costs the same at any length.
create index queue_claimable on embedding.queue (collection_id, available_at) where failed_at is null;
create index queue_failed on embedding.queue (collection_id, failed_at) where failed_at is not null;

create table embedding.runs (
  id uuid primary key default gen_random_uuid(),
  collection_id integer references embedding.collections (id) on delete cascade,
  model text,
  status text not null default 'running'
    check (status in ('queued', 'running', 'completed', 'failed', 'interrupted')),
  processed bigint not null default 0,
  embedded bigint not null default 0,
  failed bigint not null default 0,
  stale bigint not null default 0,
  reused bigint not null default 0,
  truncated bigint not null default 0,
  tokens bigint not null default 0,
  cost_usd numeric(14, 6) not null default 0,
  error text,
  started_at timestamptz not null default now(),
  -- Written with every report; a running run that has been silent for long has crashed.
  reported_at timestamptz not null default now(),
  finished_at timestamptz
);
comment on table embedding.runs is 'One row a backfill: what it did, what it cost and how it ended.';
create index runs_by_collection on embedding.runs (collection_id, started_at desc);

revoke all on all tables in schema embedding from public, anon, authenticated;
grant select, insert, update, delete on all tables in schema embedding to service_role;

create function embedding.get_collection(collection text)
returns embedding.collections
language plpgsql
stable
set search_path = ''
as $$
declare
  found_collection embedding.collections;
begin
  select c.* into found_collection
  from embedding.collections c
  join pg_catalog.pg_class r on r.oid = c.source -- the table may have been dropped
  where c.name = get_collection.collection;
  if not found then
    raise exception 'collection "%" is not tracked', coalesce(collection, '<null>')
      using errcode = 'P0002',
            hint = format('Tracked are: %s. Track a table with track_embeddings(''table_name'').',
              coalesce((select string_agg(c.name, ', ' order by c.name) from embedding.collections c), 'none'));
  end if;
  return found_collection;
end;
$$;
comment on function embedding.get_collection(text) is 'The collection of that name, or an error that lists the tracked ones.';
revoke all on function embedding.get_collection(text) from public;
grant execute on function embedding.get_collection(text) to service_role;

create function embedding.text_hash(document text)
returns bytea
language sql
immutable strict parallel safe
set search_path = ''
return pg_catalog.sha256(pg_catalog.convert_to(document, 'UTF8'));
comment on function embedding.text_hash(text) is
  'Identifies a text. Vectors are shared between equal texts, so it has to resist made-up collisions: SHA-256.';
revoke all on function embedding.text_hash(text) from public;
grant execute on function embedding.text_hash(text) to service_role;
