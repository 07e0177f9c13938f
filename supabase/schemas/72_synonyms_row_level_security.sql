-- Everyone may read synonyms; only service_role may write them.
alter table public.mir_synonyms enable row level security;
create policy "everyone reads" on public.mir_synonyms for select to anon, authenticated using (true);
revoke all on public.mir_synonyms from public, anon, authenticated, service_role;
grant select on public.mir_synonyms to anon, authenticated;
grant select, insert, update, delete on public.mir_synonyms to service_role;

-- An insert into a table with an identity column needs no privilege on its sequence.
revoke all on sequence public.mir_synonyms_id_seq from public, anon, authenticated;
