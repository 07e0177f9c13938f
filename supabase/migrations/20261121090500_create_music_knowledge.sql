-- Articles and notes on music: the first collection, and the pattern for any other table. Everything
-- that is particular to it is its columns and the two statements at the end.

create table public.music_knowledge (
  id uuid primary key default gen_random_uuid(),
  topic text not null,
  category text not null default '',
  content text not null default '',
  metadata jsonb not null default '{}',
  confidence real not null default 1.0 check (confidence between 0 and 1),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  fts tsvector generated always as (
    to_tsvector('english', topic || ' ' || category || ' ' || content)
  ) stored
);
comment on table public.music_knowledge is 'Knowledge about music, searchable by words and by meaning.';
comment on column public.music_knowledge.confidence is 'How sure the source is, 0 to 1.';
comment on column public.music_knowledge.fts is 'The words of the text that is embedded, for keyword search.';
create index music_knowledge_category_idx on public.music_knowledge (category);

create function public.touch_music_knowledge()
returns trigger
language plpgsql
security invoker
set search_path = ''
as $$
begin
  if not exists (select from new_rows) then
    return null;
  end if;
  -- After the statement and not before each row: see create_tracking. A vector that arrives is no edit.
  update public.music_knowledge s
  set updated_at = now()
  from new_rows n
  join old_rows o on o.id = n.id
  where s.id = n.id
    and s.updated_at <> now()
    and n.updated_at = o.updated_at
    and (n.topic, n.category, n.content, n.metadata, n.confidence)
      is distinct from (o.topic, o.category, o.content, o.metadata, o.confidence);
  return null;
end;
$$;
comment on function public.touch_music_knowledge() is 'Sets updated_at of edited rows, unless the edit set it.';
revoke all on function public.touch_music_knowledge() from public, anon, authenticated;
grant execute on function public.touch_music_knowledge() to service_role;

create trigger touch_updated_at after update on public.music_knowledge
referencing old table as old_rows new table as new_rows
for each statement execute function public.touch_music_knowledge();

alter table public.music_knowledge enable row level security;
create policy "everyone reads" on public.music_knowledge for select to anon, authenticated using (true);
revoke all on public.music_knowledge from anon, authenticated;
grant select on public.music_knowledge to anon, authenticated;
grant select, insert, update, delete on public.music_knowledge to service_role;

create function embedding.document_text(document public.music_knowledge)
returns text
language sql
stable parallel safe
set search_path = ''
return nullif(concat_ws(E'\n', nullif(document.topic, ''), nullif(document.category, ''), nullif(document.content, '')), '');
comment on function embedding.document_text(public.music_knowledge) is 'Topic, category and content, a line each.';
revoke all on function embedding.document_text(public.music_knowledge) from public;
grant execute on function embedding.document_text(public.music_knowledge) to service_role;

select public.track_embeddings('public.music_knowledge');
