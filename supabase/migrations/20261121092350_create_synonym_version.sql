-- When may an answer about synonyms be kept? As long as nothing was written. A writer notes its transaction here; what a
-- reader can see of these notes is the version of the data that it sees. No counter: transactions end in another order
-- than they begin, and a counter would have to be locked until they do.

create table embedding.synonym_changes (
  xid xid8 primary key default pg_current_xact_id(),
  id uuid not null default gen_random_uuid(),
  noted_at timestamptz not null default now()
);
comment on table embedding.synonym_changes is 'One row a transaction that wrote tags or synonyms, the older ones forgotten; see synonyms_version.';
revoke all on embedding.synonym_changes from public, anon, authenticated;
grant select, insert, delete on embedding.synonym_changes to service_role;
insert into embedding.synonym_changes default values;

create function embedding.note_synonym_change()
returns trigger
language plpgsql
-- Fires for whoever writes the tables.
security definer
set search_path = ''
as $$
begin
  insert into embedding.synonym_changes default values on conflict do nothing;
  -- Forgetting changes the version as well, which costs a cached answer and nothing else.
  if random() < 0.02 then
    delete from embedding.synonym_changes c
    where c.xid in (
      select k.xid from embedding.synonym_changes k
      where k.noted_at < now() - interval '1 minute'
      order by k.xid desc offset 100
      for update skip locked);
  end if;
  return null;
end;
$$;
comment on function embedding.note_synonym_change() is 'Notes that this transaction wrote tags or synonyms.';
revoke all on function embedding.note_synonym_change() from public;

create trigger note_change after insert or update or delete or truncate on public.mir_synonyms
for each statement execute function embedding.note_synonym_change();
create trigger note_change after insert or update or delete or truncate on public.genre_tags
for each statement execute function embedding.note_synonym_change();
create trigger note_change after insert or update or delete or truncate on public.mood_tags
for each statement execute function embedding.note_synonym_change();

create function public.synonyms_version()
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select md5(string_agg(c.id::text, '' order by c.id)) from embedding.synonym_changes c
$$;
comment on function public.synonyms_version() is
  'Names the present state of tags and synonyms: an answer that was made under this version is still right.';
revoke all on function public.synonyms_version() from public, anon, authenticated;
grant execute on function public.synonyms_version() to service_role;
