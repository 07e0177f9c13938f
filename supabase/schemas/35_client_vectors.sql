-- Searches of other users find a row by its vector, so the roles of end users may not choose the vector. This trigger runs as
-- the role that writes. In a SECURITY DEFINER function of the application, this is the function's owner, who may do so.
create function embedding.refuse_client_vectors()
returns trigger language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if not (current_user in ('anon', 'authenticated')
    -- Another role to which PostgREST has switched for a request.
    or session_user = 'authenticator' and current_user = current_setting('role') and not pg_has_role(current_user, 'service_role', 'usage')
  ) then
    return null;
  end if;
  -- A vector may be removed, as some triggers do on each edit. An unchanged vector may be sent with the other columns.
  if tg_op = 'INSERT' then
    perform from new_rows n where n.embedding is not null or n.embedding_hash is not null limit 1;
  else
    -- Compare byte by byte, which needs no privilege on the schema extensions.
    perform from new_rows n
    where n.embedding is not null
      and not exists (
        select from old_rows o
        where o.embedding_hash = n.embedding_hash and o.embedding_model = n.embedding_model
          and record_image_eq(row(o.embedding), row(n.embedding)))
      -- If the table had this vector before it was tracked, the vector has no hash until a backfill has prepared the table.
      and not (n.embedding_hash is null and exists (
        select from old_rows o
        where o.embedding_hash is null and o.embedding_model is not distinct from n.embedding_model
          and record_image_eq(row(o.embedding), row(n.embedding))))
    limit 1;
  end if;
  if found then
    raise exception 'role "%" may not write the columns embedding, embedding_model and embedding_hash of %', current_user, tg_relid::regclass
      using errcode = '42501',
            hint = format('Leave them out: the vector follows the text. If clients shall write vectors: select track_embeddings(%L, client_vectors => true);', tg_relid::regclass);
  end if;
  return null;
end;
$$;
comment on function embedding.refuse_client_vectors is
  'Runs after an insert or update by anon, authenticated or another role of a request, and refuses a vector, a model or a hash that the row did not have before.';
revoke all on function embedding.refuse_client_vectors from public, anon, authenticated, service_role;
