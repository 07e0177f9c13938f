// Shows the hits of a search with the parts of their scores, and two rankings side by side.

import { el, figureRow, fold, say, table } from "./dom.js";
import { parts, total } from "./rank.js";
import { excerpt, marked } from "./words.js";

export const NAMES = { full_text: "Full text", semantic: "Semantic" };
// Common columns for a row's name and its text.
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

/** One hit. Its texts never change, only its position and its score. */
export function makeHit(hit, wanted) {
  const bars = Object.fromEntries(["full_text", "semantic", "rest"].map((name) => [name, el("i", { class: name })]));
  const bar = el("div", { class: "split", role: "img" }, Object.values(bars));
  const rows = el("tbody");
  const text = textOf(hit[BODIES.find((name) => hit[name])]);
  const chips = CHIPS.filter((name) => hit[name]).map((name) => el("span", { class: "chip" }, textOf(hit[name])));
  const whole = el("p", { class: "body" });
  const showText = () => why.open && !whole.hasChildNodes() && whole.append(...marked(text, wanted));
  const scores = table("numbers", ["part", "rank", "score", "weight", "weighted"], rows);
  const id = el("p", { class: "dim" }, "id ", el("code", null, hit.id));
  const why = fold("Score and text", [scores, whole, id], { class: "why", ontoggle: showText });
  const title = el("h3", null, marked(labelOf(hit), wanted), " ", chips);
  const found = [title, el("p", { class: "snippet" }, marked(excerpt(text, wanted), wanted)), why];
  const node = line(hit, found, bar);
  const [place, , { firstChild: value }] = node.children;

  return {
    node,
    update(number, changed, weights, top) {
      const now = parts(changed, weights);
      say(place, String(number));
      say(value, total(now).toFixed(3));
      for (const [name, part] of Object.entries(bars)) part.style.setProperty("--share", Math.max(0, now[name]) / top);
      const other = now.rest ? `, other ${now.rest.toFixed(3)}` : "";
      bar.setAttribute("aria-label", `full text ${now.full_text.toFixed(3)}, semantic ${now.semantic.toFixed(3)}${other}`);
      const row = (name, rank, score, weight, weighted) =>
        figureRow(name, [rank === null ? "–" : `#${rank}`, score === null ? "–" : score.toFixed(4), weight.toFixed(2), weighted.toFixed(4)]);
      rows.replaceChildren(
        ...["full_text", "semantic"].map((name) => row(NAMES[name], changed[`${name}_rank`], changed[`${name}_score`], weights[name], now[name])),
        now.rest ? row("Age and static score", null, now.rest, 1, now.rest) : "",
      );
    },
  };
}

/** A hit in a list: its position, its content, and its score above a bar. */
const line = (hit, found, bar, place, score) =>
  el(
    "li",
    { "data-id": hit.id },
    el("span", { class: "place" }, place),
    el("div", { class: "found" }, found),
    el("div", { class: "scored" }, el("b", { class: "score" }, score), bar),
  );

/** The hits of one ranking; each shows its position in the other ranking. */
export function column(name, own, otherName, other, wanted, shown) {
  const ranks = new Map(other.hits.map((hit, place) => [hit.id, place + 1]));
  const title = `${NAMES[name]} only`;
  const lines = own.hits.slice(0, shown).map((hit, place) => {
    const score = hit[`${name}_score`] ?? 0;
    const bar = el("div", { class: "split", "aria-hidden": "true" }, el("i", { class: name, vars: { "--share": score } }));
    const elsewhere = `${ranks.has(hit.id) ? `#${ranks.get(hit.id)}` : "not"} in the ${NAMES[otherName].toLowerCase()} ranking`;
    const found = [el("h4", null, marked(labelOf(hit), wanted)), el("p", { class: "dim" }, elsewhere)];
    return line(hit, found, bar, String(place + 1), score.toFixed(3));
  });
  const list = lines.length ? el("ol", { class: "hits" }, lines) : el("p", { class: "dim" }, "nothing found");
  return el("section", { "aria-label": title }, el("h3", null, title), list);
}
