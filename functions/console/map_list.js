// Shows the rows of the map as a list, for keyboards and screen readers.

import { button, el, fold } from "./dom.js";
import { swatch } from "./shapes.js";

const LISTED = 60;

/** `choose(point, pressed)` is called for the row that has the focus or was pressed. */
export function makeList(choose) {
  let points = [];
  let hits = new Map();
  let limit = LISTED;
  const narrow = el("input", { type: "search", "aria-label": "Narrow the list", placeholder: "narrow the list", oninput: draw });
  const items = el("ul", { class: "rows" });
  const foot = el("p");
  const node = fold("The rows as a list", [narrow, items, foot], { ontoggle: draw });

  function draw() {
    if (!node.open) return;
    const wanted = narrow.value.toLowerCase();
    const rows = points.filter((point) => (!hits.size || hits.has(point.id)) && `${point.label}`.toLowerCase().includes(wanted));
    rows.sort(hits.size ? (a, b) => hits.get(a.id) - hits.get(b.id) : (a, b) => a.kind - b.kind || (`${a.label}` < `${b.label}` ? -1 : 1));
    items.replaceChildren(
      ...rows.slice(0, limit).map((point) => {
        const line = button(point.label ?? point.id, () => choose(point, true), { onfocus: () => choose(point, false) });
        return el("li", null, swatch(point.kind), line, el("span", { class: "dim" }, point.category ?? ""));
      }),
    );
    const more = rows.length - limit;
    foot.replaceChildren(more > 0 ? button(`Show ${Math.min(more, LISTED)} more`, () => ((limit += LISTED), draw())) : "");
  }

  return {
    node,
    show(newPoints, newHits) {
      [points, hits, limit] = [newPoints, newHits, LISTED];
      draw();
    },
  };
}
