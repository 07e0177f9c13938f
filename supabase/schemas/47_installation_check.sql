-- Checks an installation inside the database, for scripts/doctor.py, with a scratch table. All of it happens in a
-- subtransaction that is always rolled back, so nothing stays after a failure, an interrupt or a lost connection.
create function public.describe_installation()
returns jsonb language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  applied text[] := '{}';
begin
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    select coalesce(array_agg(to_jsonb(m) ->> 'name'), '{}') into applied from supabase_migrations.schema_migrations m;
  end if;
  return jsonb_build_object(
    'server', current_setting('server_version'),
    'server_version', current_setting('server_version_num')::int,
    'vector', (select x.extversion from pg_extension x where x.extname = 'vector'),
    'migrations', applied,
    -- Use session_user, because inside this function current_user is its owner.
    'roles', (
      select jsonb_object_agg(n.name, case when r.oid is not null then
        jsonb_build_object('granted', pg_has_role(session_user, r.oid, 'member'), 'sees_tracked_rows',
          not exists (select from embedding.tracked_tables t where not embedding.sees_every_row(t.source, r.rolname))) end)
      from unnest(array['anon', 'authenticated', 'service_role']) n (name)
      left join pg_roles r on r.rolname = n.name));
end;
$$;
comment on function public.describe_installation is
  'The versions of PostgreSQL and pgvector, the names of the applied migrations, and for each API role, whether it is granted to the session''s user and '
  'whether it sees all rows of the tracked tables. For scripts/doctor.py.';
revoke all on function public.describe_installation from public, anon, authenticated, service_role;
grant execute on function public.describe_installation to service_role;

create function embedding.create_installation_check()
returns void
-- Security definer, because a tracked table belongs to the owner of these functions and not to an API role.
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  create table embedding.installation_check (id bigint primary key, body text not null);
  alter table embedding.installation_check enable row level security;
  create policy "everyone reads" on embedding.installation_check for select to anon using (true);
  grant select on embedding.installation_check to anon;
  grant select, insert, update, delete on embedding.installation_check to service_role;
  create function embedding.document_text(document embedding.installation_check) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $f$ select document.body $f$;
  grant execute on function embedding.document_text(embedding.installation_check) to service_role;
  -- Give all arguments with their types, so that the call cannot match another function with the same name in public.
  perform public.track_embeddings('embedding.installation_check'::regclass, null::text, 'english'::regconfig, null::text, null::boolean);
end;
$$;
comment on function embedding.create_installation_check is 'Creates and tracks the table of check_installation, which rolls it back.';
revoke all on function embedding.create_installation_check from public, anon, authenticated, service_role;
grant execute on function embedding.create_installation_check to service_role;

create function public.check_installation(
  model text, provider text, document text, document_embedding extensions.vector, query text, query_embedding extensions.vector
)
returns table (step text, error text) language plpgsql security invoker set search_path = '' as $$
#variable_conflict use_column
declare
  caller constant text := current_setting('role');
  scratch constant text := 'embedding.installation_check';
  steps constant text[] := array['row written', 'row embedded', 'full-text search', 'semantic search', 'row deleted'];
  passed int := 0;
  problem text;
  hint text;
  counted bigint;
begin
  begin
    perform embedding.create_installation_check();
    insert into embedding.installation_check (id, body) values (1, check_installation.document);
    passed := 1;

    perform public.register_embedding_model(
      check_installation.model, check_installation.provider, extensions.vector_dims(document_embedding));
    select sum(s.saved) into counted
    from public.claim_embeddings(scratch, model => check_installation.model) c
    cross join lateral public.save_embeddings(scratch, check_installation.model, jsonb_build_array(
      jsonb_build_object('row_id', c.row_id, 'text_hash', c.text_hash, 'embedding', document_embedding::text))) s;
    if counted is distinct from 1 then
      raise exception 'the row could not be claimed, or its vector was not saved'
        using hint = 'Grant service_role the attribute BYPASSRLS: alter role service_role bypassrls;';
    end if;
    passed := 2;

    perform set_config('role', 'anon', true);
    if not exists (select from embedding.search_hits(scratch::regclass, query_text => check_installation.query)) then
      raise exception 'anon did not find the row';
    end if;
    passed := 3;
    if not exists (
      select from embedding.search_hits(
        scratch::regclass, query_embedding => check_installation.query_embedding, embedding_model => check_installation.model)
    ) then
      raise exception 'anon did not find the row';
    end if;
    passed := 4;

    perform set_config('role', caller, true);
    delete from embedding.installation_check;
    if exists (select from embedding.search_hits(scratch::regclass, query_text => check_installation.query)) then
      raise exception 'the row was still found after it was deleted';
    end if;
    passed := 5;
    raise exception 'undo' using errcode = 'TN000';
  exception
    when sqlstate 'TN000' then
      null;
    when others then
      get stacked diagnostics problem = message_text, hint = pg_exception_hint;
      problem := concat_ws('. ', rtrim(problem, '.'), coalesce(nullif(hint, ''),
        'A function, grant or setting of the database was changed: restore it as in supabase/schemas.'));
  end;
  return query
  select s.name, case when s.number > passed then problem end
  from unnest(steps) with ordinality s (name, number)
  where s.number <= passed + 1 order by s.number;
end;
$$;
comment on function public.check_installation is
  'Writes a row to a scratch table, embeds it, finds it as anon and deletes it; then rolls everything back. Returns each step with its error; '
  'the steps after an error are not returned.';
revoke all on function public.check_installation from public, anon, authenticated, service_role;
grant execute on function public.check_installation to service_role;
