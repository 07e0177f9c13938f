// The results of a search: one hit with its score in parts, and the hits of one ranking beside another.

import { el, say } from "./dom.js";
import { parts } from "./rank.js";
import { excerpt, marked } from "./words.js";

export const NAMES = { full_text: "Full text", semantic: "Semantic" };
// Where a row's name and its text are, by the columns that collections commonly have.
const LABELS = ["topic", "title", "tag_name", "name", "path"];
const BODIES = ["content", "description", "text", "body", "synonyms"];
const CHIPS = ["category", "tag_type", "language", "tags", "source"];

const labelOf = (hit) => textOf(hit[LABELS.find((name) => hit[name])] ?? hit.id);

function textOf(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  if (typeof value === "object") return Object.values(value).map(textOf).filter(Boolean).join(" · ");
  return String(value);
}

export const total = ({ full_text, semantic, rest }) => full_text + semantic + rest;

/** One result. Its texts never change, its place and its score do. */
export function makeHit(hit, wanted) {
  const place = el("span", { class: "place" });
  const bars = Object.fromEntries(["full_text", "semantic", "rest"].map((name) => [name, el("i", { class: name })]));
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
        el("thead", null, el("tr", null, ["part", "rank", "score", "weight", "weighted"].map((head) => el("th", { scope: "col" }, head)))),
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
      bar.setAttribute("aria-label", `full text ${now.full_text.toFixed(3)}, semantic ${now.semantic.toFixed(3)}${now.rest ? `, other ${now.rest.toFixed(3)}` : ""}`);
      const rows = [
        [NAMES.full_text, changed.full_text_rank, changed.full_text_score, weights.full_text, now.full_text],
        [NAMES.semantic, changed.semantic_rank, changed.semantic_score, weights.semantic, now.semantic],
      ];
      if (now.rest) rows.push(["Age and static score", null, now.rest, 1, now.rest]);
      table.replaceChildren(
        ...rows.map(([name, rank, score, weight, weighted]) =>
          el(
            "tr",
            null,
            el("th", { scope: "row" }, name),
            [rank === null ? "–" : `#${rank}`, score === null ? "–" : score.toFixed(4), weight.toFixed(2), weighted.toFixed(4)].map((cell) => el("td", { class: "number" }, cell)),
          ),
        ),
      );
    },
  };
}

/** The hits of one ranking; each says at which place the other ranking has it. */
export function column(name, own, otherName, other, wanted, shown) {
  const ranks = new Map(other.hits.map((hit, place) => [hit.id, place + 1]));
  const title = `${NAMES[name]} only`;
  const score = `${name}_score`;
  const elsewhere = (place) => (place ? `#${place} in ${NAMES[otherName].toLowerCase()}` : `not in ${NAMES[otherName].toLowerCase()}`);
  const lines = own.hits.slice(0, shown).map((hit, place) => {
    const bar = el("div", { class: "split", "aria-hidden": "true" }, el("i", { class: name, vars: { "--share": hit[score] ?? 0 } }));
    return el(
      "li",
      { "data-id": hit.id },
      el("span", { class: "place" }, String(place + 1)),
      el("div", { class: "found" }, el("h4", null, marked(labelOf(hit), wanted)), el("p", { class: "dim" }, elsewhere(ranks.get(hit.id)))),
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
