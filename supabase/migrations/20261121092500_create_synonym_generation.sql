-- Tags that wait for a generator to write their synonyms. The same life as a row that waits for its vector (see
-- create_queue_functions): leased, stored, or failed and at last parked with the reason. An index to the work, again:
-- whether a tag needs synonyms is decided when it is claimed, and whether they still fit when they are stored.

create table embedding.synonym_queue (
  tag_type text not null check (tag_type in ('genre', 'mood')),
  tag_id bigint not null,
  -- Write them anew, whatever the tag has.
  force boolean not null default false,
  attempts integer not null default 0,
  available_at timestamptz not null default now(),
  leased_at timestamptz,
  failed_at timestamptz,
  error text,
  primary key (tag_type, tag_id)
);
comment on table embedding.synonym_queue is 'Tags that somebody asked synonyms for; parked ones hold failed_at and the reason.';
create index synonym_queue_claimable on embedding.synonym_queue (available_at) where failed_at is null;
revoke all on embedding.synonym_queue from public, anon, authenticated;
grant select, insert, update, delete on embedding.synonym_queue to service_role;

-- Runs of the generator are recorded beside those of backfills, so that one call tells of either.
alter table embedding.runs add column kind text not null default 'embedding' check (kind in ('embedding', 'generation'));

create function embedding.tag_catalogue()
returns table (tag_type text, tag_id bigint, tag_name text)
language sql
stable
security invoker
set search_path = ''
as $$
  select 'genre', g.id, g.name from public.genre_tags g
  union all
  select 'mood', m.id, m.name from public.mood_tags m
$$;
comment on function embedding.tag_catalogue() is 'Every tag, with its type.';

create function public.request_synonyms(tag_type text default null, tag_ids bigint[] default null, force boolean default false)
returns integer
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
declare
  requested integer;
begin
  if request_synonyms.tag_type not in ('genre', 'mood') then
    raise exception 'tag_type must be genre or mood, not "%"', request_synonyms.tag_type using errcode = '22023';
  end if;
  insert into embedding.synonym_queue as q (tag_type, tag_id, force)
  select t.tag_type, t.tag_id, coalesce(request_synonyms.force, false)
  from embedding.tag_catalogue() t
  left join public.mir_synonyms s on s.tag_type = t.tag_type and s.tag_id = t.tag_id
  where (request_synonyms.tag_type is null or t.tag_type = request_synonyms.tag_type)
    and (request_synonyms.tag_ids is null or t.tag_id = any (request_synonyms.tag_ids))
    -- None, or those of a former name. What somebody switched off stays off.
    and (coalesce(request_synonyms.force, false) or s.id is null or s.renamed_from is not null)
  order by t.tag_type, t.tag_id
  on conflict on constraint synonym_queue_pkey do update
  set force = q.force or excluded.force,
      attempts = 0,
      failed_at = null,
      error = null,
      available_at = case when q.leased_at is not null and q.available_at > now() then q.available_at else now() end;
  get diagnostics requested = row_count;
  return requested;
end;
$$;
comment on function public.request_synonyms(text, bigint[], boolean) is
  'Queue the tags that have no synonyms for their present name (with force: all of them, also those written by hand), parked ones too. Returns how many.';

create function public.claim_synonym_tags(batch_size integer default 1, lease_seconds integer default 900)
returns table (tag_type text, tag_id bigint, tag_name text, description text, attempts integer, related jsonb)
language plpgsql
security invoker
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
  -- Deleted since, or written by somebody meanwhile.
  delete from embedding.synonym_queue q
  where q.failed_at is null
    and (
      not exists (select from embedding.tag_catalogue() t where t.tag_type = q.tag_type and t.tag_id = q.tag_id)
      or (not q.force and exists (
        select from public.mir_synonyms s where s.tag_type = q.tag_type and s.tag_id = q.tag_id and s.renamed_from is null)));

  return query
  with head as (
    select q.tag_type, q.tag_id
    from embedding.synonym_queue q
    where q.failed_at is null and q.available_at <= clock_timestamp()
    order by q.available_at, q.tag_type, q.tag_id
    limit greatest(coalesce(batch_size, 1), 1)
    for update skip locked
  ),
  leased as (
    update embedding.synonym_queue q
    set leased_at = clock_timestamp(), available_at = clock_timestamp() + make_interval(secs => coalesce(lease_seconds, 900)), attempts = q.attempts + 1
    from head h
    where q.tag_type = h.tag_type and q.tag_id = h.tag_id
    returning q.tag_type, q.tag_id, q.attempts
  )
  select l.tag_type, l.tag_id, t.tag_name,
    coalesce((select g.description from public.genre_tags g where l.tag_type = 'genre' and g.id = l.tag_id),
             (select m.description from public.mood_tags m where l.tag_type = 'mood' and m.id = l.tag_id), ''),
    l.attempts,
    -- Its likely relatives: tags that share a word first, then others of the same type, in an order of the tag's own.
    coalesce((
      select jsonb_agg(r.tag_name)
      from (
        select c.tag_name
        from embedding.tag_catalogue() c
        where (c.tag_type, c.tag_id) <> (l.tag_type, l.tag_id)
        order by not (string_to_array(embedding.tag_key(c.tag_name), ' ') && string_to_array(embedding.tag_key(t.tag_name), ' ')),
          c.tag_type <> l.tag_type, md5(c.tag_name || t.tag_name)
        limit 40
      ) r), '[]')
  from leased l
  join embedding.tag_catalogue() t on t.tag_type = l.tag_type and t.tag_id = l.tag_id;
end;
$$;
comment on function public.claim_synonym_tags(integer, integer) is
  'Lease tags that wait for synonyms, oldest request first, each with the names of up to 40 likely relatives in the catalogue.';

create function public.store_generated_synonyms(
  tag_type text,
  tag_id bigint,
  tag_name text,
  synonyms jsonb,
  model text,
  confidence float default 0.8
)
returns table (outcome text, id bigint)
language plpgsql
security invoker
set search_path = ''
as $$
#variable_conflict use_column
declare
  present text;
  forced boolean;
  stored bigint;
begin
  -- The tag first, as a rename and a deletion do: its name cannot change from here on.
  if store_generated_synonyms.tag_type = 'genre' then
    select t.name into present from public.genre_tags t where t.id = store_generated_synonyms.tag_id for share;
  else
    select t.name into present from public.mood_tags t where t.id = store_generated_synonyms.tag_id for share;
  end if;
  if present is null or embedding.tag_key(present) <> embedding.tag_key(store_generated_synonyms.tag_name) then
    -- Deleted or renamed since: the answer is about another word.
    update embedding.synonym_queue q
    set leased_at = null, attempts = 0, available_at = clock_timestamp()
    where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;
    return query select 'stale', null::bigint;
    return;
  end if;
  select q.force into forced from embedding.synonym_queue q
  where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;

  insert into public.mir_synonyms as s (tag_type, tag_id, synonyms, source, model, confidence)
  values (
    store_generated_synonyms.tag_type, store_generated_synonyms.tag_id, store_generated_synonyms.synonyms,
    'generated', store_generated_synonyms.model, store_generated_synonyms.confidence)
  on conflict (tag_type, tag_id) do update
  set synonyms = excluded.synonyms, source = 'generated', model = excluded.model, confidence = excluded.confidence, is_active = true,
      previous = case when s.source <> 'generated' then s.synonyms else s.previous end
  -- Somebody was quicker, or has switched them off.
  where forced or s.renamed_from is not null
  returning s.id into stored;

  delete from embedding.synonym_queue q
  where q.tag_type = store_generated_synonyms.tag_type and q.tag_id = store_generated_synonyms.tag_id;
  return query select case when stored is null then 'kept' else 'stored' end, stored;
end;
$$;
comment on function public.store_generated_synonyms(text, bigint, text, jsonb, text, float) is
  'Store what a generator wrote for a tag under that name. outcome: stored; stale (the tag has another name now, or is gone); kept (it has synonyms already).';

create function public.fail_synonym_tag(
  tag_type text,
  tag_id bigint,
  error text,
  final boolean default false,
  retry_after_seconds integer default 60,
  max_attempts integer default 3
)
returns boolean
language sql
security invoker
set search_path = ''
as $$
  update embedding.synonym_queue q
  set leased_at = null,
      -- No attempt left in the books: the tag was asked for again since it was claimed, perhaps under another name. What failed
      -- was the old request, and the new one may be had at once.
      error = case when q.attempts > 0 then left(coalesce(fail_synonym_tag.error, 'unknown'), 2000) end,
      failed_at = case
        when q.attempts > 0 and (fail_synonym_tag.final or q.attempts >= fail_synonym_tag.max_attempts) then clock_timestamp()
      end,
      available_at = clock_timestamp() + case
        when q.attempts > 0 then make_interval(secs => fail_synonym_tag.retry_after_seconds * 2.0 ^ (least(q.attempts, 10) - 1))
        else interval '0'
      end
  where q.tag_type = fail_synonym_tag.tag_type and q.tag_id = fail_synonym_tag.tag_id and q.leased_at is not null
  returning q.failed_at is not null
$$;
comment on function public.fail_synonym_tag(text, bigint, text, boolean, integer, integer) is
  'Report a tag that no synonyms could be written for: it backs off, or is parked when final or out of attempts. True: it is parked.';

create function public.release_synonym_tag(tag_type text, tag_id bigint)
returns void
language sql
security invoker
set search_path = ''
as $$
  update embedding.synonym_queue q
  set leased_at = null, available_at = clock_timestamp(), attempts = greatest(q.attempts - 1, 0)
  where q.tag_type = release_synonym_tag.tag_type and q.tag_id = release_synonym_tag.tag_id and q.leased_at is not null
$$;
comment on function public.release_synonym_tag(text, bigint) is 'Give a claimed tag back untried.';

create function public.synonym_coverage()
returns table (tag_type text, tags bigint, active bigint, without bigint, waiting bigint, ready bigint, failed bigint)
language sql
stable
security invoker
set search_path = ''
as $$
  select t.tag_type, count(*), count(*) filter (where s.is_active), count(*) filter (where s.id is null or s.renamed_from is not null),
    count(*) filter (where q.tag_id is not null and q.failed_at is null),
    count(*) filter (where q.failed_at is null and q.available_at <= clock_timestamp()),
    count(*) filter (where q.failed_at is not null)
  from embedding.tag_catalogue() t
  left join public.mir_synonyms s on s.tag_type = t.tag_type and s.tag_id = t.tag_id
  left join embedding.synonym_queue q on q.tag_type = t.tag_type and q.tag_id = t.tag_id
  group by t.tag_type
  order by t.tag_type
$$;
comment on function public.synonym_coverage() is
  'One row a tag type: how many tags, with active synonyms, without any for their present name, waiting for the generator, of those ready to be claimed, parked.';

create function public.list_failed_synonyms(max_rows integer default 100)
returns table (tag_type text, tag_id bigint, tag_name text, attempts integer, failed_at timestamptz, error text)
language sql
stable
security invoker
set search_path = ''
as $$
  select q.tag_type, q.tag_id, t.tag_name, q.attempts, q.failed_at, q.error
  from embedding.synonym_queue q
  join embedding.tag_catalogue() t on t.tag_type = q.tag_type and t.tag_id = q.tag_id
  where q.failed_at is not null
  order by q.failed_at desc, q.tag_type, q.tag_id
  limit coalesce(max_rows, 100)
$$;
comment on function public.list_failed_synonyms(integer) is 'Parked tags and why, latest first.';

create function public.record_generation_run(run_id uuid default null, model text default null, status text default 'running', report jsonb default '{}')
returns uuid
language plpgsql
security invoker
set search_path = ''
as $$
declare
  recorded uuid;
begin
  recorded := public.record_embedding_run(
    record_generation_run.run_id, null, record_generation_run.model, record_generation_run.status, record_generation_run.report);
  update embedding.runs r set kind = 'generation' where r.id = recorded and r.kind <> 'generation';
  return recorded;
end;
$$;
comment on function public.record_generation_run(uuid, text, text, jsonb) is
  'Begin a run of the generator (run_id null) or report on it; embedded counts the tags that were given synonyms.';

create function public.get_run_kind(run_id uuid)
returns text
language sql
stable
security invoker
set search_path = ''
as $$
  select r.kind from embedding.runs r where r.id = get_run_kind.run_id
$$;
comment on function public.get_run_kind(uuid) is 'embedding for a backfill, generation for a run of the generator.';

create function public.embedding_is_under_way(silent_seconds integer default 30)
returns boolean
language sql
stable
security invoker
set search_path = ''
as $$
  select exists (
    select from embedding.runs r
    where r.kind = 'embedding' and r.status = 'running' and r.reported_at > clock_timestamp() - make_interval(secs => silent_seconds))
$$;
comment on function public.embedding_is_under_way(integer) is
  'Whether a backfill is at work anywhere, as its reports tell: generation waits for it.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'embedding.tag_catalogue()',
    'public.request_synonyms(text, bigint[], boolean)',
    'public.claim_synonym_tags(integer, integer)',
    'public.store_generated_synonyms(text, bigint, text, jsonb, text, float)',
    'public.fail_synonym_tag(text, bigint, text, boolean, integer, integer)',
    'public.release_synonym_tag(text, bigint)',
    'public.synonym_coverage()',
    'public.list_failed_synonyms(integer)',
    'public.record_generation_run(uuid, text, text, jsonb)',
    'public.get_run_kind(uuid)',
    'public.embedding_is_under_way(integer)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
