// Searches while the user types. An answer has both parts of every score, so the sliders change the order without a request.

import { newest, path, post } from "./api.js";
import { afterTyping, button, choices, el, labelled, plural, say, searchbar, segments } from "./dom.js";
import { NAMES, column, makeHit } from "./hits.js";
import { isCertain, parts, rerank, total } from "./rank.js";
import { DEGRADED, failure, note, nothingToSearch } from "./states.js";
import { stems } from "./words.js";

export const WANTED = 50;
const SHOWN = 10;
export const DEFAULT_WEIGHTS = { full_text: 0.3, semantic: 0.7 };

/** Search on the server. The request has no key, so the search runs as `anon`. */
export async function ask(collection, query, weights, signal, wanted = WANTED) {
  const body = { query, match_count: wanted, full_text_weight: weights.full_text, semantic_weight: weights.semantic };
  const answer = await post(path("search", collection), body, { signal, keyed: false });
  return { ...answer, collection, query, weights: { ...weights }, wanted };
}

/** A select of the searchable collections, filled from the server's answer. */
export function collectionSelect(shared, attributes, preferred) {
  const select = el("select", attributes);
  const names = async () => {
    await shared.ready;
    const known = shared.server?.searchable ?? [];
    if (select.options.length || !known.length) return;
    select.append(...choices(known.map((name) => [name, name])));
    if (known.includes(preferred)) select.value = preferred;
  };
  return { select, names };
}

export function mount(panel, shared) {
  const typed = { autocomplete: "off", spellcheck: "false", maxlength: 2000, enterkeyhint: "search" };
  const box = el("input", { type: "search", id: "query", placeholder: "why does my vocal sound boomy up close", ...typed });
  const { select, names } = collectionSelect(shared, { id: "search-collection" }, "music_knowledge");
  const weights = { ...DEFAULT_WEIGHTS };
  const sliders = { full_text: slider("full_text"), semantic: slider("semantic") };
  const usual = button("Reset", () => setWeights(DEFAULT_WEIGHTS), { class: "quiet", hidden: true, "aria-label": "Reset the weights" });
  const modes = segments("Ranking", [["hybrid", "Hybrid"], ["apart", "Side by side"]], "hybrid", setMode);
  const status = el("p", { class: "dim status", role: "status" });
  const warning = el("p", { class: "notice", role: "alert", hidden: true });
  const results = el("div", { class: "results" });
  const list = el("ol", { class: "hits", "aria-label": "Results" });
  const more = el("p", { class: "more" });
  const controls = el("div", { class: "weights" }, sliders.full_text.node, sliders.semantic.node, usual);
  panel.append(
    el("h2", { class: "sr" }, "Search"),
    searchbar(run, labelled("Search for", box, "grow"), labelled("in the collection", select)),
    el("div", { class: "controls" }, controls, modes),
    el("div", { class: "row" }, status),
    warning,
    results,
  );

  const latest = newest();
  const typing = afterTyping(run);
  let answer = null;
  let limit = SHOWN;
  let apart = false;
  let asking = 0;
  let items = new Map();

  box.addEventListener("input", typing.later);
  select.addEventListener("change", run);
  welcome();

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
    typing.cancel();
    if (!isCertain(answer, weights, limit)) typing.later();
  }

  function setMode(name) {
    apart = name === "apart";
    controls.classList.toggle("off", apart);
    for (const { input } of Object.values(sliders)) input.disabled = apart;
    run();
  }

  function welcome() {
    answer = null;
    warning.hidden = true;
    say(status, "");
    const text = "Hybrid search ranks rows by full text and by semantic similarity. Each bar shows the two parts of a score; the sliders change their weights.";
    const none = shared.server?.searchable.length === 0;
    results.replaceChildren(none ? nothingToSearch() : note("Type a question or a few words", text));
  }

  async function run() {
    typing.cancel();
    const query = box.value.trim();
    const collection = select.value;
    if (!query) {
      latest.stop();
      return welcome();
    }
    if (!collection) {
      await names();
      return select.value ? run() : welcome();
    }
    asking += 1;
    panel.setAttribute("aria-busy", "true");
    try {
      if (apart) {
        const alone = [{ full_text: 1, semantic: 0 }, { full_text: 0, semantic: 1 }];
        const pair = await latest((signal) => Promise.all(alone.map((one) => ask(collection, query, one, signal))));
        if (pair) showApart(...pair);
      } else {
        const fresh = await latest((signal) => ask(collection, query, weights, signal));
        if (!fresh) return;
        if (fresh.query !== answer?.query || collection !== answer?.collection) {
          limit = SHOWN;
          items = new Map();
        }
        // The sliders may have moved since the request.
        answer = fresh;
        showHybrid();
        if (!isCertain(answer, weights, limit)) typing.later();
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
    const found = hits.length === wanted ? `the best ${hits.length} rows` : plural(hits.length, "row");
    say(status, hits.length ? `${found} · ${took_ms} ms` : "");
    warning.hidden = !degraded;
    say(warning, degraded ? `${DEGRADED} Semantic search works again when the provider answers.` : "");
    if (hits.length) return false;
    const why = "An empty collection has no hits. Semantic search does not find rows that are not embedded yet. See ";
    results.replaceChildren(
      note("Nothing found", `Neither full-text search nor semantic search found a row of ${collection}.`),
      el("p", { class: "dim" }, why, el("a", { href: "#/coverage" }, "Coverage"), "."),
    );
    return true;
  }

  function showHybrid() {
    if (tell(answer)) return;
    const wanted = stems(answer.query);
    const ranked = rerank(answer.hits, weights);
    const top = total(parts(ranked[0], weights)) || 1;
    const shown = ranked.slice(0, limit).map((hit, place) => {
      if (!items.has(hit.id)) items.set(hit.id, makeHit(hit, wanted));
      const item = items.get(hit.id);
      item.update(place + 1, hit, weights, top);
      return item.node;
    });
    if (list.parentNode !== results) results.replaceChildren(list, more);
    glide(list, shown);
    const left = ranked.length - shown.length;
    more.replaceChildren(left > 0 ? button(`Show ${left} more`, () => ((limit = WANTED), showHybrid())) : "");
  }

  function showApart(fullText, semantic) {
    const hits = [...fullText.hits, ...semantic.hits];
    if (tell({ ...fullText, hits, degraded: semantic.degraded, wanted: Infinity })) return;
    say(status, `full text ${fullText.took_ms} ms · semantic ${semantic.took_ms} ms`);
    answer = null;
    items = new Map();
    const wanted = stems(fullText.query);
    const columns = [
      column("full_text", fullText, "semantic", semantic, wanted, SHOWN),
      column("semantic", semantic, "full_text", fullText, wanted, SHOWN),
    ];
    results.replaceChildren(el("div", { class: "pair" }, columns));
  }

  return {
    show() {
      names().then(() => (shared.server ? box.value.trim() || welcome() : run()));
      // Focus the box only if the address opened the panel: a user who moves between the tabs by keyboard stays on the tabs.
      if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) box.focus();
    },
    reset() {
      names();
      if (box.value.trim()) run();
    },
  };
}

/** Order the items of the list; each moves from its old position with an animation. */
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
