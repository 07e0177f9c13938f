// Shows a collection in two dimensions. The points are drawn once; hovering and searching draw on a second canvas above them.

import { call, newest, path } from "./api.js";
import { afterTyping, button, choices, count, el, labelled, oncePerFrame, percent, plural, say, searchbar } from "./dom.js";
import { failure, loading, note, nothingToSearch } from "./states.js";
import { DEFAULT_WEIGHTS, ask, collectionSelect } from "./search.js";
import { makeList } from "./map_list.js";
import { COLOURS, palette as coloursNow, swatch, trace } from "./shapes.js";

const CELL = 28;
const REACH = 14;
const MARGIN = 24;
const MOST_ZOOM = 12;
const WHOLE = { zoom: 1, x: 0, y: 0 };
// A category keeps its colour while the page is open, also when a backfill adds rows.
const kinds = {};

export function mount(panel, shared) {
  const { select, names } = collectionSelect(shared, { id: "map-collection", onchange: () => load() }, "music_knowledge");
  const colour = el("select", { id: "map-category", onchange: () => load(colour.value) });
  const typed = { autocomplete: "off", maxlength: 2000 };
  const box = el("input", { type: "search", id: "map-query", placeholder: "find rows on the map", ...typed });
  const status = el("p", { class: "dim status", role: "status" });
  const base = el("canvas", { role: "img", id: "map-points" });
  const over = el("canvas", { class: "over", "aria-hidden": "true", id: "map-overlay" });
  const tip = el("div", { class: "tip", hidden: true });
  const zooms = [
    button("+", () => zoomBy(1.6), { "aria-label": "Zoom in" }),
    button("−", () => zoomBy(1 / 1.6), { "aria-label": "Zoom out" }),
    button("Fit", () => zoomBy(0), { "aria-label": "Fit all points" }),
  ];
  const stage = el("div", { class: "stage" }, base, over, tip, el("div", { class: "zooms" }, zooms));
  const legend = el("ul", { class: "legend shapes" });
  const list = makeList((point, pressed) => {
    choose(point);
    if (pressed) stage.scrollIntoView({ block: "nearest" });
  });
  const place = el("div", { class: "map-body" });
  const colourLabel = el("label", { hidden: true }, "coloured by ", colour);
  panel.append(
    el("h2", { class: "sr" }, "Map"),
    searchbar(search, labelled("Collection", select), colourLabel, labelled("Find rows on the map", box, "grow")),
    status,
    place,
  );

  let points = [];
  let described = "";
  let hits = new Map();
  let chosen = null;
  let view = { ...WHOLE };
  let grid = null;
  let palette = [];
  let size = { width: 0, height: 0 };
  let loaded = null;
  const typing = afterTyping(search);
  const redraw = oncePerFrame(draw);
  const latestMap = newest();
  const latestSearch = newest();

  new ResizeObserver(() => points.length && draw()).observe(stage);
  addEventListener("themechange", () => points.length && draw());
  box.addEventListener("input", typing.later);
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
      // The points are coloured by the first column with few values until the user chooses another; "" is none.
      const by = category ?? columns[0] ?? "";
      const query = new URLSearchParams({ limit: 2000, ...(by && { category: by }) });
      const map = await latestMap((signal) => call(`${path("collections", collection, "map")}?${query}`, { signal }));
      if (!map) return;
      colour.replaceChildren(...choices([...columns.map((name) => [name, name]), ["", "nothing"]]));
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
    view = { ...WHOLE };
    if (!points.length) {
      const text = `The map needs embedded rows of ${map.collection}. Open Coverage and choose “Embed now”.`;
      say(status, "");
      place.replaceChildren(note("No vectors to draw yet", text));
      return;
    }
    showLegend(map);
    const [first, second] = map.explained;
    const sampled = map.total > points.length ? `${count(points.length)} of ${plural(map.total, "row")}, a fixed sample` : plural(points.length, "row");
    described = `${sampled} · ${map.model} · the two axes show ${percent(first + second, 1)} of the variance of the vectors`;
    say(status, described);
    base.setAttribute("aria-label", `${plural(points.length, "point")} of ${map.collection}; similar points are near each other; the list below names them`);
    place.replaceChildren(stage, legend, list.node);
    draw();
    list.show(points, hits);
  }

  function showLegend({ collection, category: column }) {
    const counted = new Map();
    for (const { category } of points) counted.set(category, (counted.get(category) ?? 0) + 1);
    const kind = (kinds[`${collection} ${column}`] ??= new Map());
    for (const name of [...counted.keys()].sort()) if (!kind.has(name)) kind.set(name, kind.size);
    for (const point of points) point.kind = column ? kind.get(point.category) : 0;
    const ordered = [...counted].sort(([a, some], [b, others]) => others - some || kind.get(a) - kind.get(b));
    const line = ([name, rows]) => el("li", null, swatch(kind.get(name)), el("span", null, name ?? "none"), el("b", null, count(rows)));
    legend.hidden = !column;
    legend.replaceChildren(...ordered.map(line));
  }

  // Drawing. `base` is drawn when the data, the size, the theme or the view changes; `over` also when the pointer moves.

  function draw() {
    size = stage.getBoundingClientRect();
    if (!size.width) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
    for (const canvas of [base, over]) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    palette = coloursNow();
    const context = cleared(base);
    const [wide, high] = reach();
    for (const point of points) {
      point.px = size.width / 2 + (point.x - view.x) * wide;
      point.py = size.height / 2 - (point.y - view.y) * high;
    }
    grid = grouped(points, ({ px, py }) => cellOf(px, py));
    context.globalAlpha = 0.85;
    // One path for each kind, so that 2,000 points need only a few fills.
    for (const some of grouped(points, (point) => point.kind).values()) paint(context, some, radiusOf());
    base.dataset.points = points.length;
    base.dataset.draws = Number(base.dataset.draws ?? 0) + 1;
    drawOver();
  }

  function cleared(canvas) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size.width, size.height);
    context.globalAlpha = 1;
    return context;
  }

  /** Fill the shapes of points of one kind. */
  function paint(context, some, radius) {
    context.fillStyle = palette[some[0].kind % COLOURS];
    context.beginPath();
    for (const point of some) trace(context, point.kind, point.px, point.py, radius);
    context.fill();
  }

  function drawOver() {
    const context = cleared(over);
    const radius = radiusOf();
    const lit = points.filter((point) => hits.has(point.id));
    if (hits.size) {
      context.globalAlpha = 0.82;
      context.fillStyle = getComputedStyle(stage).backgroundColor;
      context.fillRect(0, 0, size.width, size.height);
      context.globalAlpha = 1;
      // The best hits have the largest points.
      for (const point of lit) paint(context, [point], radius * (1 + 0.9 / Math.sqrt(hits.get(point.id))) + 1);
    }
    if (chosen) {
      paint(context, [chosen], radius + 2);
      context.beginPath();
      context.arc(chosen.px, chosen.py, radius + 6, 0, 2 * Math.PI);
      context.lineWidth = 2;
      context.strokeStyle = getComputedStyle(stage).color;
      context.stroke();
    }
    over.dataset.lit = lit.length;
    over.dataset.draws = Number(over.dataset.draws ?? 0) + 1;
  }

  const radiusOf = () => (points.length > 600 ? 3 : 4.5) * Math.min(1.8, Math.sqrt(view.zoom));
  const cellOf = (x, y) => `${Math.floor(x / CELL)},${Math.floor(y / CELL)}`;

  /** How many pixels lie between the middle of the map and its edges, where x and y are 1. */
  const reach = (zoom = view.zoom) => [size.width, size.height].map((length) => (length / 2 - MARGIN) * zoom);

  // The pointer

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
    const rank = hits.has(point.id) ? el("span", { class: "dim" }, `hit #${hits.get(point.id)} of the search`) : "";
    const category = point.category === null ? "" : el("span", null, String(point.category));
    tip.replaceChildren(el("b", null, point.label ?? point.id), category, rank);
    tip.style.setProperty("--x", `${point.px}px`);
    tip.style.setProperty("--y", `${point.py}px`);
    tip.className = `tip ${point.px > size.width / 2 ? "left" : "right"} ${point.py < size.height / 2 ? "below" : "above"}`;
  }

  function hoverable() {
    let dragged = null;
    over.addEventListener("pointermove", (event) => {
      if (dragged) {
        const [wide, high] = reach();
        view.x = clamp(dragged.view.x - (event.clientX - dragged.from.clientX) / wide);
        view.y = clamp(dragged.view.y + (event.clientY - dragged.from.clientY) / high);
        redraw();
      } else choose(near(...within(event)));
    });
    over.addEventListener("pointerleave", () => !dragged && choose(null));
    over.addEventListener("pointerdown", (event) => {
      if (view.zoom === 1) return;
      dragged = { from: event, view: { ...view } };
      over.setPointerCapture(event.pointerId);
      choose(null);
    });
    for (const end of ["pointerup", "pointercancel"]) over.addEventListener(end, () => (dragged = null));
    const onwheel = (event) => {
      // The wheel scrolls the page. With Ctrl, or a pinch on a touchpad (sent as Ctrl), it zooms.
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY / 200), event);
    };
    over.addEventListener("wheel", onwheel, { passive: false });
  }

  const clamp = (number) => Math.max(-1, Math.min(1, number));

  /** The place on the map where an event happened. */
  function within(event) {
    const { left, top } = over.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  function zoomBy(factor, event) {
    const zoom = Math.max(1, Math.min(MOST_ZOOM, view.zoom * factor));
    if (event) {
      // Keep the point under the pointer at its place.
      const [x, y] = within(event);
      const [wide, high] = reach(1);
      const change = 1 / view.zoom - 1 / zoom;
      view.x = clamp(view.x + ((x - size.width / 2) / wide) * change);
      view.y = clamp(view.y - ((y - size.height / 2) / high) * change);
    }
    view = zoom === 1 ? { ...WHOLE } : { ...view, zoom };
    over.classList.toggle("zoomed", zoom > 1);
    choose(null);
    redraw();
  }

  async function search() {
    typing.cancel();
    const query = box.value.trim();
    latestSearch.stop();
    if (!points.length) return;
    if (!query) return light(new Map(), described);
    try {
      const answer = await latestSearch((signal) => ask(loaded, query, DEFAULT_WEIGHTS, signal));
      if (!answer) return;
      choose(null);
      light(new Map(answer.hits.slice(0, 20).map((hit, index) => [hit.id, index + 1])));
      say(status, `${described} · ${over.dataset.lit} of the best ${plural(hits.size, "hit")} are on the map`);
    } catch (error) {
      say(status, error.message);
    }
  }

  /** Show the hits of a search at their places. */
  function light(found, text) {
    hits = found;
    drawOver();
    list.show(points, hits);
    if (text) say(status, text);
  }

  return {
    async show() {
      await names();
      if (!loaded) load();
      else draw();
    },
    hide: typing.cancel,
    async reset(now) {
      await names();
      loaded = null;
      if (now) load();
    },
  };
}

function grouped(points, keyOf) {
  const groups = new Map();
  for (const point of points) {
    const key = keyOf(point);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(point);
  }
  return groups;
}
