// A collection in two dimensions. The points are drawn once; hovering and searching draw on a second canvas above them.

import { call, newest, path } from "./api.js";
import { button, count, el, oncePerFrame, percent, plural, say } from "./dom.js";
import { failure, loading, note, nothingToSearch } from "./states.js";
import { DEFAULT_WEIGHTS, ask, collectionSelect } from "./search.js";
import { makeList } from "./map_list.js";
import { COLOURS, palette as coloursNow, swatch, trace } from "./shapes.js";

const CELL = 28;
const REACH = 14;
const MARGIN = 24;
const TYPING_MS = 150;
const MOST_ZOOM = 12;
// A category keeps its colour while the page is open, whatever a backfill adds.
const kinds = {};

export function mountMap(panel, shared) {
  const { select, names } = collectionSelect(shared, { id: "map-collection", onchange: () => load() }, "music_knowledge");
  const colour = el("select", { id: "map-category", onchange: () => load(colour.value) });
  const box = el("input", { type: "search", id: "map-query", placeholder: "find rows on the map", autocomplete: "off", maxlength: 2000 });
  const status = el("p", { class: "dim status", role: "status" });
  const base = el("canvas", { role: "img", id: "map-points" });
  const over = el("canvas", { class: "over", "aria-hidden": "true", id: "map-overlay" });
  const tip = el("div", { class: "tip", hidden: true });
  const zooms = el(
    "div",
    { class: "zooms" },
    button("+", () => zoomBy(1.6), { "aria-label": "Zoom in" }),
    button("−", () => zoomBy(1 / 1.6), { "aria-label": "Zoom out" }),
    button("Fit", () => ((view.zoom = 1), zoomBy(1)), { "aria-label": "Fit all points" }),
  );
  const stage = el("div", { class: "stage" }, base, over, tip, zooms);
  const legend = el("ul", { class: "legend shapes" });
  const list = makeList((point, pressed) => {
    choose(point);
    if (pressed) stage.scrollIntoView({ block: "nearest" });
  });
  const place = el("div", { class: "map-body" });
  const colourLabel = el("label", { hidden: true }, "coloured by ", colour);
  panel.append(
    el("h2", { class: "sr" }, "Map"),
    el(
      "form",
      { class: "searchbar", role: "search", onsubmit: (event) => (event.preventDefault(), search()) },
      el("label", null, el("span", { class: "sr" }, "Collection"), select),
      colourLabel,
      el("label", { class: "grow" }, el("span", { class: "sr" }, "Find rows on the map"), box),
    ),
    status,
    place,
  );

  let points = [];
  let described = "";
  let hits = new Map();
  let chosen = null;
  let view = { zoom: 1, x: 0, y: 0 };
  let grid = null;
  let palette = [];
  let size = { width: 0, height: 0 };
  let loaded = null;
  let typing = null;
  const redraw = oncePerFrame(draw);
  const latestMap = newest();
  const latestSearch = newest();

  new ResizeObserver(() => points.length && draw()).observe(stage);
  addEventListener("themechange", () => points.length && draw());
  box.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, TYPING_MS);
  });
  hoverable();

  async function load(category) {
    const collection = select.value;
    if (!collection) {
      if (shared.server) place.replaceChildren(nothingToSearch());
      return;
    }
    loaded = collection;
    if (!points.length) place.replaceChildren(loading());
    try {
      const columns = await columnsOf(collection);
      // Coloured by the first column with few values, until another is chosen; "" is none.
      const by = category ?? columns[0] ?? "";
      const query = new URLSearchParams({ limit: 2000 });
      if (by) query.set("category", by);
      const map = await latestMap((signal) => call(`${path("collections", collection, "map")}?${query}`, { signal }));
      if (!map) return;
      colour.replaceChildren(...columns.map((name) => el("option", { value: name }, name)), el("option", { value: "" }, "nothing"));
      colour.value = map.category ?? "";
      colourLabel.hidden = !columns.length;
      show(map);
      if (box.value.trim()) search();
    } catch (error) {
      points = [];
      loaded = null;
      say(status, "");
      place.replaceChildren(failure(error));
    }
  }

  async function columnsOf(collection) {
    const { collections } = await call("/api/collections");
    return collections.find((one) => one.collection === collection)?.category_columns ?? [];
  }

  function show(map) {
    points = map.points;
    hits = new Map();
    chosen = null;
    view = { zoom: 1, x: 0, y: 0 };
    if (!points.length) {
      say(status, "");
      place.replaceChildren(note("No vectors to draw yet", `${map.collection} shows up here once rows of it are embedded: Coverage, “Embed now”.`));
      return;
    }
    const counted = new Map();
    for (const { category } of points) counted.set(category, (counted.get(category) ?? 0) + 1);
    const kind = (kinds[`${map.collection} ${map.category}`] ??= new Map());
    for (const name of [...counted.keys()].sort()) if (!kind.has(name)) kind.set(name, kind.size);
    const categories = [...counted.keys()].sort((a, b) => counted.get(b) - counted.get(a) || kind.get(a) - kind.get(b));
    for (const point of points) point.kind = map.category ? kind.get(point.category) : 0;
    legend.hidden = !map.category;
    legend.replaceChildren(
      ...categories.map((name) => el("li", null, swatch(kind.get(name)), el("span", null, name ?? "none"), el("b", null, count(counted.get(name))))),
    );
    const [first, second] = map.explained;
    const sampled = map.total > points.length ? `${count(points.length)} of ${plural(map.total, "row")}, a fixed sample` : plural(points.length, "row");
    described = `${sampled} · ${map.model} · the map shows ${percent(first + second, 1)} of the differences between the vectors`;
    say(status, described);
    base.setAttribute("aria-label", `${plural(points.length, "point")} of ${map.collection}, similar ones near each other; the list below names them`);
    place.replaceChildren(stage, legend, list.node);
    draw();
    list.show(points, hits);
  }

  // Drawing. `base` is drawn when the data, the size, the theme or the view changes; `over` whenever something is pointed at.

  function draw() {
    const box = stage.getBoundingClientRect();
    if (!box.width) return;
    size = { width: box.width, height: box.height };
    for (const canvas of [base, over]) {
      const ratio = devicePixelRatio || 1;
      const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    palette = coloursNow();
    grid = new Map();
    const context = base.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    const radius = radiusOf();
    const kinds = new Map();
    for (const point of points) {
      [point.px, point.py] = project(point);
      const cell = cellOf(point.px, point.py);
      if (!grid.has(cell)) grid.set(cell, []);
      grid.get(cell).push(point);
      if (!kinds.has(point.kind)) kinds.set(point.kind, []);
      kinds.get(point.kind).push(point);
    }
    for (const [kind, some] of kinds) {
      // One path a kind: 2,000 points are a few fills.
      context.beginPath();
      for (const point of some) trace(context, kind, point.px, point.py, radius);
      context.fillStyle = palette[kind % COLOURS];
      context.globalAlpha = 0.85;
      context.fill();
    }
    base.dataset.points = points.length;
    base.dataset.draws = Number(base.dataset.draws ?? 0) + 1;
    drawOver();
  }

  function drawOver() {
    const context = over.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    const radius = radiusOf();
    if (hits.size) {
      context.globalAlpha = 0.82;
      context.fillStyle = getComputedStyle(stage).backgroundColor;
      context.fillRect(0, 0, size.width, size.height);
      for (const point of points) {
        if (!hits.has(point.id)) continue;
        // The best are the largest.
        dot(context, point, radius * (1 + 0.9 / Math.sqrt(hits.get(point.id))) + 1);
      }
    }
    if (chosen) {
      dot(context, chosen, radius + 2);
      context.beginPath();
      context.arc(chosen.px, chosen.py, radius + 6, 0, 2 * Math.PI);
      context.lineWidth = 2;
      context.strokeStyle = getComputedStyle(stage).color;
      context.stroke();
    }
    over.dataset.lit = points.filter((point) => hits.has(point.id)).length;
    over.dataset.draws = Number(over.dataset.draws ?? 0) + 1;
  }

  function dot(context, point, radius) {
    context.globalAlpha = 1;
    context.fillStyle = palette[point.kind % COLOURS];
    context.beginPath();
    trace(context, point.kind, point.px, point.py, radius);
    context.fill();
  }

  const radiusOf = () => (points.length > 600 ? 3 : 4.5) * Math.min(1.8, Math.sqrt(view.zoom));
  const cellOf = (x, y) => `${Math.floor(x / CELL)},${Math.floor(y / CELL)}`;

  function project({ x, y }) {
    const wide = (size.width - 2 * MARGIN) / 2;
    const high = (size.height - 2 * MARGIN) / 2;
    return [size.width / 2 + (x - view.x) * wide * view.zoom, size.height / 2 - (y - view.y) * high * view.zoom];
  }

  // Pointing

  function near(x, y) {
    let best = null;
    let distance = REACH * REACH;
    for (const dx of [-CELL, 0, CELL]) {
      for (const dy of [-CELL, 0, CELL]) {
        for (const point of grid?.get(cellOf(x + dx, y + dy)) ?? []) {
          if (hits.size && !hits.has(point.id)) continue;
          const apart = (point.px - x) ** 2 + (point.py - y) ** 2;
          if (apart < distance) [best, distance] = [point, apart];
        }
      }
    }
    return best;
  }

  function choose(point) {
    if (point === chosen) return;
    chosen = point;
    drawOver();
    tip.hidden = !point;
    over.classList.toggle("pointing", Boolean(point));
    if (!point) return;
    tip.replaceChildren(el("b", null, point.label ?? point.id), point.category === null ? "" : el("span", null, String(point.category)), hits.has(point.id) ? el("span", { class: "dim" }, `#${hits.get(point.id)} of the search`) : "");
    const right = point.px > size.width / 2;
    const below = point.py < size.height / 2;
    tip.style.setProperty("--x", `${point.px}px`);
    tip.style.setProperty("--y", `${point.py}px`);
    tip.className = `tip ${right ? "left" : "right"} ${below ? "below" : "above"}`;
  }

  function hoverable() {
    let dragged = null;
    over.addEventListener("pointermove", (event) => {
      if (dragged) {
        const wide = ((size.width - 2 * MARGIN) / 2) * view.zoom;
        const high = ((size.height - 2 * MARGIN) / 2) * view.zoom;
        view.x = clamp(dragged.x - (event.clientX - dragged.left) / wide);
        view.y = clamp(dragged.y + (event.clientY - dragged.top) / high);
        redraw();
        return;
      }
      const { left, top } = over.getBoundingClientRect();
      choose(near(event.clientX - left, event.clientY - top));
    });
    over.addEventListener("pointerleave", () => !dragged && choose(null));
    over.addEventListener("pointerdown", (event) => {
      if (view.zoom === 1) return;
      dragged = { left: event.clientX, top: event.clientY, x: view.x, y: view.y };
      over.setPointerCapture(event.pointerId);
      choose(null);
    });
    for (const end of ["pointerup", "pointercancel"]) over.addEventListener(end, () => (dragged = null));
    over.addEventListener(
      "wheel",
      (event) => {
        // A plain wheel scrolls the page; with Ctrl, as a pinch on a touchpad sends it, it zooms.
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        zoomBy(Math.exp(-event.deltaY / 200), event);
      },
      { passive: false },
    );
  }

  const clamp = (number) => Math.max(-1, Math.min(1, number));

  function zoomBy(factor, event) {
    const zoom = Math.max(1, Math.min(MOST_ZOOM, view.zoom * factor));
    if (event) {
      const { left, top } = over.getBoundingClientRect();
      const wide = (size.width - 2 * MARGIN) / 2;
      const high = (size.height - 2 * MARGIN) / 2;
      // What is under the pointer stays there.
      view.x = clamp(view.x + ((event.clientX - left - size.width / 2) / wide) * (1 / view.zoom - 1 / zoom));
      view.y = clamp(view.y - ((event.clientY - top - size.height / 2) / high) * (1 / view.zoom - 1 / zoom));
    }
    view.zoom = zoom;
    if (zoom === 1) Object.assign(view, { x: 0, y: 0 });
    over.classList.toggle("zoomed", zoom > 1);
    choose(null);
    redraw();
  }

  async function search() {
    clearTimeout(typing);
    const query = box.value.trim();
    if (!query || !points.length) {
      latestSearch(async () => null);
      hits = new Map();
      if (points.length) {
        say(status, described);
        drawOver();
        list.show(points, hits);
      }
      return;
    }
    try {
      const answer = await latestSearch((signal) => ask(loaded, query, DEFAULT_WEIGHTS, signal));
      if (!answer) return;
      hits = new Map(answer.hits.slice(0, 20).map((hit, index) => [hit.id, index + 1]));
      choose(null);
      drawOver();
      say(status, `${described} · ${over.dataset.lit} of the best ${plural(hits.size, "hit")} are on the map`);
      list.show(points, hits);
    } catch (error) {
      say(status, error.message);
    }
  }

  return {
    async show() {
      await names();
      if (!loaded) load();
      else draw();
    },
    hide() {
      clearTimeout(typing);
    },
    async reset(now) {
      await names();
      loaded = null;
      if (now) load();
    },
  };
}
