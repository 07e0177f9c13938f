-- sample datasets with their scores. the texts were written for this project.
-- safe to apply twice: datasets that already exist are left alone.

insert into public.datasets (external_id, title, description, tags, enrichment_status, published_at)
values
  ('seed:drum-hits', 'One-shot drum hits', 'Eleven thousand single strokes of kicks, snares and cymbals, each labelled by instrument and microphone distance.', '{drums,one-shots}', 'enriched', '2025-11-03'),
  ('seed:piano-rolls', 'Expressive piano performances', 'Two hundred hours of solo piano as MIDI and audio, aligned to the millisecond, with pedal and velocity.', '{piano,midi}', 'enriched', '2024-02-19'),
  ('seed:stems', 'Separated stems of full songs', 'Four hundred mixes with their vocals, bass, drums and everything else apart, for training source separation.', '{stems,separation}', 'enriched', '2023-06-30'),
  ('seed:beats', 'Beat and downbeat annotations', 'Hand-checked beats, downbeats and metre changes for nine hundred recordings, from waltzes to metal.', '{rhythm,annotations}', 'enriched', '2022-09-12'),
  ('seed:chords', 'Chord annotations of popular songs', 'Time-stamped chord symbols by trained listeners, two opinions a song where they differ.', '{harmony,annotations}', 'enriched', '2021-04-08'),
  ('seed:rooms', 'Room impulse responses', 'Responses of churches, bathrooms, car cabins and concert halls for convolution reverb.', '{reverb,acoustics}', 'enriched', '2026-01-22'),
  ('seed:captions', 'Captions for music clips', 'Ten-second clips with a sentence by a musician that says what is heard: instruments, mood and use.', '{captions,mood}', 'enriched', '2025-05-17'),
  ('seed:field', 'Field recordings of birds and rain', 'Unlabelled stereo recordings from forests at dawn; descriptions are still to be written.', '{field-recording}', 'pending', '2026-03-01')
on conflict (external_id) do nothing;

insert into public.dataset_scores (dataset_id, static_score)
select d.id, s.static_score
from public.datasets d
join (values
  ('seed:drum-hits', 0.55), ('seed:piano-rolls', 0.9), ('seed:stems', 0.95), ('seed:beats', 0.6),
  ('seed:chords', 0.5), ('seed:rooms', 0.4), ('seed:captions', 0.7)
) s (external_id, static_score) on s.external_id = d.external_id
on conflict (dataset_id) do nothing;
