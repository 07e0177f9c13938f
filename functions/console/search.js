// Search while typing. An answer holds both parts of every score, so the sliders re-rank it without a new request.

import { newest, path, post } from "./api.js";
import { button, el, plural, say } from "./dom.js";
import { NAMES, column, makeHit, total } from "./hits.js";
import { parts, isCertain, rerank } from "./rank.js";
import { DEGRADED, failure, note, nothingToSearch } from "./states.js";
import { stems } from "./words.js";

export const WANTED = 50;
const SHOWN = 10;
const TYPING_MS = 150;
export const DEFAULT_WEIGHTS = { full_text: 0.3, semantic: 0.7 };

/** Ask the server. It sends no key: a search runs with the caller's own rights. */
export async function ask(collection, query, weights, signal, wanted = WANTED) {
  const body = { query, match_count: wanted, full_text_weight: weights.full_text, semantic_weight: weights.semantic };
  const answer = await post(path("search", collection), body, { signal, keyed: false });
  return { ...answer, collection, query, weights: { ...weights }, wanted };
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
  const weights = { ...DEFAULT_WEIGHTS };
  const sliders = { full_text: slider("full_text"), semantic: slider("semantic") };
  const usual = button("Reset", () => setWeights(DEFAULT_WEIGHTS), { class: "quiet", hidden: true, "aria-label": "Reset the weights" });
  const modes = { hybrid: mode("hybrid", "Hybrid"), apart: mode("apart", "Side by side") };
  const status = el("p", { class: "dim status", role: "status" });
  const warning = el("p", { class: "notice", role: "alert", hidden: true });
  const results = el("div", { class: "results" });
  const controls = el("div", { class: "weights" }, sliders.full_text.node, sliders.semantic.node, usual);
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

  function slider(name) {
    const input = el("input", { type: "range", id: `weight-${name}`, min: 0, max: 1, step: 0.05, value: DEFAULT_WEIGHTS[name] });
    const output = el("output", { for: `weight-${name}` }, DEFAULT_WEIGHTS[name].toFixed(2));
    input.addEventListener("input", () => setWeights({ [name]: Number(input.value) }));
    return { node: el("label", { class: `weight ${name}` }, el("span", null, NAMES[name]), input, output), input, output };
  }

  function setWeights(changed) {
    Object.assign(weights, changed);
    for (const [name, { input, output }] of Object.entries(sliders)) {
      input.value = weights[name];
      say(output, weights[name].toFixed(2));
    }
    usual.hidden = weights.full_text === DEFAULT_WEIGHTS.full_text && weights.semantic === DEFAULT_WEIGHTS.semantic;
    if (!answer || apart) return;
    showHybrid();
    // Re-rank the known hits at once. If a row that is not among them could rank higher, ask the server again.
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
    modes.hybrid.setAttribute("aria-pressed", !apart);
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
      note("Type a question or a few words", "Hybrid search ranks rows by full text and by semantic similarity. Each bar shows the two parts of a score; the sliders change their weights."),
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
          Promise.all([{ full_text: 1, semantic: 0 }, { full_text: 0, semantic: 1 }].map((alone) => ask(collection, query, alone, signal))),
        );
        if (pair) showApart(...pair);
      } else {
        const fresh = await latest((signal) => ask(collection, query, weights, signal));
        if (!fresh) return;
        if (fresh.query !== answer?.query || collection !== answer?.collection) {
          limit = SHOWN;
          items = new Map();
        }
        // The sliders may have moved while the answer was on its way.
        answer = fresh;
        showHybrid();
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
    say(warning, degraded ? `${DEGRADED} Semantic results return when the provider does.` : "");
    if (hits.length) return false;
    results.replaceChildren(
      note("Nothing found", `No row of ${collection} matches this, neither by full text nor semantically.`),
      el("p", { class: "dim" }, "An empty collection has no hits, and rows that are not embedded yet are found by full text only: see ", el("a", { href: "#/coverage" }, "Coverage"), "."),
    );
    return true;
  }

  function showHybrid() {
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
    place.replaceChildren(more > 0 ? button(`Show ${more} more`, () => ((limit = WANTED), showHybrid())) : "");
  }

  function showApart(fullText, semantic) {
    const all = { ...fullText, hits: [...fullText.hits, ...semantic.hits], degraded: semantic.degraded };
    if (tell({ ...all, wanted: Infinity })) return;
    say(status, `full text ${fullText.took_ms} ms · semantic ${semantic.took_ms} ms`);
    answer = null;
    items = new Map();
    const wanted = stems(fullText.query);
    results.replaceChildren(
      el("div", { class: "pair" }, column("full_text", fullText, "semantic", semantic, wanted, SHOWN), column("semantic", semantic, "full_text", fullText, wanted, SHOWN)),
    );
  }

  return {
    show() {
      names().then(() => (shared.server ? box.value.trim() || welcome() : run()));
      // Only when opened by its address: with the keyboard on the tabs, the focus stays there.
      if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) box.focus();
    },
    hide() {},
    reset() {
      names();
      if (box.value.trim()) run();
    },
  };
}

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
