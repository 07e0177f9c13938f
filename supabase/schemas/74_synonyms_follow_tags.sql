create function embedding.check_synonyms_tag()
returns trigger
language plpgsql
-- Fires for whoever writes the table, who need not be allowed to lock a tag.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Shared lock: a rename that is under way is waited for, and a later one will find this row.
  if new.tag_type = 'genre' then
    select t.name into new.tag_name from public.genre_tags t where t.id = new.tag_id for share;
  elsif new.tag_type = 'mood' then
    select t.name into new.tag_name from public.mood_tags t where t.id = new.tag_id for share;
  else
    -- What the table's own check says better.
    new.tag_name := coalesce(new.tag_name, '');
    return new;
  end if;
  if not found then
    raise exception 'there is no % tag with id %', new.tag_type, new.tag_id using errcode = 'P0002';
  end if;
  return new;
end;
$$;
comment on function embedding.check_synonyms_tag is 'Synonyms belong to a tag that exists, and carry its present name.';
revoke all on function embedding.check_synonyms_tag from public, anon, authenticated, service_role;

create trigger synonyms_check_tag_insert before insert on public.mir_synonyms
for each row execute function embedding.check_synonyms_tag();

create trigger synonyms_check_tag_update before update on public.mir_synonyms
for each row when ((new.tag_type, new.tag_id, new.tag_name) is distinct from (old.tag_type, old.tag_id, old.tag_name))
execute function embedding.check_synonyms_tag();

create function embedding.follow_tag()
returns trigger
language plpgsql
-- Fires for whoever writes the catalogue.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.mir_synonyms s where s.tag_type = tg_argv[0];
  elsif tg_op = 'DELETE' then
    delete from public.mir_synonyms s where s.tag_type = tg_argv[0] and s.tag_id = old.id;
  else
    update public.mir_synonyms s
    set tag_id = new.id,
        tag_name = new.name,
        -- A better spelling is the same word; anything else is a name these synonyms were not made for. Renamed back, they fit again.
        is_active = coalesce(embedding.tag_key(new.name) = embedding.tag_key(case when s.is_active then old.name else s.renamed_from end), false),
        renamed_from = case
          when embedding.tag_key(new.name) = embedding.tag_key(case when s.is_active then old.name else s.renamed_from end) then null
          when s.is_active then old.name
          else s.renamed_from
        end
    where s.tag_type = tg_argv[0] and s.tag_id = old.id;
  end if;
  return null;
end;
$$;
comment on function embedding.follow_tag is
  'The synonyms of a deleted tag go with it, those of a renamed one are switched off. Argument: the tag type.';
revoke all on function embedding.follow_tag from public, anon, authenticated, service_role;

create trigger synonyms_follow_delete after delete on public.genre_tags for each row execute function embedding.follow_tag('genre');

create trigger synonyms_follow_rename after update on public.genre_tags
for each row when ((new.id, new.name) is distinct from (old.id, old.name)) execute function embedding.follow_tag('genre');

create trigger synonyms_follow_truncate after truncate on public.genre_tags for each statement execute function embedding.follow_tag('genre');

create trigger synonyms_follow_delete after delete on public.mood_tags for each row execute function embedding.follow_tag('mood');

create trigger synonyms_follow_rename after update on public.mood_tags
for each row when ((new.id, new.name) is distinct from (old.id, old.name)) execute function embedding.follow_tag('mood');

create trigger synonyms_follow_truncate after truncate on public.mood_tags for each statement execute function embedding.follow_tag('mood');
