-- After rows came from another PostgreSQL, whose stemmer may cut words otherwise ("adding" was "ad" until 18, where it is
-- "add"): a generated fts is made anew by the copy itself, one that a trigger keeps is copied, and would not be found.

do $$
declare
  tracked record;
begin
  -- Nothing but fts changes: no trigger has anything to do, and an owner's updated_at stays.
  set local session_replication_role = replica;
  for tracked in
    select c.source, c.text_config
    from embedding.tracked_tables c
    join pg_trigger t on t.tgrelid = c.source and t.tgname = 'zz_embedding_fts'
  loop
    execute format($sql$
      update %1$s s set fts = w.fts
      from (select ctid, %3$s(%2$L::regconfig, coalesce(embedding.document_text(row(d.*)::%1$s), '')) as fts from %1$s d) w
      where w.ctid = s.ctid and s.fts is distinct from w.fts
    $sql$, tracked.source, tracked.text_config,
      -- What is copied may be older than this function, and holds no text then that needs it.
      case when to_regprocedure('embedding.fit_lexemes(regconfig, text)') is null then 'to_tsvector' else 'embedding.fit_lexemes' end);
  end loop;
end;
$$;
