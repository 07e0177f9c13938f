-- If the generation for a tag fails, the tag waits for its next attempt (embedding.backoff, at most a day). After
-- max_attempts, or after a final error, it is failed until it is requested again.
create function public.fail_synonym_tag(
  tag_type text, tag_id bigint, error text, final boolean default false, retry_after_seconds integer default 60,
  max_attempts integer default 3
)
returns boolean language sql security invoker set search_path = '' as $$
  update embedding.synonym_queue q
  set leased_at = null,
      -- If attempts is 0, the tag was requested again after it was claimed, perhaps with another name. Only the earlier request
      -- has failed, so the new one may be claimed at once.
      error = case when q.attempts > 0 then left(coalesce(fail_synonym_tag.error, 'unknown'), 2000) end,
      failed_at = case
        when q.attempts > 0 and (fail_synonym_tag.final or q.attempts >= fail_synonym_tag.max_attempts) then clock_timestamp()
      end,
      available_at = clock_timestamp() + case
        when q.attempts > 0 then embedding.backoff(q.attempts, coalesce(fail_synonym_tag.retry_after_seconds, 60), interval '1 day')
        else interval '0'
      end
  where q.tag_type = fail_synonym_tag.tag_type and q.tag_id = fail_synonym_tag.tag_id and q.leased_at is not null
  returning q.failed_at is not null
$$;
comment on function public.fail_synonym_tag is
  'Records a tag whose generation failed: it is tried again later, or is failed if final is true or it was the last attempt. Returns whether it is failed.';
revoke all on function public.fail_synonym_tag from public, anon, authenticated, service_role;
grant execute on function public.fail_synonym_tag to service_role;

create function public.release_synonym_tag(tag_type text, tag_id bigint)
returns void language sql security invoker set search_path = '' as $$
  update embedding.synonym_queue q
  set leased_at = null, available_at = clock_timestamp(), attempts = greatest(q.attempts - 1, 0)
  where q.tag_type = release_synonym_tag.tag_type and q.tag_id = release_synonym_tag.tag_id and q.leased_at is not null
$$;
comment on function public.release_synonym_tag is 'Ends the lease of a claimed tag without counting an attempt.';
revoke all on function public.release_synonym_tag from public, anon, authenticated, service_role;
grant execute on function public.release_synonym_tag to service_role;

create function public.list_failed_synonyms(max_rows integer default 100)
returns table (tag_type text, tag_id bigint, tag_name text, attempts integer, failed_at timestamptz, error text)
language sql stable security invoker set search_path = '' as $$
  select q.tag_type, q.tag_id, t.tag_name, q.attempts, q.failed_at, q.error
  from embedding.synonym_queue q
  join embedding.tags t on t.tag_type = q.tag_type and t.tag_id = q.tag_id
  where q.failed_at is not null
  order by q.failed_at desc, q.tag_type, q.tag_id
  limit coalesce(max_rows, 100)
$$;
comment on function public.list_failed_synonyms is 'Failed tags with the reason, latest first.';
revoke all on function public.list_failed_synonyms from public, anon, authenticated, service_role;
grant execute on function public.list_failed_synonyms to service_role;
