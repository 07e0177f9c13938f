// Marks the words of a text that have the same stem as a word of the query, as full-text search compares them.

import { el } from "./dom.js";

const WORD = /[\p{L}\p{N}]+/gu;
// PostgreSQL's English stop words and the most common French ones. Full-text search ignores them.
const STOP = new Set(
  `i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its itself
   they them their theirs themselves what which who whom this that these those am is are was were be been being have has had
   having do does did doing a an the and but if or because as until while of at by for with about against between into through
   during before after above below to from up down in out on off over under again further then once here there when where why
   how all any both each few more most other some such no nor not only own same so than too very s t can will just don should now
   de du des et la le les un une dans pour sur avec`.split(/\s+/),
);
// Common words in queries. They add little to the full-text score, so marks on them would not explain a hit.
const COMMON = new Set("make get use need want like good better best less much way thing".split(" "));

const VOWEL = "[aeiouy]";
const R = new RegExp(`^.*?${VOWEL}[^aeiouy](.*)$`);
const SHORT = /(^[aeiouy][^aeiouy]$)|([^aeiouy][aeiouy][^aeiouywxY])$/;
const UNCHANGED = new Map(
  Object.entries({ skis: "ski", skies: "sky", dying: "die", lying: "lie", tying: "tie", idly: "idl", gently: "gentl", ugly: "ugli", early: "earli", only: "onli", singly: "singl" }),
);
for (const word of "sky news howe atlas cosmos bias andes".split(" ")) UNCHANGED.set(word, word);
const KEPT = new Set("inning outing canning herring earring proceed exceed succeed".split(" "));
const STEP2 = { tional: "tion", enci: "ence", anci: "ance", abli: "able", entli: "ent", izer: "ize", ization: "ize", ational: "ate", ation: "ate", ator: "ate", alism: "al", aliti: "al", alli: "al", fulness: "ful", ousli: "ous", ousness: "ous", iveness: "ive", iviti: "ive", biliti: "ble", bli: "ble", fulli: "ful", lessli: "less" };
const STEP3 = { tional: "tion", ational: "ate", alize: "al", icate: "ic", iciti: "ic", ical: "ic", ful: "", ness: "" };
const STEP4 = "al ance ence er ic able ible ant ement ment ent ism ate iti ous ive ize".split(" ");

/** The longest ending of a word in the list. */
const ending = (word, endings) => endings.filter((one) => word.endsWith(one)).sort((a, b) => b.length - a.length)[0];

/** The stem of a word in PostgreSQL's dictionary english_stem (Porter's second stemmer). */
export function stem(text) {
  let word = text.toLowerCase();
  if (word.length < 3) return word;
  if (UNCHANGED.has(word)) return UNCHANGED.get(word);
  // Mark each y that is a consonant.
  word = word.replace(/^y|(?<=[aeiouy])y/g, "Y");
  const region = (whole) => whole.length - (R.exec(whole)?.[1].length ?? 0);
  const special = /^(gener|commun|arsen|past|univers|later|emerg|organ)/.exec(word);
  const r1 = special ? special[0].length : region(word);
  const r2 = r1 + region(word.slice(r1));
  const inside = (end, start) => word.length - end.length >= start;
  const cut = (end, by = "") => (word = word.slice(0, word.length - end.length) + by);

  if (/sses$/.test(word)) cut("es");
  else if (/ie[sd]$/.test(word)) cut(word.length > 4 ? "es" : "s");
  else if (/[^us]s$/.test(word) && new RegExp(`${VOWEL}.+s$`).test(word)) cut("s");
  if (KEPT.has(word)) return word;

  const past = ending(word, ["eed", "eedly", "ed", "edly", "ing", "ingly"]);
  if (past?.startsWith("eed")) {
    if (inside(past, r1)) cut(past, "ee");
  } else if (past && new RegExp(VOWEL).test(word.slice(0, -past.length))) {
    cut(past);
    if (/(at|bl|iz)$/.test(word)) word += "e";
    else if (/(bb|dd|ff|gg|mm|nn|pp|rr|tt)$/.test(word) && !/^[aeo]..$/.test(word)) word = word.slice(0, -1);
    else if (word.length <= r1 && SHORT.test(word)) word += "e";
  }
  word = word.replace(/(?<=.[^aeiouy])[yY]$/, "i");

  const second = ending(word, [...Object.keys(STEP2), "ogi", "li"]);
  if (second && inside(second, r1)) {
    if (second === "ogi") word = word.replace(/(?<=l)ogi$/, "og");
    else if (second === "li") word = word.replace(/(?<=[cdeghkmnrt])li$/, "");
    else cut(second, STEP2[second]);
  }
  const third = ending(word, [...Object.keys(STEP3), "ative"]);
  if (third && inside(third, r1)) {
    if (third !== "ative") cut(third, STEP3[third]);
    else if (inside(third, r2)) cut(third);
  }
  const fourth = ending(word, [...STEP4, "ion"]);
  if (fourth && inside(fourth, r2) && (fourth !== "ion" || /[st]ion$/.test(word))) cut(fourth);
  if (word.endsWith("e")) {
    if (inside("e", r2) || (inside("e", r1) && !SHORT.test(word.slice(0, -1)))) cut("e");
  } else if (word.endsWith("ll") && inside("l", r2)) cut("l");
  return word.toLowerCase();
}

/** The stems of a query's words, without stop words and common ones. */
export function stems(query) {
  const words = query.match(WORD) ?? [];
  return new Set(words.filter((word) => !STOP.has(word.toLowerCase())).map(stem).filter((word) => !COMMON.has(word)));
}

/** The text as nodes, with the query's words in <mark>. */
export function marked(text, wanted) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(WORD)) {
    if (!wanted.has(stem(match[0]))) continue;
    nodes.push(text.slice(end, match.index), el("mark", null, match[0]));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}

/** About `length` characters of the text around the first word of the query. */
export function excerpt(text, wanted, length = 240) {
  if (text.length <= length) return text;
  const first = [...text.matchAll(WORD)].find((match) => wanted.has(stem(match[0])))?.index ?? 0;
  let start = Math.max(0, Math.min(first - length / 3, text.length - length));
  start = start === 0 ? 0 : text.indexOf(" ", start) + 1;
  const cut = text.slice(start, start + length);
  const end = start + length < text.length ? cut.lastIndexOf(" ") : cut.length;
  return `${start ? "… " : ""}${cut.slice(0, end > 0 ? end : cut.length)}${start + length < text.length ? " …" : ""}`;
}
