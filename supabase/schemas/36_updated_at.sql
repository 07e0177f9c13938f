create function embedding.touch_updated_at()
returns trigger language plpgsql security invoker set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from new_rows) then
    return null;
  end if;
  -- To save a vector is not an edit, so only the columns in the arguments are compared. This trigger fires after the
  -- statement and not before each row, because with a BEFORE UPDATE trigger PostgreSQL would compute generated columns again
  -- for every saved vector.
  execute format($sql$
    update %1$s s
    set updated_at = now()
    from new_rows n
    join old_rows o on o.id = n.id
    where s.id = n.id and s.updated_at <> now() and n.updated_at = o.updated_at
      and (%2$s) is distinct from (%3$s)
  $sql$, tg_relid::regclass,
    (select string_agg(format('n.%I', c), ', ') from unnest(tg_argv) c),
    (select string_agg(format('o.%I', c), ', ') from unnest(tg_argv) c));
  return null;
end;
$$;
comment on function embedding.touch_updated_at is
  'Sets updated_at of edited rows, unless the edit itself sets it. For tables with the key id. The arguments are the columns whose change counts as an edit.';
revoke all on function embedding.touch_updated_at from public, anon, authenticated;
grant execute on function embedding.touch_updated_at to service_role;
