-- Moving a collection to another model while it is searched. Rows keep their old vector until the new
-- one replaces it, so at any moment each row is found by exactly one model: search asks each for its own.

create function public.set_collection_model(collection text, model text)
returns bigint
language plpgsql
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  perform embedding.get_model(set_collection_model.model);
  update embedding.collections k
  set model = set_collection_model.model,
      retiring_models = array(
        select distinct r.name
        from unnest(k.retiring_models || k.model) as r(name)
        where r.name is not null and r.name <> set_collection_model.model
        order by r.name
      )
  where k.id = c.id
  returning k.* into strict c;
  -- Rows that waited for the model that is given up, but hold a vector of this one, are done already.
  execute format($sql$
    delete from embedding.queue q using %2$s s
    where q.collection_id = $1 and s.%1$I = q.row_id::%3$s and s.embedding_model = $2
  $sql$, c.key_column, c.source, c.key_type)
  using c.id, c.model;
  return embedding.enqueue_pending(c);
end;
$$;
comment on function public.set_collection_model(text, text) is
  'Move a collection to another registered model. Rows keep their old vector, and are found by it, until theirs is replaced. Switching back is the same call. Returns how many rows were queued.';

create function public.retire_models(collection text)
returns setof text
language plpgsql
-- Dropping an index takes the table's owner.
security definer
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
  candidate text;
  in_use boolean;
  retired text[] := '{}';
begin
  foreach candidate in array c.retiring_models loop
    execute format('select exists (select from %s s where s.embedding_model = $1)', c.source) into in_use using candidate;
    if not in_use then
      perform public.drop_embedding_index(c.name, candidate);
      retired := retired || candidate;
    end if;
  end loop;
  if retired <> '{}' then
    update embedding.collections k
    set retiring_models = array(select r from unnest(k.retiring_models) r where r <> all (retired))
    where k.id = c.id;
  end if;
  return query select unnest(retired);
end;
$$;
comment on function public.retire_models(text) is
  'Forget the models whose last row has moved, and drop their index. Returns their names.';

create function public.collection_models(collection text)
returns setof embedding.models
language plpgsql
stable
security invoker
set search_path = ''
as $$
declare
  c embedding.collections := embedding.get_collection(collection);
begin
  return query
  select m.* from embedding.models m
  where m.name = c.model or m.name = any (c.retiring_models)
  order by m.name <> c.model, m.name;
end;
$$;
comment on function public.collection_models(text) is
  'The models that rows of the collection may be embedded with, its present one first; more than one while a switch is under way.';

do $$
declare
  f text;
begin
  foreach f in array array[
    'public.set_collection_model(text, text)',
    'public.retire_models(text)',
    'public.collection_models(text)'
  ] loop
    execute format('revoke all on function %s from public, anon, authenticated', f);
    execute format('grant execute on function %s to service_role', f);
  end loop;
end;
$$;
