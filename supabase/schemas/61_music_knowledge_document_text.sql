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
