-- Words in several languages, for a table whose rows and whose searchers do not all speak the same one.
--
-- A text search configuration belongs to one language: a stemmer takes every word it is given, so two of them cannot be
-- chained. Here a text is read once by each configuration and keeps the lexemes of all. The query is read the same
-- way, and goes to the search core as lexemes, which the configuration `simple` leaves as they are. So a table that
-- uses this has
--   fts tsvector generated always as (embedding.words(title || ' ' || body, 'english', 'french')) stored
-- is tracked with text_config => 'simple', and is searched for embedding.query_words(query_text, 'english', 'french').

create function embedding.fold_accents(document text)
returns text
language sql
immutable strict parallel safe
set search_path = ''
return replace(replace(translate(document,
  'àáâãäåçèéêëìíîïñòóôõöùúûüýÿÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝŸ',
  'aaaaaaceeeeiiiinooooouuuuyyAAAAAACEEEEIIIINOOOOOUUUUYY'), 'œ', 'oe'), 'Œ', 'OE');
comment on function embedding.fold_accents(text) is 'Letters without their accents: who types "electronique" means "électronique".';

create function embedding.words(document text, variadic configs regconfig[])
returns tsvector
language plpgsql
immutable strict parallel safe
set search_path = ''
as $$
declare
  lexemes tsvector := '';
  config regconfig;
begin
  foreach config in array configs loop
    -- Accents go after stemming, which reads them. A tsvector prints quoted, so letters can be exchanged in its text.
    lexemes := lexemes || embedding.fold_accents(to_tsvector(config, document)::text)::tsvector;
  end loop;
  return lexemes;
end;
$$;
comment on function embedding.words(text, regconfig[]) is
  'The lexemes of a text in each of the configurations, accents folded. For a generated column fts.';

create function embedding.query_words(query_text text, variadic configs regconfig[])
returns text
language plpgsql
immutable strict parallel safe
set search_path = ''
as $$
declare
  -- As much as the core reads of a query.
  asked text[] := tsvector_to_array(to_tsvector('simple', left(query_text, 24000)));
  telling text[];
begin
  -- A stop word of any of the languages says nothing, though the others keep it: "pour la plage" is about a beach. Unless
  -- there is nothing else: "son" is a French possessive and a Cuban dance.
  telling := array(
    select a.word from unnest(asked[1:2000]) a (word)
    where not exists (select from unnest(configs) c (config) where to_tsvector(c.config, a.word) = ''));
  return array_to_string(tsvector_to_array(embedding.words(
    array_to_string(case when telling = '{}' then asked else telling end, ' '), variadic configs)), ' ');
end;
$$;
comment on function embedding.query_words(text, regconfig[]) is
  'A query as the lexemes of each of the configurations, without the stop words of any, for a collection that is tracked with the '
  'configuration simple.';

revoke all on function embedding.fold_accents(text), embedding.words(text, regconfig[]), embedding.query_words(text, regconfig[]) from public;
grant execute on function embedding.fold_accents(text), embedding.words(text, regconfig[]), embedding.query_words(text, regconfig[])
  to anon, authenticated, service_role;
