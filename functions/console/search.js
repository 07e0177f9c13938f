// Search as one types. One answer brings every part of every score, so the sliders re-rank it without asking again.

import { newest, path, post } from "./api.js";
import { button, el, plural, say } from "./dom.js";
import { parts, isCertain, rerank } from "./rank.js";
import { failure, note, nothingToSearch } from "./states.js";
import { excerpt, marked, stems } from "./words.js";

export const WANTED = 50;
const SHOWN = 10;
const TYPING_MS = 150;
const USUAL = { words: 0.3, meaning: 0.7 };
// Where a row's name and its text are, by the columns that collections commonly have.
const LABELS = ["topic", "title", "tag_name", "name", "path"];
const BODIES = ["content", "description", "text", "body", "synonyms"];
const CHIPS = ["category", "tag_type", "language", "tags", "source"];

/** Ask the server; needs no key, for a search runs as whoever calls. */
export async function ask(collection, query, weights, signal, wanted = WANTED) {
  const body = { query, match_count: wanted, full_text_weight: weights.words, semantic_weight: weights.meaning };
  const answer = await post(path("search", collection), body, { signal, keyed: false });
  return { ...answer, collection, query, weights: { ...weights }, wanted };
}

export const labelOf = (hit) => textOf(hit[LABELS.find((name) => hit[name])] ?? hit.id);

function textOf(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  if (typeof value === "object") return Object.values(value).map(textOf).filter(Boolean).join(" · ");
  return String(value);
}

/** A select of the collections that can be searched, filled when the server has said which. */
export function collectionSelect(shared, attributes, preferred) {
  const select = el("select", attributes);
  const names = async () => {
    await shared.ready;
    const known = shared.server?.searchable ?? [];
    if (select.options.length || !known.length) return;
    select.append(...known.map((name) => el("option", { value: name }, name)));
    if (known.includes(preferred)) select.value = preferred;
  };
  return { select, names };
}

export function mountSearch(panel, shared) {
  const box = el("input", {
    type: "search",
    id: "query",
    placeholder: "why does my vocal sound boomy up close",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 2000,
    enterkeyhint: "search",
  });
  const { select, names } = collectionSelect(shared, { id: "search-collection" }, "music_knowledge");
  const weights = { ...USUAL };
  const sliders = { words: slider("words", "Words"), meaning: slider("meaning", "Meaning") };
  const usual = button("Reset", () => setWeights(USUAL), { class: "quiet", hidden: true, "aria-label": "Reset the weights" });
  const modes = { both: mode("both", "Together"), apart: mode("apart", "Side by side") };
  const status = el("p", { class: "dim status", role: "status" });
  const warning = el("p", { class: "notice", role: "alert", hidden: true });
  const results = el("div", { class: "results" });
  const controls = el("div", { class: "weights" }, sliders.words.node, sliders.meaning.node, usual);
  panel.append(
    el("h2", { class: "sr" }, "Search"),
    el(
      "form",
      { class: "searchbar", role: "search", onsubmit: (event) => (event.preventDefault(), run()) },
      el("label", { class: "grow" }, el("span", { class: "sr" }, "Search for"), box),
      el("label", null, el("span", { class: "sr" }, "in the collection"), select),
    ),
    el("div", { class: "controls" }, controls, el("div", { class: "segments", role: "group", "aria-label": "Ranking" }, Object.values(modes))),
    el("div", { class: "row" }, status),
    warning,
    results,
  );

  const latest = newest();
  let timer = null;
  let answer = null;
  let limit = SHOWN;
  let apart = false;
  let asking = 0;
  let items = new Map();

  box.addEventListener("input", () => later(run));
  select.addEventListener("change", () => run());
  showMode();
  welcome();

  function later(action) {
    clearTimeout(timer);
    timer = setTimeout(action, TYPING_MS);
  }

  function slider(name, label) {
    const input = el("input", { type: "range", id: `weight-${name}`, min: 0, max: 1, step: 0.05, value: USUAL[name] });
    const output = el("output", { for: `weight-${name}` }, USUAL[name].toFixed(2));
    input.addEventListener("input", () => setWeights({ [name]: Number(input.value) }));
    return { node: el("label", { class: `weight ${name}` }, el("span", null, label), input, output), input, output };
  }

  function setWeights(changed) {
    Object.assign(weights, changed);
    for (const [name, { input, output }] of Object.entries(sliders)) {
      input.value = weights[name];
      say(output, weights[name].toFixed(2));
    }
    usual.hidden = weights.words === USUAL.words && weights.meaning === USUAL.meaning;
    if (!answer || apart) return;
    showTogether();
    // At once from the parts that are here; where a row that is not here could come in, the server has the last word.
    clearTimeout(timer);
    if (!isCertain(answer, weights, limit)) later(run);
  }

  function mode(name, label) {
    return button(label, () => {
      apart = name === "apart";
      showMode();
      run();
    });
  }

  function showMode() {
    modes.both.setAttribute("aria-pressed", !apart);
    modes.apart.setAttribute("aria-pressed", apart);
    controls.classList.toggle("off", apart);
    for (const { input } of Object.values(sliders)) input.disabled = apart;
  }

  function welcome() {
    answer = null;
    warning.hidden = true;
    say(status, "");
    if (shared.server?.searchable.length === 0) {
      results.replaceChildren(nothingToSearch());
      return;
    }
    results.replaceChildren(
      note("Type a question or a few words", "Rows are found by their words and by their meaning at once. Every score is drawn as its two parts, and the sliders weigh them anew."),
    );
  }

  async function run() {
    clearTimeout(timer);
    const query = box.value.trim();
    const collection = select.value;
    if (!query) {
      latest(async () => null);
      welcome();
      return;
    }
    if (!collection) {
      await names();
      if (select.value) run();
      else welcome();
      return;
    }
    asking += 1;
    panel.setAttribute("aria-busy", "true");
    try {
      if (apart) {
        const pair = await latest((signal) =>
          Promise.all([{ words: 1, meaning: 0 }, { words: 0, meaning: 1 }].map((alone) => ask(collection, query, alone, signal))),
        );
        if (pair) showApart(...pair);
      } else {
        const fresh = await latest((signal) => ask(collection, query, weights, signal));
        if (!fresh) return;
        if (fresh.query !== answer?.query || collection !== answer?.collection) {
          limit = SHOWN;
          items = new Map();
        }
        // The sliders may have moved while it was on its way.
        answer = fresh;
        showTogether();
        if (!isCertain(answer, weights, limit)) later(run);
      }
    } catch (error) {
      warning.hidden = true;
      say(status, "");
      results.replaceChildren(failure(error));
      answer = null;
    } finally {
      asking -= 1;
      if (!asking) panel.removeAttribute("aria-busy");
    }
  }

  function tell({ hits, degraded, took_ms, wanted, collection }) {
    say(status, hits.length ? `${hits.length === wanted ? `the best ${hits.length} rows` : plural(hits.length, "row")} · ${took_ms} ms` : "");
    warning.hidden = !degraded;
    const why = "The embedding provider does not answer, so only the words were searched.";
    say(warning, degraded ? `${why} Meaning comes back by itself when the provider does.` : "");
    if (hits.length) return false;
    results.replaceChildren(
      note("Nothing found", `No row of ${collection} shares a word with this, and none was near in meaning.`),
      el("p", { class: "dim" }, "An empty collection, or one that is not embedded yet, finds nothing: Coverage tells."),
    );
    return true;
  }

  function showTogether() {
    if (tell(answer)) return;
    const wanted = stems(answer.query);
    const ranked = rerank(answer.hits, weights);
    const top = total(parts(ranked[0], weights)) || 1;
    const shown = ranked.slice(0, limit).map((hit, place) => {
      const item = items.get(hit.id) ?? makeHit(hit, wanted);
      items.set(hit.id, item);
      item.update(place + 1, hit, weights, top);
      return item.node;
    });
    let list = results.querySelector(":scope > ol.hits");
    if (!list) {
      list = el("ol", { class: "hits", "aria-label": "Results" });
      results.replaceChildren(list, el("p", { class: "more" }));
    }
    glide(list, shown);
    const more = ranked.length - shown.length;
    const place = results.querySelector(".more");
    place.replaceChildren(more > 0 ? button(`Show ${more} more`, () => ((limit = WANTED), showTogether())) : "");
  }

  function showApart(words, meaning) {
    const all = { ...words, hits: [...words.hits, ...meaning.hits], took_ms: Math.max(words.took_ms, meaning.took_ms), degraded: meaning.degraded };
    if (tell({ ...all, wanted: Infinity })) return;
    say(status, `${words.took_ms} ms by words, ${meaning.took_ms} ms by meaning`);
    answer = null;
    items = new Map();
    const wanted = stems(words.query);
    results.replaceChildren(
      el("div", { class: "pair" }, column("Words only", words, meaning, "words", wanted), column("Meaning only", meaning, words, "meaning", wanted)),
    );
  }

  return {
    show() {
      names().then(() => (shared.server ? box.value.trim() || welcome() : run()));
      // Opened by its address; whoever walks through the tabs keeps the focus there.
      if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) box.focus();
    },
    hide() {},
    reset() {
      names();
      if (box.value.trim()) run();
    },
  };
}

const total = ({ words, meaning, rest }) => words + meaning + rest;

/** Put the items into the list in this order; each glides from where it was. */
function glide(list, wanted) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const before = still ? null : new Map([...list.children].map((item) => [item, item.offsetTop]));
  if (wanted.length === list.children.length && wanted.every((item, place) => list.children[place] === item)) return;
  list.replaceChildren(...wanted);
  for (const item of wanted) {
    const moved = before?.has(item) ? before.get(item) - item.offsetTop : 0;
    if (moved) item.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], { duration: 180, easing: "ease-out" });
  }
}

/** One result. Its texts never change, its place and its score do. */
function makeHit(hit, wanted) {
  const place = el("span", { class: "place" });
  const bars = { words: el("i", { class: "words" }), meaning: el("i", { class: "meaning" }), rest: el("i", { class: "rest" }) };
  const value = el("b", { class: "score" });
  const bar = el("div", { class: "split", role: "img" }, Object.values(bars));
  const table = el("tbody");
  const text = textOf(hit[BODIES.find((name) => hit[name])]);
  const chips = CHIPS.filter((name) => hit[name]).map((name) => el("span", { class: "chip" }, textOf(hit[name])));
  const whole = el("p", { class: "body" });
  const fold = el(
    "details",
    { class: "why" },
    el("summary", null, "Score and text"),
    el(
      "div",
      { class: "fold-body" },
      el(
        "table",
        { class: "numbers" },
        el("thead", null, el("tr", null, ["part", "rank", "raw", "weight", "adds"].map((head) => el("th", { scope: "col" }, head)))),
        table,
      ),
      whole,
      el("p", { class: "dim" }, "id ", el("code", null, hit.id)),
    ),
  );
  fold.addEventListener("toggle", () => fold.open && !whole.hasChildNodes() && whole.append(...marked(text, wanted)));
  const node = el(
    "li",
    { "data-id": hit.id },
    place,
    el(
      "div",
      { class: "found" },
      el("h3", null, marked(labelOf(hit), wanted), " ", chips),
      el("p", { class: "snippet" }, marked(excerpt(text, wanted), wanted)),
      fold,
    ),
    el("div", { class: "scored" }, value, bar),
  );

  return {
    node,
    update(number, changed, weights, top) {
      const now = parts(changed, weights);
      say(place, String(number));
      say(value, total(now).toFixed(3));
      for (const [name, part] of Object.entries(bars)) part.style.setProperty("--share", Math.max(0, now[name]) / top);
      bar.setAttribute("aria-label", `words ${now.words.toFixed(3)}, meaning ${now.meaning.toFixed(3)}${now.rest ? `, other ${now.rest.toFixed(3)}` : ""}`);
      const rows = [
        ["words", changed.full_text_rank, changed.full_text_score, weights.words, now.words],
        ["meaning", changed.semantic_rank, changed.semantic_score, weights.meaning, now.meaning],
      ];
      if (now.rest) rows.push(["age and own score", null, now.rest, 1, now.rest]);
      table.replaceChildren(
        ...rows.map(([name, rank, raw, weight, adds]) =>
          el(
            "tr",
            null,
            el("th", { scope: "row" }, name),
            [rank === null ? "–" : `#${rank}`, raw === null ? "–" : raw.toFixed(4), weight.toFixed(2), adds.toFixed(4)].map((cell) => el("td", { class: "number" }, cell)),
          ),
        ),
      );
    },
  };
}

/** One leg alone; each row says where the other leg has it. */
function column(title, own, other, leg, wanted) {
  const ranks = new Map(other.hits.map((hit, place) => [hit.id, place + 1]));
  const score = leg === "words" ? "full_text_score" : "semantic_score";
  const lines = own.hits.slice(0, SHOWN).map((hit, place) => {
    const there = ranks.get(hit.id);
    const bar = el("div", { class: "split", "aria-hidden": "true" }, el("i", { class: leg, vars: { "--share": hit[score] ?? 0 } }));
    return el(
      "li",
      { "data-id": hit.id },
      el("span", { class: "place" }, String(place + 1)),
      el("div", { class: "found" }, el("h4", null, marked(labelOf(hit), wanted)), el("p", { class: "dim" }, there ? `#${there} by ${leg === "words" ? "meaning" : "words"}` : `not found by ${leg === "words" ? "meaning" : "words"}`)),
      el("div", { class: "scored" }, el("b", { class: "score" }, (hit[score] ?? 0).toFixed(3)), bar),
    );
  });
  return el(
    "section",
    { "aria-label": title },
    el("h3", null, title),
    lines.length ? el("ol", { class: "hits" }, lines) : el("p", { class: "dim" }, "nothing found"),
  );
}
