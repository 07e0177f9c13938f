create function public.upsert_datasets(rows jsonb)
returns table (inserted integer, updated integer, unchanged integer)
language plpgsql security invoker set search_path = '' as $$
declare
  given integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {external_id, title, ...}' using errcode = '22023';
  end if;
  with incoming as materialized (
    -- If two rows have the same external_id, the later one is used.
    select distinct on (r.external_id) r.*
    from rows from (jsonb_to_recordset(rows) as (
      external_id text, title text, description text, url text, tags text[], metadata jsonb, enrichment_status text, is_active boolean,
      published_at timestamptz, static_score double precision)) with ordinality r (
      external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at, static_score, place)
    order by r.external_id, r.place desc
  ),
  written as (
    insert into public.datasets as d (external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at)
    select i.external_id, i.title, coalesce(i.description, ''), i.url, coalesce(i.tags, '{}'), coalesce(i.metadata, '{}'),
      coalesce(i.enrichment_status, 'pending'), coalesce(i.is_active, true), i.published_at
    from incoming i
    order by i.external_id
    on conflict (external_id) do update
    set title = excluded.title, description = excluded.description, url = excluded.url, tags = excluded.tags, metadata = excluded.metadata,
        enrichment_status = excluded.enrichment_status, is_active = excluded.is_active, published_at = excluded.published_at
    -- An unchanged row is not written, so that nothing is indexed again.
    where (d.title, d.description, d.url, d.tags, d.metadata, d.enrichment_status, d.is_active, d.published_at)
      is distinct from (excluded.title, excluded.description, excluded.url, excluded.tags, excluded.metadata,
        excluded.enrichment_status, excluded.is_active, excluded.published_at)
    returning d.id, d.external_id, d.xmax = 0 as is_new
  ),
  known as (
    select w.id, w.external_id from written w
    union
    select d.id, d.external_id from public.datasets d join incoming i on i.external_id = d.external_id
  ),
  scored as (
    insert into public.dataset_scores as s (dataset_id, static_score)
    select k.id, i.static_score
    from incoming i
    join known k on k.external_id = i.external_id
    where i.static_score is not null
    order by k.id
    on conflict (dataset_id) do update
    set static_score = excluded.static_score, updated_at = now()
    where s.static_score <> excluded.static_score
    returning s.dataset_id
  )
  select count(*) filter (where w.is_new),
    (select count(distinct changed.id) from (
       select u.id from written u where not u.is_new
       union all
       select s.dataset_id from scored s where not exists (select from written u where u.id = s.dataset_id and u.is_new)) changed (id)),
    (select count(*) from incoming)
  into inserted, updated, given
  from written w;
  unchanged := given - inserted - updated;
  return next;
end;
$$;
comment on function public.upsert_datasets is
  'Inserts or updates datasets by external_id: [{external_id, title, description, url, tags, metadata, enrichment_status, is_active, published_at, static_score}]. '
  'Unchanged rows are not written, so they keep their vectors.';
revoke all on function public.upsert_datasets from public, anon, authenticated, service_role;
grant execute on function public.upsert_datasets to service_role;
