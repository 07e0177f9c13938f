-- Registering a model fixes its width and prefixes, so that later comparisons can be refused by name.

create function public.register_embedding_model(
  name text,
  provider text,
  dimensions integer,
  document_prefix text default '',
  query_prefix text default '',
  max_tokens integer default null
)
returns embedding.models
language plpgsql
security invoker
set search_path = ''
as $$
declare
  stored embedding.models;
begin
  insert into embedding.models as m (name, provider, dimensions, document_prefix, query_prefix, max_tokens)
  values (
    register_embedding_model.name, register_embedding_model.provider, register_embedding_model.dimensions,
    coalesce(register_embedding_model.document_prefix, ''), coalesce(register_embedding_model.query_prefix, ''),
    register_embedding_model.max_tokens
  )
  on conflict on constraint models_pkey do nothing;

  select m.* into strict stored from embedding.models m where m.name = register_embedding_model.name;
  if stored.dimensions <> register_embedding_model.dimensions then
    raise exception 'model "%" is registered with % dimensions, not %', stored.name, stored.dimensions, register_embedding_model.dimensions
      using errcode = '22023',
            hint = 'Vectors of one model have one width. Give the other width a name of its own (EMBEDDING_MODEL).';
  end if;
  return stored;
end;
$$;
comment on function public.register_embedding_model(text, text, integer, text, text, integer) is
  'Register a model, or read it back: what is stored wins, because stored vectors were made with it. Another width is refused.';
revoke all on function public.register_embedding_model(text, text, integer, text, text, integer) from public, anon, authenticated;
grant execute on function public.register_embedding_model(text, text, integer, text, text, integer) to service_role;

create function embedding.get_model(model text)
returns embedding.models
language plpgsql
stable
set search_path = ''
as $$
declare
  found_model embedding.models;
begin
  select m.* into found_model from embedding.models m where m.name = get_model.model;
  if not found then
    raise exception 'model "%" is not registered', coalesce(model, '<null>')
      using errcode = '22023',
            hint = format('Register it with register_embedding_model(name, provider, dimensions). Registered are: %s.',
              coalesce((select string_agg(m.name, ', ' order by m.name) from embedding.models m), 'none'));
  end if;
  return found_model;
end;
$$;
comment on function embedding.get_model(text) is 'The registered model of that name, or an error that lists the registered ones.';
revoke all on function embedding.get_model(text) from public;
grant execute on function embedding.get_model(text) to service_role;
