-- Writing synonyms by hand. A tag has one row for good: what is deactivated is revived, not written a second time.

create function embedding.find_tag(tag_type text, tag_name text)
returns bigint
language sql
stable
security invoker
set search_path = ''
as $$
  select t.id
  from (
    select g.id, g.name from public.genre_tags g where find_tag.tag_type = 'genre' and embedding.tag_key(g.name) = embedding.tag_key(find_tag.tag_name)
    union all
    select m.id, m.name from public.mood_tags m where find_tag.tag_type = 'mood' and embedding.tag_key(m.name) = embedding.tag_key(find_tag.tag_name)
  ) t
  order by t.name = find_tag.tag_name desc, lower(t.name) = lower(find_tag.tag_name) desc, t.id
  limit 1
$$;
comment on function embedding.find_tag(text, text) is 'The id of the tag of that name, spelt any way; null where there is none.';

create function embedding.synonyms_row(s public.mir_synonyms)
returns jsonb
language sql
stable
set search_path = ''
as $$
  select jsonb_build_object(
    'id', s.id, 'tag_id', s.tag_id, 'tag_type', s.tag_type, 'tag_name', s.tag_name, 'synonyms', s.synonyms,
    'source', s.source, 'confidence', s.confidence, 'is_active', s.is_active, 'renamed_from', s.renamed_from,
    'updated_at', s.updated_at)
$$;
comment on function embedding.synonyms_row(public.mir_synonyms) is 'Synonyms as callers see them.';

create function public.create_synonyms(
  tag_type text,
  synonyms jsonb,
  tag_id bigint default null,
  tag_name text default null,
  confidence float default 1.0
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  tag bigint := coalesce(create_synonyms.tag_id, embedding.find_tag(create_synonyms.tag_type, create_synonyms.tag_name));
  stored public.mir_synonyms;
  present public.mir_synonyms;
begin
  if tag is null then
    raise exception 'there is no % tag "%"', create_synonyms.tag_type, coalesce(create_synonyms.tag_name, '<null>') using errcode = 'P0002';
  end if;
  if not embedding.are_synonyms(create_synonyms.synonyms) then
    raise exception 'synonyms must hold search_terms (1 to 50 distinct, not empty), and may hold related_tags, usage_context and translations {fr, en}'
      using errcode = '22023';
  end if;
  insert into public.mir_synonyms as s (tag_type, tag_id, synonyms, source, confidence)
  values (create_synonyms.tag_type, tag, create_synonyms.synonyms, 'manual', coalesce(create_synonyms.confidence, 1.0))
  -- Deactivated, or made for a former name: the row is there, and nobody reads it. Its owner is told nothing new.
  on conflict (tag_type, tag_id) do update
  set synonyms = excluded.synonyms, source = 'manual', model = null, confidence = excluded.confidence, is_active = true,
      previous = case when s.source = 'manual' and s.synonyms <> excluded.synonyms then s.synonyms else s.previous end
  where not s.is_active
  returning s.* into stored;
  if stored.id is null then
    select s.* into present from public.mir_synonyms s where s.tag_type = create_synonyms.tag_type and s.tag_id = tag;
    raise exception 'the % tag "%" has synonyms already, with id %', present.tag_type, present.tag_name, present.id
      using errcode = '23505', hint = format('Change them: PUT /api/synonyms/%s.', present.id);
  end if;
  return embedding.synonyms_row(stored);
end;
$$;
comment on function public.create_synonyms(text, jsonb, bigint, text, float) is
  'Write synonyms by hand, for the tag of that id or name. Refused (23505) where the tag has active ones; others are replaced.';

create function public.update_synonyms(
  synonyms_id bigint,
  synonyms jsonb default null,
  confidence float default null,
  is_active boolean default null,
  expected_updated_at timestamptz default null
)
returns jsonb
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  present public.mir_synonyms;
  stored public.mir_synonyms;
begin
  select s.* into present from public.mir_synonyms s where s.id = synonyms_id for no key update;
  if not found then
    raise exception 'there are no synonyms with id %', synonyms_id using errcode = 'P0002';
  end if;
  if expected_updated_at is not null and present.updated_at <> expected_updated_at then
    raise exception 'synonyms % were changed at %', synonyms_id, to_char(present.updated_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
      using errcode = '23505', hint = 'Read them again, and send the updated_at that they have now.';
  end if;
  if update_synonyms.synonyms is not null and not embedding.are_synonyms(update_synonyms.synonyms) then
    raise exception 'synonyms must hold search_terms (1 to 50 distinct, not empty), and may hold related_tags, usage_context and translations {fr, en}'
      using errcode = '22023';
  end if;
  update public.mir_synonyms s
  set synonyms = coalesce(update_synonyms.synonyms, s.synonyms),
      source = case when update_synonyms.synonyms is null then s.source else 'manual' end,
      model = case when update_synonyms.synonyms is null then s.model end,
      confidence = coalesce(update_synonyms.confidence, s.confidence),
      -- Written for the tag's present name: they fit again.
      is_active = coalesce(update_synonyms.is_active, s.is_active or (s.renamed_from is not null and update_synonyms.synonyms is not null))
  where s.id = synonyms_id
  returning s.* into stored;
  return embedding.synonyms_row(stored);
end;
$$;
comment on function public.update_synonyms(bigint, jsonb, float, boolean, timestamptz) is
  'Change synonyms by hand; what is null stays. Refused (23505) where they were changed after expected_updated_at.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'embedding.find_tag(text, text)',
    'embedding.synonyms_row(public.mir_synonyms)',
    'public.create_synonyms(text, jsonb, bigint, text, float)',
    'public.update_synonyms(bigint, jsonb, float, boolean, timestamptz)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
