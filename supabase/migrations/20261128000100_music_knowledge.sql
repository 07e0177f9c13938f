-- Generated from supabase/schemas by `make migrations`; do not edit.
select pg_advisory_xact_lock(32773617387664506);

-- 60_music_knowledge.sql

-- Articles and notes on music. This is the simplest collection, and an example for any other table. It is an ordinary table;
-- 61_music_knowledge_document_text.sql defines which text is embedded, and tracks the table.
create table public.music_knowledge (
  id uuid primary key default gen_random_uuid(),
  topic text not null,
  category text not null default '',
  content text not null default '',
  metadata jsonb not null default '{}',
  confidence real not null default 1.0 constraint "confidence must be between 0 and 1" check (confidence between 0 and 1),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.music_knowledge is 'Knowledge about music, found by full-text and by semantic search.';
comment on column public.music_knowledge.confidence is 'How reliable the source is, from 0 to 1.';
create index music_knowledge_category_idx on public.music_knowledge (category);

create trigger touch_updated_at after update on public.music_knowledge
referencing old table as old_rows new table as new_rows
for each statement execute function embedding.touch_updated_at('topic', 'category', 'content', 'metadata', 'confidence');

alter table public.music_knowledge enable row level security;
create policy "everyone reads" on public.music_knowledge for select to anon, authenticated using (true);
revoke all on public.music_knowledge from public, anon, authenticated, service_role;
grant select on public.music_knowledge to anon, authenticated;
grant select, insert, update, delete on public.music_knowledge to service_role;

-- 61_music_knowledge_document_text.sql

-- The text of music_knowledge for embeddings and full-text search: topic, category and content.
create function embedding.document_text(document public.music_knowledge)
returns text language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select nullif(concat_ws(E'\n', nullif(document.topic, ''), nullif(document.category, ''), nullif(document.content, '')), '')
$$;
comment on function embedding.document_text(public.music_knowledge) is 'The text that is embedded: topic, category and content, each on its own line.';
revoke all on function embedding.document_text(public.music_knowledge) from public, anon, authenticated, service_role;
grant execute on function embedding.document_text(public.music_knowledge) to service_role;

alter table public.music_knowledge add column fts tsvector generated always as (
  to_tsvector('english', topic || ' ' || category || ' ' || content)
) stored;

comment on column public.music_knowledge.fts is 'The lexemes of the text that is embedded, for full-text search.';

select public.track_embeddings('public.music_knowledge');

-- The trigger is for inserts (also of an upsert) and not for updates: with a BEFORE UPDATE trigger PostgreSQL would compute
-- fts again for every vector that is saved. An update with too many lexemes is refused by PostgreSQL itself (54000).
create trigger check_lexeme_count before insert on public.music_knowledge for each row
when (octet_length(new.topic) + octet_length(new.category) + octet_length(new.content) > 200000)
execute function embedding.check_lexeme_count('topic', 'category', 'content');

-- 62_music_knowledge_search.sql

create function public.search_music_knowledge(
  query_text text default null, query_embedding extensions.vector default null, match_count int default 10,
  filter_category text default null, full_text_weight float default 0.3, semantic_weight float default 0.7,
  embedding_model text default null, query_embeddings jsonb default null, fusion text default 'weighted'
)
returns table (
  id uuid, topic text, category text, content text, score float, full_text_score float, full_text_rank int, semantic_score float,
  semantic_rank int
)
language sql stable security invoker rows 10 set search_path = '' as $$
  -- Cast the key here, not in the join below. Under row level security, PostgreSQL uses the primary key for a join only if the
  -- functions in the join condition are marked leakproof. The cast is not, so the whole table would be read.
  with hit as materialized (
    select h.row_id::uuid as id, h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
    from embedding.search_hits(
      'public.music_knowledge', query_text, query_embedding, match_count,
      jsonb_build_object('category', filter_category),
      full_text_weight, semantic_weight, embedding_model, query_embeddings, fusion) h
  )
  select k.id, k.topic, k.category, k.content, h.score, h.full_text_score, h.full_text_rank, h.semantic_score, h.semantic_rank
  from hit h
  join public.music_knowledge k on k.id = h.id
  order by h.score desc, k.id;
$$;
comment on function public.search_music_knowledge is
  'Full-text, semantic or hybrid search, best first. score = full_text_weight * full_text_score + semantic_weight * '
  'semantic_score. A rank is NULL if the row was not among the candidates of that kind. At most 200 rows. Runs as the '
  'caller.';
revoke all on function public.search_music_knowledge from public, anon, authenticated, service_role;
grant execute on function public.search_music_knowledge to anon, authenticated, service_role;
