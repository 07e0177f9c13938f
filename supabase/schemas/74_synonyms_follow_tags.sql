-- Changes synonyms when their tag changes. If a tag is deleted, its synonyms are deleted. If a tag is renamed, its synonyms
-- are deactivated until they are confirmed or replaced, because they were written for another name. An inactive row has
-- neither a vector nor lexemes.
create function embedding.check_synonyms_tag()
returns trigger
-- The caller who writes the table may lack the right to lock a tag.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- The lock waits for a concurrent rename. A later rename waits for this lock, and then finds this row.
  new.tag_name := embedding.lock_tag(new.tag_type, new.tag_id);
  if new.tag_name is null then
    perform embedding.check_tag_type(new.tag_type);
    raise exception 'there is no % tag with id %', new.tag_type, new.tag_id using errcode = 'P0002';
  end if;
  return new;
end;
$$;
comment on function embedding.check_synonyms_tag is 'Raises an error for synonyms of a tag that does not exist, and sets tag_name to the tag''s present name.';
revoke all on function embedding.check_synonyms_tag from public, anon, authenticated, service_role;

create trigger synonyms_check_tag_insert before insert on public.mir_synonyms
for each row execute function embedding.check_synonyms_tag();
create trigger synonyms_check_tag_update before update on public.mir_synonyms
for each row when ((new.tag_type, new.tag_id, new.tag_name) is distinct from (old.tag_type, old.tag_id, old.tag_name))
execute function embedding.check_synonyms_tag();

create function embedding.follow_tag()
returns trigger
-- The caller who writes a tag may lack the right to write synonyms.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform embedding.check_ownership('public.mir_synonyms');
  if tg_op = 'TRUNCATE' then
    delete from public.mir_synonyms s where s.tag_type = tg_argv[0];
  elsif tg_op = 'DELETE' then
    delete from public.mir_synonyms s where s.tag_type = tg_argv[0] and s.tag_id = old.id;
  else
    update public.mir_synonyms s
    set tag_id = new.id,
        tag_name = new.name,
        -- With another spelling of the same name they stay active. If the tag gets back the name for which they were written,
        -- they are activated again.
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
comment on function embedding.follow_tag is 'Deletes synonyms of a deleted tag, deactivates those of a renamed one.';
revoke all on function embedding.follow_tag from public, anon, authenticated, service_role;

create trigger synonyms_follow_delete after delete on public.genre_tags for each row execute function embedding.follow_tag('genre');
create trigger synonyms_follow_rename after update on public.genre_tags
for each row when ((new.id, new.name) is distinct from (old.id, old.name)) execute function embedding.follow_tag('genre');
create trigger synonyms_follow_truncate after truncate on public.genre_tags for each statement execute function embedding.follow_tag('genre');
create trigger synonyms_follow_delete after delete on public.mood_tags for each row execute function embedding.follow_tag('mood');
create trigger synonyms_follow_rename after update on public.mood_tags
for each row when ((new.id, new.name) is distinct from (old.id, old.name)) execute function embedding.follow_tag('mood');
create trigger synonyms_follow_truncate after truncate on public.mood_tags for each statement execute function embedding.follow_tag('mood');
