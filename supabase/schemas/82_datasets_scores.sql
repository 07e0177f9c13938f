-- The static score of a dataset. It changes often and is not part of the text, so it has a table of its own: an update of any
-- column of a tracked row may insert the row's vector into the HNSW index again.
create table public.dataset_scores (
  dataset_id uuid primary key references public.datasets (id) on delete cascade,
  static_score double precision not null
    constraint "static_score must be between 0 and 1" check (static_score between 0 and 1),
  updated_at timestamptz not null default now()
);
comment on table public.dataset_scores is 'A score of each dataset from 0 to 1 that does not depend on the query. A dataset without a row has the score 0.';
alter table public.dataset_scores enable row level security;
create policy "everyone reads" on public.dataset_scores for select to anon, authenticated using (true);
revoke all on public.dataset_scores from public, anon, authenticated, service_role;
grant select on public.dataset_scores to anon, authenticated;
grant select, insert, update, delete on public.dataset_scores to service_role;
select embedding.admit_service_role('public.dataset_scores');

create function public.set_dataset_scores(rows jsonb)
returns integer language plpgsql security invoker set search_path = '' as $$
declare
  changed integer;
begin
  if jsonb_typeof(rows) is distinct from 'array' then
    raise exception 'rows must be an array of {id, static_score}' using errcode = '22023';
  end if;
  insert into public.dataset_scores as s (dataset_id, static_score)
  select distinct on (r.id) r.id, r.static_score
  from jsonb_to_recordset(rows) as r (id uuid, static_score double precision)
  join public.datasets d on d.id = r.id
  order by r.id
  on conflict (dataset_id) do update
  set static_score = excluded.static_score, updated_at = now()
  where s.static_score <> excluded.static_score;
  get diagnostics changed = row_count;
  return changed;
end;
$$;
comment on function public.set_dataset_scores is 'Sets scores: rows is [{id, static_score}]. Returns how many changed. No row of the tracked table is written.';
revoke all on function public.set_dataset_scores from public, anon, authenticated, service_role;
grant execute on function public.set_dataset_scores to service_role;

create view public.dataset_overview with (security_invoker = true) as
select d.id, d.external_id, d.title, d.description, d.url, d.tags, d.metadata, d.enrichment_status, d.is_active, d.is_ready_for_search,
       coalesce(s.static_score, 0) as static_score, d.published_at, d.created_at, d.updated_at
from public.datasets d
left join public.dataset_scores s on s.dataset_id = d.id;

comment on view public.dataset_overview is 'Datasets with their score, one row for each dataset.';
revoke all on public.dataset_overview from public, anon, authenticated, service_role;
grant select on public.dataset_overview to anon, authenticated, service_role;
