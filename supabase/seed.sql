-- sample rows for public.music_knowledge, the table the demo searches run on.
-- the texts were written for this project: short, practical notes on harmony,
-- mixing, synthesis, recording and related subjects.
-- safe to apply twice: ids are fixed and rows that already exist are left alone.

-- harmony
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000001',
    'ii-V-I progression',
    'harmony',
    'In C major the move is Dm7, G7, Cmaj7, and its strength comes from two inner lines rather than from the bass. The seventh of each chord drops by step to become the third of the next: C falls to B, then F falls to E. Play only thirds and sevenths with the left hand and the harmony is already complete. In a minor key use Dm7b5, G7 with a flat nine, then Cm6 or Cm with a major seventh. A frequent mistake is leaping the whole hand to root position for every chord, which breaks those lines. Practise it falling a whole tone each time, then again from a semitone higher, so that all twelve keys are covered.',
    '{"tags": ["jazz", "cadence", "guide tones"], "level": "beginner"}',
    0.97
  ),
  (
    '00000000-0000-4000-8000-000000000002',
    'tritone substitution',
    'harmony',
    'A dominant seventh can be swapped for the one three whole tones away because both contain the same unstable interval. G7 holds B and F, and so does Db7, where the B is spelled Cb. Replacing G7 in Dm7, G7, Cmaj7 gives a bass that slides down by semitones: D, Db, C. The usual scale over the new chord is lydian dominant, so its natural tension is a sharp eleven. Check the tune first. A melody resting on D or A becomes a flat nine or flat thirteen, which can sound rich, but a held C fights the Cb inside the chord. Agree it with the bassist, or both roots will sound together.',
    '{"tags": ["jazz", "dominant", "reharmonisation"], "level": "advanced"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000003',
    'modal interchange',
    'harmony',
    'To darken a bright song for a moment without changing key, take a chord from the scale that shares the same tonic. In C major the parallel minor offers Fm, Ab, Bb, Eb and Dm7b5. The best loved is the minor four: after F, play Fm, and the A slips to Ab and then to G, a falling line that listeners hear as longing. The pair Ab, Bb, C climbs to the tonic with a heroic, cinematic lift. Adjust the melody where it meets the altered note, because an A natural sung over Fm simply sounds wrong. One or two such chords in a section are a surprise, while six of them just relocate the piece to minor.',
    '{"tags": ["borrowed chords", "minor", "colour"], "level": "intermediate"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000004',
    'voice leading',
    'harmony',
    'Smooth chord changes come from treating each note as a singer who prefers not to jump. Keep any pitch the two chords share, move the others to the nearest available note, and let outer parts travel in opposite directions when possible. From C major to A minor only G has to move, up a tone to A, while C and E stay put. Parallel perfect fifths and octaves fuse two parts into one, so choral and string writing avoids them, though power chords and pad sounds use them on purpose. If a keyboard part feels clumsy, look for the inversion that keeps the hand within about a third of where it was. Bass lines are the exception and may leap freely.',
    '{"tags": ["inner parts", "common tones", "keyboard"], "level": "beginner"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000005',
    'secondary dominants',
    'harmony',
    'Any major or minor chord in a key can be approached by its own private dominant seventh, built a perfect fifth above it. In C major, A7 pulls to Dm, B7 to Em, C7 to F, D7 to G and E7 to Am. Each brings at least one foreign note, the decisive one being a leading tone or a falling seventh: C sharp, D sharp, B flat, F sharp and G sharp respectively. That note should move by semitone in the direction it points. Chain them, as in E7, A7, D7, G7, C, and you have the bridge of countless swing tunes. The diminished chord on the seventh degree has no stable fifth, so it makes a poor target.',
    '{"tags": ["applied chords", "tonicisation"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000006',
    'neo-Riemannian transformations',
    'harmony',
    'Three small moves connect every major and minor triad by changing a single note and keeping the other two. P, the parallel move, turns C major into C minor by lowering E to E flat. L, the leading-tone exchange, turns C major into E minor by lowering C to B. R, the relative move, turns C major into A minor by raising G to A. Each undoes itself when repeated. Alternating P and L gives C, Cm, Ab, G sharp minor, E, Em and back to C, a loop with no clear home that suits fantasy and science fiction scoring. Use this thinking for colour between triads. It says little about where a phrase should cadence, so functional songs rarely need it.',
    '{"tags": ["triads", "film music", "PLR"], "level": "advanced"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000007',
    'the Tonnetz',
    'harmony',
    'Imagine pitches laid on a triangular lattice: one direction climbs in perfect fifths, another in major thirds, the remaining one in minor thirds. Every small triangle is then a triad, major ones pointing one way and minor ones the other, and two triangles sharing an edge are chords with two notes in common. Euler sketched such a net in 1739, and nineteenth century theorists, Hugo Riemann among them, developed it. With equal temperament the sheet wraps onto itself and becomes a doughnut surface with twelve points. For a composer it works as a map of distance: neighbouring triangles sound like gentle shifts of light, while remote ones feel like a cut to another scene, even when both triads are plain.',
    '{"tags": ["lattice", "pitch space", "geometry"], "level": "advanced"}',
    0.92
  ),
  (
    '00000000-0000-4000-8000-000000000008',
    'suspended chords',
    'harmony',
    'Replace the third with the note above or below it and a chord loses its happy or sad label. In Csus4 the F wants to fall to E, and delaying that fall by a beat or a bar gives motion over a static bass. The classical recipe has three steps: the note belongs to the previous chord, is held into the new one as a dissonance on a strong beat, then drops by step. Csus2 and Gsus4 contain exactly the same pitches, C, D and G, so the bass decides which one you hear. F over a G bass is the soft gospel dominant, G9sus4. Never add the major third close beside the fourth unless the clash is wanted.',
    '{"tags": ["sus4", "sus2", "tension"], "level": "beginner"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000009',
    'circle of fifths',
    'harmony',
    'Arrange the twelve keys so that each step clockwise rises a perfect fifth, and each step adds one sharp or removes one flat. Sharps arrive in the order F, C, G, D, A, E, B, and flats in exactly the reverse. Neighbouring keys share six of their seven notes, so moving from C to G or F hardly disturbs the listener, whereas C to F sharp shares only two. DJs use the same wheel to choose the next record: stay put, move one step, or swap between a key and its relative minor. Root motion anticlockwise, such as A, D, G, C, feels like falling into place, which is why so many progressions travel that way.',
    '{"tags": ["keys", "modulation", "key signatures"], "level": "beginner"}',
    0.97
  )
on conflict (id) do nothing;

-- mixing
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000010',
    'gain staging',
    'mixing',
    'Set a healthy level at every point in the chain so that no stage clips and none is starved. When tracking at 24 bit, let the average sit near -18 dBFS with peaks between -12 and -6 dBFS, because the noise floor is so low that recording hotter gains nothing. Many plugins that imitate hardware expect about -18 dBFS to equal 0 VU, and feeding them 12 dB more gives unplanned distortion. Trim with clip gain or an input control before the first insert and keep faders near unity, where their resolution is finest. Inside a 32 bit float mixer an overload can be rescued by pulling down the master, but converters and fixed point exports will clip for real.',
    '{"tags": ["levels", "headroom", "vu"], "level": "beginner"}',
    0.97
  ),
  (
    '00000000-0000-4000-8000-000000000011',
    'masking and complementary EQ',
    'mixing',
    'Two parts can each sound splendid alone and turn to mud together, because the ear hides the quieter of two sounds that occupy the same band. Decide which instrument owns each region, then cut the other one there instead of boosting the favourite. A dip of 2 to 4 dB around 2 to 3 kHz in rhythm guitars lets a voice step forward without being louder. If the kick lives at 60 Hz, shave the bass slightly there and let it speak at 90 to 120 Hz, or reverse the roles. Make these choices while everything plays, since soloed tracks mislead. When the collision persists, the real cure is a different octave or fewer players.',
    '{"tags": ["equaliser", "clarity", "frequency slots"], "level": "intermediate"}',
    0.92
  ),
  (
    '00000000-0000-4000-8000-000000000012',
    'mid/side equalisation',
    'mixing',
    'Encoding a stereo signal as sum and difference lets an equaliser treat what is common to both speakers separately from what differs. Typical uses are a high-pass on the difference channel around 80 to 150 Hz so that bass stays centred, a 1 dB shelf above 8 kHz on the difference for openness, or a small cut near 3 kHz in the sum to seat a lead voice. Keep moves under about 2 dB on a full mix. Boosting the difference hard makes a thrilling picture on headphones which evaporates in mono, where that component cancels entirely. Minimum phase filters that differ between the two also smear the image, so linear phase modes can help here.',
    '{"tags": ["stereo", "width", "eq"], "level": "advanced"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000013',
    'high-pass filtering',
    'mixing',
    'Removing useless low frequencies from tracks that carry nothing down there clears footsteps, traffic, stand thumps and plosive energy, and leaves space for kick and bass. On voices try 70 to 100 Hz with a 12 dB per octave slope, on overheads anywhere from 80 to 300 Hz according to taste. A guitar in standard tuning reaches 82 Hz and a four-string bass 41 Hz, so cutting above those figures thins the lowest notes. Raise the corner while the song plays until something feels missing, then back off. Doing this on every channel by habit leaves a weak, disconnected mix, and steep slopes rotate phase and can ring, sometimes making peaks higher instead of lower.',
    '{"tags": ["low cut", "rumble", "eq"], "level": "beginner"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000014',
    'kick and bass relationship',
    'mixing',
    'The bottom two octaves hold most of the energy in popular music, so the pair living there must share. First pick who goes deepest: a short, punchy drum can sit over a long sub, or a long booming drum over a bass whose weight is around 100 Hz. Tune the drum to the root or fifth if its pitch is audible. Flip polarity on one of them and keep the setting with more weight. Small speakers give little below 80 Hz, so add some harmonic content between 150 Hz and 1 kHz for the line to be followed on a phone. If the region still fluctuates from note to note, suspect the room before reaching for another plugin.',
    '{"tags": ["low end", "sub", "phase"], "level": "intermediate"}',
    0.87
  ),
  (
    '00000000-0000-4000-8000-000000000015',
    'mono compatibility',
    'mixing',
    'Phones, smart speakers, supermarket ceilings and many club systems add left and right together, and anything that is opposite on the two sides disappears. Collapse the monitoring to one channel several times during a mix. If a synth, doubled guitar or wide chorus drops by far more than about 3 dB, its sides are fighting. A correlation meter hovering between 0 and +1 is normal, while long stays below zero are a warning. Usual suspects are stereo wideners, delays under 30 ms between sides, drum mics at odd distances and a cable wired backwards. The remedies are real double takes, reduced width, or a polarity flip. Balancing levels in one speaker also makes buried parts obvious.',
    '{"tags": ["phase", "correlation", "translation"], "level": "intermediate"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000016',
    'monitoring level and ear fatigue',
    'mixing',
    'Human hearing is less sensitive to lows and extreme highs when the volume is small, so a balance made at whisper level tends to be heavy in bass when played loud, and one made loud seems thin in the kitchen. Choose one comfortable setting, roughly 75 to 80 dB SPL C weighted in a small room, mark the knob, and do most decisions there. Then check briefly very quiet, where lead voice and snare should still be clear, and briefly loud. After forty to fifty minutes ears adapt and everything begins to sound dull, tempting you to add treble. Rest ten minutes in silence. Exposure averaging 85 dBA is generally limited to eight hours, halving with every extra 3 dB.',
    '{"tags": ["listening", "loudness", "hearing"], "level": "beginner"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000017',
    'mix bus compression',
    'mixing',
    'A gentle compressor across the whole mix makes the parts move as one, since a loud snare briefly pulls everything else with it. Classic settings are a ratio of 2:1 or 4:1, attack of 10 to 30 ms so that drums keep their snap, release on auto or 100 ms, and only 1 to 3 dB of reduction on the loudest passages. Put it in early and mix into it, because inserting it at the end changes all your balances. If the kick causes the entire picture to dip, engage a detector high-pass at about 100 Hz. Leave it off for sparse acoustic or orchestral work, and never use it to repair a poor balance.',
    '{"tags": ["glue", "stereo bus", "vca"], "level": "intermediate"}',
    0.86
  )
on conflict (id) do nothing;

-- dynamics
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000018',
    'vocal compression',
    'dynamics',
    'Singers can vary by 20 dB within a verse, while a dense backing track leaves perhaps 6 dB in which words stay intelligible. Start with a ratio of 3:1 or 4:1, attack between 5 and 15 ms, release from 50 to 120 ms, and lower the threshold until loud phrases show 4 to 6 dB of reduction. For more control use two units in series: a fast one catching only peaks, then a slow optical type levelling by 3 dB. Less than 1 ms of attack swallows consonants, and an over-quick release drags up breaths. Even out wild lines with clip gain beforehand, so the processor handles expression instead of rescuing mistakes.',
    '{"tags": ["vocals", "compressor", "lead"], "level": "beginner"}',
    0.97
  ),
  (
    '00000000-0000-4000-8000-000000000019',
    'parallel compression',
    'dynamics',
    'Instead of squashing a drum kit, send it to a second channel, crush that copy severely, and bring it up underneath the untouched one. Peaks are dominated by the clean path, so hits stay crisp, while soft details, room tone and decays rise by several decibels. On the copy try 8:1 or more, attack around 1 to 5 ms, quick release and 10 to 20 dB of reduction, then raise it from silence until you notice it, and back off a touch. Both paths must arrive at the same instant, because an uncompensated delay of even one millisecond makes them hollow. Always match the total loudness before judging. Noisy recordings suffer, since hiss and spill come up too.',
    '{"tags": ["new york", "drums", "blend"], "level": "intermediate"}',
    0.92
  ),
  (
    '00000000-0000-4000-8000-000000000020',
    'sidechain ducking',
    'dynamics',
    'One signal can push another down: the detector listens to the kick while gain is turned down on the bass or pad. For transparent clearance, 2 to 4 dB with a fast attack and an 80 to 150 ms release is enough. For the breathing motion of house music, go to 10 dB or more and time the recovery to the beat, which lasts 500 ms at 120 bpm, so that the pad swells back just before the next hit. A silent trigger track keeps the movement going when drums drop out. Speech over music uses the same tool with slower settings, say 300 ms or longer to return. Do not clear every part this way, or the whole record gasps.',
    '{"tags": ["kick", "bass", "pumping", "voice-over"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000021',
    'multiband compression',
    'dynamics',
    'Splitting the spectrum into three or four ranges allows each to be controlled by its own threshold, so a boomy bass note no longer pulls the cymbals down. It is the right choice for problems that come and go: a guitar that honks only on certain notes at 250 Hz, a voice that turns harsh at 3 kHz when belted. Stay mild, with 1.5:1 to 2:1 and 1 to 3 dB of action, and place dividing points away from critical areas such as the core of the voice. Crossover filters shift phase even when nothing is being reduced. For a constant fault use static EQ. Over-control in every band flattens tonal contrast between verse and chorus.',
    '{"tags": ["crossover", "mastering", "control"], "level": "advanced"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000022',
    'expander and gate',
    'dynamics',
    'Where a compressor turns loud things down, these turn quiet things down further. A tom microphone hears the whole kit, so a threshold just below the softest intended stroke mutes the spill between fills. Use a hold of 50 to 100 ms and a release that follows the natural decay, and set the range to 10 to 20 dB instead of total silence, which makes transitions far less obvious. Chatter near the threshold is cured by hysteresis, meaning a lower closing level than opening level. Look-ahead of 1 to 2 ms saves the front of the hit. For voices, a 1.5:1 or 2:1 downward expander is kinder. Ghost strokes and fading reverb tails are the usual casualties.',
    '{"tags": ["noise", "spill", "drums"], "level": "beginner"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000023',
    'attack and release times',
    'dynamics',
    'How fast gain falls after the threshold is crossed decides how much of the front of a note survives. At 0.5 ms a snare is tamed but dulled, at 20 to 30 ms the stick gets through and the body is reduced, so the same unit can soften or sharpen. The recovery time sets the feel. Too slow and the next quiet phrase stays suppressed, too fast and the level flutters. On bass notes there is a hard limit: one cycle of 40 Hz lasts 25 ms, and if the gain follows individual cycles the result is distortion. A practical trick is to set recovery so that the needle returns almost to zero just before the following beat.',
    '{"tags": ["compressor", "envelope", "punch"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000024',
    'makeup gain',
    'dynamics',
    'After a compressor has lowered the peaks, an output control restores the overall level, and this is where ears get fooled. Something only half a decibel to one decibel stronger is preferred almost automatically, so an unmatched comparison always flatters the processed version. Bypass repeatedly and trim until the two seem equally loud, by ear or with a short-term LUFS meter, then ask if it truly improved. Automatic compensation is only an estimate from threshold and ratio and often overshoots. Remember that turning up afterwards also raises whatever was below the threshold: air conditioning, headphone spill, amplifier hum. If 6 dB of peaks were removed and 6 dB restored, the noise floor is 6 dB nearer.',
    '{"tags": ["level matching", "loudness bias", "compressor"], "level": "beginner"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000025',
    'de-essing',
    'dynamics',
    'The letters s, sh, t and z throw out bursts of energy which bright microphones, compression and treble boosts exaggerate. A processor that reacts only to that band, commonly 5 to 8 kHz for deeper voices and 6 to 10 kHz for higher ones, pulls them back by 3 to 6 dB for the few dozen milliseconds they last. Sweep the detector''s listen mode to find the sharpest spot. Placing it after the compressor catches the sounds it has raised, although a second light one before is often gentler. Excess gives a lisp. Extreme cases respond better to lowering each hiss by hand with clip gain. Also treat the send to reverb, where splashes become most annoying.',
    '{"tags": ["sibilance", "vocals", "harshness"], "level": "beginner"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000026',
    'transient shaping',
    'dynamics',
    'To make a drum hit harder, or dry up a ringing tail, without caring how loudly it was played, use a tool that compares a fast and a slow envelope follower. Where the quick one runs ahead, there is an onset, and its gain can be raised or lowered independently of level, so no threshold is needed. Adding 3 to 6 dB of attack helps a snare cut through guitars, while reducing sustain by the same amount removes boxy room sound. Turning the onset down moves a strummed acoustic backwards in the picture. Watch the meters, since enhanced peaks eat headroom and then trigger the limiter, which removes precisely what was added. Soft pads give it nothing to grip.',
    '{"tags": ["drums", "punch", "envelope"], "level": "intermediate"}',
    0.89
  )
on conflict (id) do nothing;

-- effects
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000027',
    'reverb and space',
    'effects',
    'The sense of a place comes from three cues: the gap before the first reflections, the pattern of those early echoes, and the length of the tail. A living room decays in about 0.4 s, a good concert hall in about 2 s, a cathedral in 4 s or more. Put one short and one long space on sends and feed several instruments into them, so that the band seems to share a venue. Filter the returns below 200 to 300 Hz and above 6 to 8 kHz to prevent fog. Distance is mostly the proportion of direct to reflected sound plus duller treble. Fast tempos and busy parts want shorter tails, and bass usually wants none.',
    '{"tags": ["reverb", "depth", "send"], "level": "beginner"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000028',
    'reverb pre-delay',
    'effects',
    'If a singer drowns as soon as the hall is turned up, put a small silence between the voice and its echo cloud. With 0 to 10 ms they fuse and the source moves away, while 20 to 60 ms keeps the consonants clean and lets the person stand in front of a large space. Beyond about 80 ms the onset may be noticed as a separate slap, particularly on percussion. Matching a small note value keeps it musical: a sixty-fourth at 120 bpm lasts 31 ms. In actual rooms the gap relates to the extra path travelled, roughly 3 ms per metre. Long gaps on soft pads are inaudible, so do not spend time there.',
    '{"tags": ["reverb", "vocals", "clarity"], "level": "intermediate"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000029',
    'delay time from tempo',
    'effects',
    'To have echoes fall in step with a song, divide 60000 by the beats per minute and you get the length of a quarter note in milliseconds. At 120 bpm that is 500 ms, so an eighth lasts 250, a sixteenth 125, a dotted eighth 375 and an eighth triplet about 167. At 90 bpm the quarter is 667 ms. Multiply by 1.5 for dotted values and by two thirds for triplets. The dotted eighth makes a picked guitar line gallop because repeats land between the strokes. Perfectly locked repeats may hide behind the drums, so shift them by 5 to 15 ms if they need to be noticed. Roll off highs and lows on the feedback path to keep them behind.',
    '{"tags": ["delay", "bpm", "calculation"], "level": "beginner"}',
    0.98
  ),
  (
    '00000000-0000-4000-8000-000000000030',
    'chorus, flanger and phaser',
    'effects',
    'All three mix a sound with a wobbling version of itself, yet they differ in how the copy is made. The first uses a delay of about 15 to 30 ms swept by a slow oscillator, which is heard as slight detuning, like several players. The second uses roughly 0.5 to 10 ms plus feedback, creating a comb of evenly spaced notches that sweeps like a jet passing. The third has no delay line but a chain of all-pass stages, each pair producing one notch, so four stages give two notches, unevenly spaced and softer. Use them on sustained material with rich harmonics, since a pure sine has little to notch. On bass, keep the lows dry or the pitch becomes uncertain.',
    '{"tags": ["modulation", "comb filter", "allpass"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000031',
    'saturation and harmonics',
    'effects',
    'Bending the waveform as it gets louder creates new overtones. A curve that treats positive and negative halves alike yields odd multiples, while an uneven one adds even multiples too. The second harmonic is an octave above and sounds full, the third is an octave and a fifth above and sounds nasal or edgy. A 50 Hz bass gains partials at 100, 150 and 200 Hz, so a laptop can suggest the note it cannot reproduce. Peaks are also rounded, so the part can be turned up by a few decibels. Drive single instruments and not whole chords, since sums and differences between notes quickly sound sour. Heavy digital drive needs oversampling, otherwise overtones fold back as inharmonic grit.',
    '{"tags": ["distortion", "warmth", "tape", "tube"], "level": "intermediate"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000032',
    'Haas effect and slapback',
    'effects',
    'When an identical sound reaches us twice within about 1 to 30 ms, we hear one event located at whichever arrived first, even if the later is several decibels stronger. Sending a guitar left and a 15 ms late copy right therefore gives instant width. The price appears when both speakers are added: that gap carves cancellations at 33 Hz and every 67 Hz above. Prefer a genuine second performance when mono matters. Stretch the gap to between 80 and 140 ms with a single repeat and you get the rockabilly echo of the 1950s, which thickens a dry voice without the wash of a hall. Percussive sources reveal two separate hits far sooner than sustained ones.',
    '{"tags": ["delay", "stereo", "precedence"], "level": "intermediate"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000033',
    'convolution and algorithmic reverb',
    'effects',
    'One family stamps a recorded fingerprint of an actual place onto the signal, the other imitates a place using networks of delays and filters. The fingerprint, made with a sweep or a starter pistol, is unbeatable for putting a dry foley step or a sampled violin into a believable room, but it is frozen: stretching its length by more than about 20 percent sounds artificial, and nothing inside it moves. The calculated kind can modulate its delays slightly, which avoids metallic ringing and gives lush ten-second tails, and all parameters respond at once. Pop vocals mostly want the second, film dialogue and orchestral mock-ups mostly the first. Fingerprints of guitar cabinets are the same technique at under 100 ms.',
    '{"tags": ["impulse response", "reverb", "realism"], "level": "intermediate"}',
    0.86
  )
on conflict (id) do nothing;

-- automation
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000034',
    'automation dynamics',
    'automation',
    'A recording feels alive when its large-scale loudness has a shape, not only its individual hits. Draw it deliberately: hold verses 1 to 2 dB below the first chorus, dip the final bar before it by another decibel, and let the last chorus stand 0.5 to 1 dB above the earlier ones. Small figures suffice because contrast is judged against the seconds just heard. Ride groups instead of the master after compression, otherwise a bus processor will undo the lift or change its tone. Width, brightness and reverb amount can be moved on the same curve, making a section bigger without more level. If all sections measure within half a decibel of each other, listeners tire even when they cannot say why.',
    '{"tags": ["levels", "contrast", "arrangement"], "level": "intermediate"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000035',
    'volume automation for vocals',
    'automation',
    'When one word vanishes behind the cymbals and the next jumps out, move the fader by hand through the whole song, phrase by phrase. Moves of 1 to 3 dB over half a second are ordinary, and a swallowed last syllable may need 4. Listen at low level, as lost words show themselves there. Push the ends of lines, where breath runs out, and lower loud inhalations by 4 to 8 dB without deleting them, for silence between phrases feels unnatural. Do this after compression if you want to place the singer in the mix, or before it if you want the compressor to work evenly. Finish it late, because each change in the backing alters what is needed.',
    '{"tags": ["vocals", "fader", "intelligibility"], "level": "beginner"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000036',
    'automation rides versus compression',
    'automation',
    'A compressor answers in milliseconds and knows nothing about meaning, whereas a hand on a fader anticipates and understands the lyric. Give slow, intentional differences, from phrase to phrase or verse to bridge, to the hand, and quick irregularities within words or notes to the machine. A sensible order is clip gain for blunders above 6 dB, then 3 to 5 dB of compression, then final rides of 1 or 2 dB. If you see ten decibels of reduction just to keep a line audible, ride it more beforehand. On the contrary, drawing points on every drum hit is wasted work. For classical and solo jazz the hand alone is often sufficient and leaves touch and breathing intact.',
    '{"tags": ["fader", "compressor", "choice"], "level": "intermediate"}',
    0.85
  ),
  (
    '00000000-0000-4000-8000-000000000037',
    'filter sweep automation',
    'automation',
    'Opening a low-pass filter over eight or sixteen bars is a dependable way to promise that something is coming. Move the cutoff from around 200 Hz up to 15 kHz or more, and shape the curve so that it looks exponential on a linear hertz scale, because hearing is logarithmic and a straight line in hertz rushes through the lower octaves almost at once. Resonance of a few decibels lets the travelling edge be heard, but with a lot of it the peak may jump out by 10 dB on some note. Save the last octave for the final beat, then bypass fully at the drop. The mirror image, a high-pass rising to 300 or 500 Hz, removes weight and makes the returning bass feel enormous.',
    '{"tags": ["filter", "cutoff", "build-up"], "level": "beginner"}',
    0.89
  ),
  (
    '00000000-0000-4000-8000-000000000038',
    'automation modes touch, latch and write',
    'automation',
    'Workstations offer several ways of recording control moves, and confusing them can destroy an afternoon of work. Read plays back existing data. Touch overwrites only while you hold the control and glides back to the old curve on release, perhaps within 100 to 500 ms, so it is ideal for correcting a single word. Latch continues at the last value until playback stops, which suits setting a level for an entire section. Write replaces everything from the moment the transport runs, even on controls left alone, so use it once for a first pass and switch back at once. Trim modes offset finished data by a fixed amount. Thin dense data afterwards to a few breakpoints that can be edited by hand.',
    '{"tags": ["workflow", "fader", "daw"], "level": "beginner"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000039',
    'delay throws and send automation',
    'automation',
    'Echo on every word clutters a lyric, so feed the effect only at chosen moments. Keep the return fader constant and switch the send from nothing to about 0 dB for just the last syllable of a line, letting the repeats fill the gap until the singer comes back. A quarter note with 30 to 50 percent feedback usually dies away within two bars. Automating the send rather than the return means that old repeats fade naturally and nothing is cut off. Open it slightly ahead of the syllable so its consonant goes in. The same idea works for a snare thrown into a huge hall at the end of a section. Three or four throws per song stay special.',
    '{"tags": ["delay", "send", "ear candy"], "level": "intermediate"}',
    0.84
  )
on conflict (id) do nothing;

-- mastering
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000040',
    'loudness targets in LUFS',
    'mastering',
    'Integrated loudness averages a whole programme after a weighting that imitates hearing, ignoring silence and passages far below the mean. Spotify and YouTube play near -14 LUFS and Apple Music near -16, while European broadcast requires -23 and American television about -24. These are playback levels and not orders: a song delivered at -8 is merely turned down, keeping its squashed sound without any advantage. Let style decide, with acoustic jazz comfortable at -18 to -14 and aggressive club music at -9 to -6. Albums are often adjusted as one unit, so quiet tracks stay quiet. Services revise their rules, hence look up the current specification before delivery, and compare versions at matched loudness.',
    '{"tags": ["loudness", "streaming", "normalisation"], "level": "intermediate"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000041',
    'true peak',
    'mastering',
    'A meter that looks only at stored samples misses what happens between them. The reconstructed analogue curve can rise above the highest sample, commonly by 0.5 to 1 dB and by up to 3 dB in heavily clipped material, so a file reading 0 dBFS may overload a cheap converter. The standard measurement oversamples at least four times to estimate those hidden crests and reports dBTP. Lossy encoding adds further overshoot because discarding data changes the waveform, and lower bit rates are worse. Streaming platforms usually ask for -1 dBTP, with -2 advised for very loud masters. Audition through the actual codec if possible. For a rough demo nobody will encode, the matter can be ignored.',
    '{"tags": ["intersample", "codec", "metering"], "level": "advanced"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000042',
    'limiter ceiling',
    'mastering',
    'The output control of a brickwall processor is the highest level it allows through, and it is separate from how hard the music is driven into it. Put it at -1 dB for streaming, possibly -0.3 for a compact disc, and then raise the input until crests are trimmed by 1 to 3 dB on the busiest bars. At 5 or 6 dB snares lose their crack and bass begins to crunch. Try sharing the task between a soft clipper catching the shortest spikes and a slower limiter afterwards. Lowering the output setting does not create dynamic range, it only turns down the result. When sending a mix to a mastering engineer, remove it and leave several decibels of room.',
    '{"tags": ["limiter", "headroom", "loudness"], "level": "intermediate"}',
    0.87
  ),
  (
    '00000000-0000-4000-8000-000000000043',
    'dithering',
    'mastering',
    'Shortening 24 or 32 bit audio to 16 bits rounds every sample, and on fading reverb tails the rounding error follows the music and is heard as gritty distortion. Adding a very faint random noise beforehand, triangular in distribution and two least significant bits from peak to peak, turns that error into steady hiss near -93 dBFS, and detail below the last bit remains audible inside it. Do it once, as the very last step, with no level change or conversion after. Noise shaping moves the hiss to where ears are less sensitive, but repeated application accumulates. It is pointless on 32 bit float files, and lossy encoders should be fed the 24 bit version directly.',
    '{"tags": ["bit depth", "quantisation", "export"], "level": "intermediate"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000044',
    'reference tracks',
    'mastering',
    'Ears acclimatise in minutes to whatever they hear, so a commercial record in the same style brings them back to reality. Import two or three uncompressed examples whose instrumentation resembles yours, route them past your processing chain, and reduce them to the same loudness, often by 4 to 8 dB, because the louder one always appears superior. Switch every few minutes and ask narrow questions: how strong is the kick against the vocal, how bright are the cymbals, how wide is the refrain. Matching a whole spectrum curve automatically is unwise, since key and arrangement differ. Choose songs you know on many systems. A slow piano ballad tells nothing about where a drum and bass mix should sit.',
    '{"tags": ["comparison", "translation", "balance"], "level": "beginner"}',
    0.91
  ),
  (
    '00000000-0000-4000-8000-000000000045',
    'stem mastering',
    'mastering',
    'Delivering four to eight grouped files, such as drums, bass, instruments, lead voice, backing voices and effects, gives the finishing engineer the possibility to fix a harsh singer without darkening the guitars. Print them from the same start point at the same sample rate, with effect returns included, and verify that playing them together at unity reproduces your stereo mix exactly. That null test fails when a compressor sits on the master, because each group alone triggers it differently, so bypass it or feed it an external sidechain of the entire mix. Costs and time go up. If the balance is good, a single stereo file leads to quicker decisions and fewer temptations to remix.',
    '{"tags": ["stems", "groups", "delivery"], "level": "intermediate"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000046',
    'mastering equalisation',
    'mastering',
    'On a finished stereo file every adjustment touches all instruments at once, so curves are wide and small. Half a decibel at a Q near 0.7 is audible, 1.5 dB is a considerable change, and needing 3 dB implies going back to the mix. Common strokes are a slight dip between 200 and 400 Hz for cloudiness, a shelf of about 0.5 to 1 dB above 10 kHz for air, and a gentle cut below 25 to 30 Hz to save headroom from what no speaker reproduces. Reduce before you add, and match levels while switching. Narrow notches are reserved for a single ringing resonance. Judge over the whole song and not just the loudest refrain.',
    '{"tags": ["eq", "tonal balance", "broad strokes"], "level": "advanced"}',
    0.83
  )
on conflict (id) do nothing;

-- synthesis
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000047',
    'subtractive synthesis',
    'synthesis',
    'Begin with a waveform rich in overtones and carve away what is not wanted. A sawtooth contains every harmonic with strength falling as one over its number, a square only the odd ones at the same rate, a triangle the odd ones fading with the square of the number, so it is almost a sine. A low-pass filter then removes the top, at 12 or 24 dB per octave, and resonance emphasises the edge. Moving that edge with an envelope gives a bright onset that mellows, as plucked strings do. Filtering a triangle does little since there is scarcely anything to remove. Let the cutoff follow the keyboard, otherwise high notes get dull and low ones buzzy.',
    '{"tags": ["oscillator", "filter", "analogue"], "level": "beginner"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000048',
    'FM ratios',
    'synthesis',
    'When one oscillator rapidly shakes the frequency of another, new partials appear at the carrier plus and minus whole multiples of the modulator. With equal frequencies, 1:1, all harmonics arise and the tone is saw-like or brassy. A modulator at twice the carrier gives odd ones only, hollow like a clarinet. Non-integer relations, for instance 1:1.41 or 1:3.5, produce clangorous bells and gongs, and a carrier paired with a modulator fourteen times higher, decaying fast, makes the tine of the eighties electric piano. The modulation index fixes how many partials are strong, so put an envelope and velocity on it. Modest indexes of 1 to 4 are generally enough, beyond which everything moves towards noise.',
    '{"tags": ["frequency modulation", "operators", "bells"], "level": "advanced"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000049',
    'wavetable synthesis',
    'synthesis',
    'Store a row of single-cycle shapes, commonly 64 to 256 frames of 2048 samples each, and let a position control glide through them while the pitch stays where it is. Timbres may thus travel from hollow to vocal to metallic in a manner that filters cannot imitate. Modulate the position with a slow envelope or random source, and restrict the range, because scanning the whole row in each note quickly sounds like a demonstration. Interpolation between frames prevents stepping, although some classic digital instruments owe their grit to its absence. Good oscillators keep reduced-bandwidth versions for higher octaves to avoid aliasing. If frames begin at different phases, neighbouring shapes partly cancel during the morph and the level dips.',
    '{"tags": ["oscillator", "morphing", "digital"], "level": "intermediate"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000050',
    'granular synthesis',
    'synthesis',
    'Cut a recording into snippets of 10 to 100 ms, each with a soft fade at both ends, and scatter them in overlapping clouds. Reading position, snippet length, pitch and density become independent, so a single piano note may be frozen for a minute, or speech slowed eightfold without becoming deeper. Pieces of 40 to 80 ms preserve character, below about 10 ms the source turns into a buzz whose pitch depends on the repetition rate. Add random offsets of 5 to 30 ms to the position, or regular spacing will create a metallic tone. Drums lose their bite, for each hit gets smeared or doubled, whereas voices, bowed strings and field recordings shine. Expect level build-up at high overlap.',
    '{"tags": ["grains", "texture", "time stretch"], "level": "advanced"}',
    0.87
  ),
  (
    '00000000-0000-4000-8000-000000000051',
    'low frequency oscillator',
    'synthesis',
    'A very slow wave that is never heard itself can be routed to move something that is. On pitch, 5 to 7 Hz with a depth of 10 to 40 cents resembles a singer''s vibrato, especially when it fades in after 300 ms. On level it becomes tremolo, on a filter a wobble, on pan a drift. Lock the rate to the song for rhythmic gating, or let it run at 0.1 Hz or less so that a pad never repeats exactly. Retriggering on each key keeps basses consistent, free running suits pads. Speed it beyond roughly 20 Hz and the ear no longer follows the motion but hears additional sidebands, a rough new timbre. Depth is normally overdone, so halve it.',
    '{"tags": ["lfo", "vibrato", "tremolo", "modulation"], "level": "beginner"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000052',
    'ADSR envelope',
    'synthesis',
    'Four numbers describe how a note lives: the time to rise, the time to drop back, the level held while the key is down, and the time to die away after letting go. The third is a level and the rest are durations, a distinction beginners frequently miss. For a pluck use 1 ms, 200 to 400 ms, zero and 100 ms. For strings try 300 ms or more at the front and 800 ms at the end. An onset of precisely zero may click because the wave starts in mid-cycle, so 2 to 5 ms is safer on basses. Overlong endings blur fast chord changes. Sending a second, quicker contour to the filter makes a patch far more expressive than one alone.',
    '{"tags": ["envelope", "attack", "sustain", "release"], "level": "beginner"}',
    0.97
  ),
  (
    '00000000-0000-4000-8000-000000000053',
    'unison detune',
    'synthesis',
    'Stack several copies of one oscillator, each a few cents sharp or flat, and their slow drifting in and out of step sounds wide and massive. Seven sawtooths spread over 10 to 25 cents make the familiar trance chord. The beating rate grows with pitch: two voices 10 cents apart beat about 2.5 times per second at A 440 and twice that an octave higher, so high melodies need less spread. Give copies random starting phase, or each key press begins with a comb-like swoosh. Keep the lowest octave as a single centred voice, otherwise the sub swells and vanishes unpredictably. Chords of five notes with sixteen voices each become fog and also burden the processor.',
    '{"tags": ["supersaw", "width", "thickness"], "level": "beginner"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000054',
    'physical modelling',
    'synthesis',
    'Rather than store the sound of an instrument, calculate how its parts vibrate. The simplest plucked string is a burst of noise circulating in a short delay line with a mild low-pass in the loop: the delay length decides the pitch, about 200 samples for 220 Hz at 44.1 kHz, and the filter makes upper partials die first, exactly as on a guitar. Fractional delays are required for accurate tuning of high notes. Bowed and blown models add a nonlinear exciter, so pressure and speed interact, and a careless combination will squeak just as a beginner does. Map breath or aftertouch to them. For a static piano chord samples remain easier, but for legato and noise between notes this approach wins.',
    '{"tags": ["karplus-strong", "waveguide", "strings"], "level": "advanced"}',
    0.92
  ),
  (
    '00000000-0000-4000-8000-000000000055',
    'aliasing and oversampling',
    'synthesis',
    'Digital audio cannot represent anything above half the sampling frequency, and content generated up there does not vanish but reflects downward. At 48 kHz a partial of 30 kHz turns up as 18 kHz, and as the note rises the reflection falls, heard as whistles moving the wrong way. Hard waveforms, strong distortion, fast FM and bit reduction are the usual causes. Running the process internally at two, four or eight times the rate and filtering before returning eliminates most of it, at the cost of computing power and some delay. Test with a slow high sine sweep through the plugin. Clean EQ and plain gain create no new frequencies, so oversampling them brings little beyond truer curves near the top, and lo-fi styles may want the dirt.',
    '{"tags": ["digital", "nyquist", "sample rate"], "level": "advanced"}',
    0.94
  )
on conflict (id) do nothing;

-- recording
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000056',
    'microphone polar patterns',
    'recording',
    'Where a microphone refuses to listen is as useful as where it is aimed. A cardioid is deafest directly behind and about 6 dB down at the sides, a supercardioid has its nulls near 126 degrees and a hypercardioid near 110, so a stage wedge belongs off to the rear side of those and straight behind a plain cardioid. A figure-eight hears front and back equally and rejects the sides extremely well, which lets a singing guitarist be captured with two of them at right angles. An omni takes everything, yet has the most natural bass and no boom at short range. Sound arriving off axis is normally coloured, so spill through a cheap directional model can be worse than through an omni.',
    '{"tags": ["cardioid", "omni", "figure-eight"], "level": "beginner"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000057',
    'proximity effect',
    'recording',
    'Why does someone sound boomy, like a late-night radio host, when the lips nearly touch the grille? Directional capsules respond to the pressure difference between front and back, and very near a source that difference rises in the lows, so at 5 cm the region under 200 Hz may gain 6 to 16 dB depending on design. The closer they sing, the thicker it becomes, and swaying by a hand''s width changes the tone from line to line. Stand 15 to 25 cm away, hang a pop screen as a spacer, and cut with a shelf or low-cut where needed. Omnidirectional pressure types do not do this at all. For a thin voice, exploit it on purpose.',
    '{"tags": ["bass boost", "vocals", "distance"], "level": "beginner"}',
    0.96
  ),
  (
    '00000000-0000-4000-8000-000000000058',
    'stereo pairs XY, ORTF and spaced',
    'recording',
    'Two coincident cardioids crossed at 90 degrees encode direction by level alone: solid centre, safe in mono, relatively narrow. Placing them 17 cm apart and opening them to 110 degrees, the French radio arrangement, adds small arrival differences similar to those between human ears, which is airy yet still precise, and suits choirs, pianos and overheads. Two omnis 40 to 100 cm or more apart rely largely on timing, giving a deep, enveloping image with lovely lows but a vague middle and possible cancellations when summed. Choose by purpose: broadcast or a busy pop mix wants the first, a chamber concert the second, an organ in a church the third. Move the stand before touching an equaliser.',
    '{"tags": ["stereo", "microphones", "imaging"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000059',
    'three-to-one rule',
    'recording',
    'If two singers each have a microphone 20 cm from the mouth, keep those microphones at least 60 cm apart. The neighbour''s voice then arrives roughly 9 to 10 dB weaker in free air, enough for the cancellations caused by its later arrival to shrink to ripples of a few decibels. The guideline concerns several sources, each with its own transducer, which get mixed together. It does not apply to a stereo pair on one source, nor promise anything in a small reflective room, where echoes break the inverse distance law. Turning up the distant channel spoils it too, since only relative level in the mix counts. Directional patterns, muting unused channels and moving closer all give extra margin.',
    '{"tags": ["bleed", "phase", "microphone distance"], "level": "intermediate"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000060',
    'drum phase alignment',
    'recording',
    'A snare that turns thin as soon as the overheads are raised is arriving at different moments in different channels. Sound needs about 2.9 ms per metre, so a pair 1 m above is nearly 3 ms late compared with the close one, and the first cancellation would fall near 170 Hz, right in the body of the drum. Measure equal distances from snare to both overheads with a string. Invert the bottom snare microphone, since that head moves outward while the top one moves inward. Then flip each channel''s polarity in turn and retain the fuller version. Sliding tracks to match may tighten a kit, yet it also removes natural depth, so leave room microphones late.',
    '{"tags": ["drums", "polarity", "overheads"], "level": "intermediate"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000061',
    'DI and re-amping',
    'recording',
    'Record an electric guitar clean as well as through its amplifier, and the decision about tone can wait. Passive pickups need an input impedance of around 1 megohm, or highs get dull, so use an instrument socket or an active box and not a line input. Later, play the dry track through a box that lowers the level by some 10 to 20 dB and presents a high source impedance, into any amplifier at any hour, and record the cabinet again. Engage the ground lift if it hums. Expect a delay of one to several milliseconds against the original, which must be realigned prior to blending. A player relying on feedback or pick response still needs to hear the intended sound while performing.',
    '{"tags": ["guitar", "impedance", "direct box"], "level": "intermediate"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000062',
    'room modes and bass traps',
    'recording',
    'When one bass note roars and the next is missing at your chair, the walls are to blame. Between parallel surfaces waves reinforce at 343 divided by twice the distance in metres: 34 Hz for 5 m, 43 Hz for 4 m, 57 Hz for 3 m, and at the multiples. Equal dimensions pile those up, so cubes are worst. Porous absorbers work where air moves, away from the boundary, and must be thick, 15 cm or more with a gap, placed across corners. Thin foam tiles only dull the treble. Begin listening at about 38 percent of the length from the front wall and measure. Equalisation can lower a peak at one seat but cannot fill a cancellation, and simply wastes power.',
    '{"tags": ["acoustics", "standing waves", "treatment"], "level": "intermediate"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000063',
    'latency and buffer size',
    'recording',
    'The computer handles sound in blocks, and every block must be full before it is processed. At 48 kHz, 64 samples last 1.3 ms, 128 last 2.7 ms, 256 last 5.3 ms and 1024 last 21 ms. What a performer hears includes one on the way in, one on the way out, plus converters and drivers, so the total is usually more than double. Drummers and singers on headphones start complaining above roughly 5 to 10 ms. Choose 64 or 128 while tracking, then 512 or 1024 for mixing to stop crackles. Look-ahead limiters and linear phase filters add their own delay, hence bypass them during takes. Direct monitoring through the interface avoids the problem altogether.',
    '{"tags": ["audio interface", "monitoring", "delay"], "level": "beginner"}',
    0.95
  )
on conflict (id) do nothing;

-- arrangement
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000064',
    'jazz ballad',
    'arrangement',
    'At 50 to 70 bpm every chord hangs in the open, so colour and silence matter more than activity. Give the pianist''s left hand roots with sevenths or tenths, or leave the root to the bass and play third, seventh, ninth and thirteenth between about D3 and A4. Spread voicings breathe better than clusters, and the melody should stay the highest note, with a little open space beneath it. Brushes sweep on the snare, the bass plays in two with long notes, and a double-time feel can be kept for the second chorus. A rubato verse, one statement, a half-chorus solo and a held ending with a fermata are usually plenty. Filling every pause is the classic mistake.',
    '{"tags": ["piano", "voicings", "slow tempo"], "level": "intermediate"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000065',
    'rootless jazz voicings',
    'arrangement',
    'With a bassist on the stand, a pianist who repeats the root adds mud and loses a finger for colour. Stack four notes instead: for Dm7 use F, A, C and E, then for G7 keep most of the hand still and play F, A, B and E, then E, G, B and D for Cmaj7. One finger moves by a semitone for the first change, three by step for the second. Keep the lowest of them above roughly C3 and the top not much beyond A4, where the chord is clear yet stays beneath the soloist. Leave out tensions the tune contradicts, for instance a natural ninth against a sung flat ninth. When playing alone, this way of comping floats without foundation, so touch the root first or use shells.',
    '{"tags": ["piano", "comping", "extensions"], "level": "advanced"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000066',
    'call and response',
    'arrangement',
    'One voice speaks, another answers in the space left over, and the listener follows as if overhearing a conversation. In a twelve-bar blues the singer takes about two and a half bars of each four-bar line, then guitar or harmonica replies. The answer may copy the rhythm, invert the contour or complete the harmony, but should begin only after the question ends, with an overlap of no more than a note or so. Contrast helps: high against low, solo against group, dry against reverberant, left against right. Producers apply it to synth hooks, and orchestrators to woodwinds and strings. If the two parts talk simultaneously it becomes counterpoint or clutter, so mute one and listen for whether the exchange still makes sense.',
    '{"tags": ["phrasing", "dialogue", "hooks"], "level": "beginner"}',
    0.89
  ),
  (
    '00000000-0000-4000-8000-000000000067',
    'orchestration spacing',
    'arrangement',
    'Chords for large ensembles sound resonant when their notes are laid out like the natural overtones: wide at the bottom, progressively closer above. Octaves or fifths between basses, cellos and bassoons, sixths and fourths in the middle, thirds and seconds in the upper winds and violins. Gaps greater than an octave between adjacent upper parts leave a hole, whereas the lowest two may be that far apart safely. Double the root or fifth freely, the third sparingly, and the leading tone hardly ever. At fortissimo one horn roughly balances two woodwinds, while a trumpet or trombone equals about two horns. Sample libraries hide these relations because every fader can be raised, so real players may then be inaudible.',
    '{"tags": ["orchestra", "chord spacing", "overtone series"], "level": "advanced"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000068',
    'song form',
    'arrangement',
    'Listeners need repetition to remember and change to keep listening. The commonest pop layout goes verse, chorus, verse, chorus, bridge, chorus, in sections of eight or sixteen bars, with the title arriving inside the first 45 to 60 seconds. Standards frequently use thirty-two bars in four eights, AABA, where the contrasting third part visits another key area. A blues is twelve bars in three lines. When the second verse sags, remove half of it, add a new part, or go straight to the refrain. A bridge should alter at least two of harmony, rhythm, register and density. Map the sections and their lengths on paper, as many demos turn out to have an introduction twice as long as needed.',
    '{"tags": ["verse", "chorus", "structure"], "level": "beginner"}',
    0.90
  ),
  (
    '00000000-0000-4000-8000-000000000069',
    'build-ups and drops',
    'arrangement',
    'Anticipation is made by taking away as much as by adding. Over eight or sixteen bars raise something steadily, such as snare rolls doubling from quarters to eighths to sixteenths, a noise riser, a climbing pitch or a brightening filter, while removing the kick and everything beneath 200 to 300 Hz for the last few bars. Leave a gap of one beat or even half a bar in total silence before impact, since the pause makes the same level appear louder. Narrow the image and shorten reverbs before, and open them afterwards. If the arrival disappoints, the preceding section is probably already too loud or full. Four identical climbs in one track lose their power, so make one of them deceive.',
    '{"tags": ["edm", "tension", "energy"], "level": "intermediate"}',
    0.82
  ),
  (
    '00000000-0000-4000-8000-000000000070',
    'countermelody',
    'arrangement',
    'A second tune beneath the main one should have its own outline yet never steal attention. Let it move when the singer holds and hold when the singer moves. Aim for contrary motion, with thirds, sixths and tenths on strong beats, and let dissonances pass by step. Place it at least a third away, preferably in another octave and timbre, such as a cello under a soprano or a horn under violins. Guide tones of the harmony, the thirds and sevenths, make a ready skeleton: connect them in long values, then ornament. Avoid parallel octaves with either melody or bass, as the additional line then disappears into it. Reserve it for the second verse or final refrain, where the ear knows the theme.',
    '{"tags": ["counterpoint", "strings", "inner line"], "level": "intermediate"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000071',
    'register and density',
    'arrangement',
    'Fullness depends less on the number of tracks than on where they lie and how often they speak. Listeners can follow about three independent strands, typically bass, lead and one figure, and everything further blends into backdrop. Sketch each part as a band over the keyboard and look for collisions between C3 and C5, where guitars, piano, pads and voices all crowd. Send one up an octave, let another play off-beats, or drop it until the refrain. An octave shift of a string line changes intensity more than six decibels of fader. Slow chord rhythm tolerates thick texture, rapid changes want it thin. A bare section beforehand makes an ordinary chorus seem gigantic.',
    '{"tags": ["texture", "orchestration", "layers"], "level": "intermediate"}',
    0.84
  ),
  (
    '00000000-0000-4000-8000-000000000072',
    'low interval limits',
    'arrangement',
    'Why does a major third that sounds sweet in the middle of the keyboard growl two octaves lower? Both fundamentals and their overtones fall within one critical band of hearing and beat against each other. C2 and E2 are only 17 Hz apart. Arrangers thus keep rough floors for the lower note of a pair, with C4 as middle C: minor thirds not much under C3, major thirds about B flat 2, perfect fifths about B flat 1, octaves anywhere. Published tables differ by a tone or two, and pure or soft timbres tolerate more than distorted ones. Roots heard in the bass count as part of the interval. Break the guideline knowingly for menace, in metal riffs or horror scoring.',
    '{"tags": ["bass register", "muddiness", "voicing"], "level": "advanced"}',
    0.86
  )
on conflict (id) do nothing;

-- rhythm
insert into public.music_knowledge (id, topic, category, content, metadata, confidence)
values
  (
    '00000000-0000-4000-8000-000000000073',
    'swing and microtiming',
    'rhythm',
    'Delay every second subdivision and a stiff pattern starts to dance. Drum machines express it in percent: 50 is even, 66.7 is a full triplet shuffle, and most hip-hop and house live between 53 and 62. At 90 bpm with sixteenths, 58 percent places the off-notes about 27 ms late. Jazz drummers use a strong lilt at slow speeds and nearly even notes above roughly 250 bpm, so one fixed value cannot suit every tempo. Beyond this, a snare 5 to 20 ms behind the grid relaxes a beat, and a hi-hat slightly early drives it. Apply the shift consistently by instrument, because random deviation merely sounds careless. Bass and kick should generally agree with each other.',
    '{"tags": ["groove", "shuffle", "timing"], "level": "intermediate"}',
    0.88
  ),
  (
    '00000000-0000-4000-8000-000000000074',
    'polyrhythm versus polymeter',
    'rhythm',
    'Two things are often mixed up. In the first, different numbers of equal strokes fill the same span: three against two inside one bar, meeting again on each downbeat. In the second, the pulse is common but the groups have different lengths: a riff of five eighths over a drum beat of eight, drifting until both start together after forty. To learn three against two, count six tiny units and strike 1, 3, 5 with one hand and 1, 4 with the other. For four against three, count twelve. Keep one layer simple and steady as an anchor, or the audience hears only confusion. In a sequencer, the second kind just needs loops of unequal length.',
    '{"tags": ["cross-rhythm", "cycles", "odd time"], "level": "advanced"}',
    0.95
  ),
  (
    '00000000-0000-4000-8000-000000000075',
    'ghost notes',
    'rhythm',
    'Between the loud backbeats a funk drummer taps the snare so lightly that you feel the strokes more than hear them. Programmed, they lie around MIDI velocity 15 to 45 against 110 to 127 for the accent, typically on the sixteenths before and after beats two and four. Real sticks start only a few centimetres above the head for them. Choose samples with several soft layers, because a hard hit turned down stays bright and sounds false. Heavy compression ruins the idea by lifting them towards the accents, and a gate may delete them. Bassists and guitarists do the equivalent with muted, pitchless plucks. One to four per bar suffice, as constant chatter conceals the beat.',
    '{"tags": ["drums", "groove", "dynamics"], "level": "intermediate"}',
    0.87
  ),
  (
    '00000000-0000-4000-8000-000000000076',
    'syncopation and anticipation',
    'rhythm',
    'Stress a place where no stress is expected, leave the expected one empty, and bodies begin to move to fill it. The plainest device in pop is the push: a chord meant for the downbeat comes an eighth or sixteenth sooner and is held across the bar line. It works only while some other part, hi-hat, kick or a tapping foot, keeps the regular pulse audible. If the entire band pushes every bar, the ear simply relocates the beat and the tension is gone. Write one on-beat phrase first, then move two or three of its notes early. Singers should put strong syllables on the pushed notes, otherwise the words sound wrongly accented.',
    '{"tags": ["off-beat", "accents", "phrasing"], "level": "beginner"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000077',
    'hemiola',
    'rhythm',
    'For a couple of bars, music in three suddenly seems to be in two, or the reverse. Take two bars of 3/4, six beats altogether, and accent every second beat: one-two, three-one, two-three. The listener perceives a single broad bar of three slow beats. Baroque dances apply it just before cadences to slow the momentum without altering tempo, Brahms loved it, and in 6/8 against 3/4 it drives much Latin American and West African derived music, including the well-known alternation in the song America from West Side Story. Somebody should keep the old pattern audible or at least felt, for the tension depends on it continuing underneath. Limit it to short spans, or it becomes the new metre.',
    '{"tags": ["three against two", "triple metre", "cadence"], "level": "intermediate"}',
    0.91
  ),
  (
    '00000000-0000-4000-8000-000000000078',
    'odd metre grouping',
    'rhythm',
    'Counting to seven at speed is hopeless, so think in twos and threes. 7/8 is mostly 2+2+3 or 3+2+2, 5/4 is 3+2 in the famous Take Five, and 11/8 may be 2+2+3+2+2, as in a Bulgarian kopanitsa. You then feel only two to five unequal beats per bar, short and long. Fix the grouping in bass and kick, and let the melody breathe across it. A backbeat on the start of each group sounds lumpy, but one spanning two bars, so that fourteen eighths divide into seven quarters, makes odd time feel smooth. Beam the notes accordingly. Dropping an eighth merely to appear clever leaves the audience stumbling, so let a phrase or lyric demand it.',
    '{"tags": ["7/8", "5/4", "additive rhythm"], "level": "intermediate"}',
    0.94
  ),
  (
    '00000000-0000-4000-8000-000000000079',
    'clave',
    'rhythm',
    'Five strokes spread across two bars organise most Cuban dance music. In the son version the three side falls on beat one, the off-beat after two, and beat four, and the two side on beats two and three. The rumba form delays the third stroke by an eighth. Songs begin with either half, called 3-2 or 2-3, and once begun the pattern itself keeps alternating without a break, even when sections change. Melody, piano montuno and bass accents all agree with it, so a phrase that stresses beats two and three under the three side feels crossed, which musicians notice immediately. No one needs to play it audibly. Looping a one-bar percussion sample destroys the two-bar tension, so always edit in pairs.',
    '{"tags": ["afro-cuban", "latin", "pattern"], "level": "intermediate"}',
    0.93
  ),
  (
    '00000000-0000-4000-8000-000000000080',
    'quantisation strength',
    'rhythm',
    'Snapping every note to the grid fixes errors and also erases the player. Most editors permit moving each event only part of the way: with 50 to 70 percent, a note 30 ms late ends up 9 to 15 ms late, tidy yet still personal. Some allow an inner tolerance, which leaves anything already within, say, 10 ms untouched. Pick the correct subdivision first, otherwise triplets get dragged to sixteenths, and handle flams, rolls and strummed chords by hand since their spread is intended. Extracting a groove from one good bar and applying it elsewhere is usually better than randomising. Audio drums should be shifted across all microphones together, otherwise the overheads disagree with the close channels.',
    '{"tags": ["midi editing", "humanise", "grid"], "level": "beginner"}',
    0.85
  )
on conflict (id) do nothing;
