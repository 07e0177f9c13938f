// A collection in two dimensions. The points are drawn once; what hovering and searching add lies on a canvas above.

import { call, newest, path } from "./api.js";
import { button, count, el, percent, plural, say } from "./dom.js";
import { failure, loading, note, nothingToSearch } from "./states.js";
import { DEFAULT_WEIGHTS, ask, collectionSelect } from "./search.js";

const COLOURS = 8;
const SHAPES = 4;
const CELL = 28;
const REACH = 14;
const MARGIN = 24;
const LISTED = 60;
const TYPING_MS = 150;
const MOST_ZOOM = 12;

export function mountMap(panel, shared) {
  const { select, names } = collectionSelect(shared, { id: "map-collection", onchange: () => load() }, "music_knowledge");
  const colour = el("select", { id: "map-category", onchange: () => load(colour.value) });
  const box = el("input", { type: "search", id: "map-query", placeholder: "light up what a search finds", autocomplete: "off", maxlength: 2000 });
  const status = el("p", { class: "dim status", role: "status" });
  const base = el("canvas", { role: "img", id: "map-points" });
  const over = el("canvas", { class: "over", "aria-hidden": "true", id: "map-overlay" });
  const tip = el("div", { class: "tip", hidden: true });
  const zooms = el(
    "div",
    { class: "zooms" },
    button("+", () => zoomBy(1.6), { "aria-label": "Zoom in" }),
    button("−", () => zoomBy(1 / 1.6), { "aria-label": "Zoom out" }),
    button("Fit", () => fit(), { "aria-label": "Fit all points" }),
  );
  const stage = el("div", { class: "stage" }, base, over, tip, zooms);
  const legend = el("ul", { class: "legend shapes" });
  const listed = el("div", { class: "fold-body" });
  const list = el("details", { class: "fold" }, el("summary", null, "The rows as a list"), listed);
  const place = el("div", { class: "map-body" });
  const colourLabel = el("label", { hidden: true }, "coloured by ", colour);
  panel.append(
    el("h2", { class: "sr" }, "Map"),
    el(
      "form",
      { class: "searchbar", role: "search", onsubmit: (event) => (event.preventDefault(), search()) },
      el("label", null, el("span", { class: "sr" }, "Collection"), select),
      colourLabel,
      el("label", { class: "grow" }, el("span", { class: "sr" }, "Light up what a search finds"), box),
    ),
    status,
    place,
  );

  let points = [];
  let categories = [];
  let hits = new Map();
  let chosen = null;
  let view = { zoom: 1, x: 0, y: 0 };
  let grid = null;
  let palette = [];
  let size = { width: 0, height: 0 };
  let loaded = null;
  let typing = null;
  let filter = "";
  const latestMap = newest();
  const latestSearch = newest();

  new ResizeObserver(() => points.length && draw()).observe(stage);
  addEventListener("themechange", () => points.length && draw());
  box.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, TYPING_MS);
  });
  list.addEventListener("toggle", () => list.open && showList());
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
      // Coloured by the first column that can be, until somebody chooses; "" is none.
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
    categories = [...counted].sort((a, b) => b[1] - a[1] || (String(a[0]) < String(b[0]) ? -1 : 1)).map(([name]) => name);
    const order = new Map(categories.map((name, index) => [name, index]));
    for (const point of points) point.kind = map.category ? order.get(point.category) : 0;
    legend.hidden = !map.category;
    legend.replaceChildren(
      ...categories.map((name, index) => el("li", null, swatch(index), el("span", null, name ?? "none"), el("b", null, count(counted.get(name))))),
    );
    const [first, second] = map.explained;
    const sampled = map.total > points.length ? `${count(points.length)} of ${plural(map.total, "row")}, a fixed sample` : plural(points.length, "row");
    say(status, `${sampled} · ${map.model} · the two directions hold ${percent(first + second, 1)} of the variance`);
    base.setAttribute("aria-label", `${plural(points.length, "point")} of ${map.collection}, similar ones near each other; the list below names them`);
    place.replaceChildren(stage, legend, list);
    draw();
    if (list.open) showList();
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
    palette = [...Array(COLOURS).keys()].map((index) => getComputedStyle(probe(index)).color);
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
        soon(draw);
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

  let waiting = false;
  function soon(action) {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  }

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
    soon(draw);
  }

  function fit() {
    view.zoom = 1;
    zoomBy(1);
  }

  async function search() {
    clearTimeout(typing);
    const query = box.value.trim();
    if (!query || !points.length) {
      latestSearch(async () => null);
      hits = new Map();
      if (points.length) drawOver();
      return;
    }
    try {
      const answer = await latestSearch((signal) => ask(loaded, query, DEFAULT_WEIGHTS, signal));
      if (!answer) return;
      hits = new Map(answer.hits.slice(0, 20).map((hit, index) => [hit.id, index + 1]));
      choose(null);
      drawOver();
      if (list.open) showList();
    } catch (error) {
      say(status, error.message);
    }
  }

  // The same as text: for a keyboard, a screen reader, or whoever likes a list better.

  function showList(limit = LISTED) {
    const rows = points.filter((point) => (hits.size ? hits.has(point.id) : true) && `${point.label}`.toLowerCase().includes(filter));
    if (hits.size) rows.sort((a, b) => hits.get(a.id) - hits.get(b.id));
    else rows.sort((a, b) => a.kind - b.kind || (`${a.label}` < `${b.label}` ? -1 : 1));
    const lines = rows.slice(0, limit).map((point) => {
      const line = button(point.label ?? point.id, () => {
        choose(point);
        stage.scrollIntoView({ block: "nearest" });
      });
      line.addEventListener("focus", () => choose(point));
      return el("li", null, swatch(point.kind), line, el("span", { class: "dim" }, point.category ?? ""));
    });
    const narrow = listed.querySelector("input") ?? el("input", { type: "search", "aria-label": "Narrow the list", placeholder: "narrow the list", oninput: (event) => ((filter = event.target.value.toLowerCase()), showList()) });
    const more = rows.length - lines.length;
    const items = el("ul", { class: "rows" }, lines);
    const foot = more > 0 ? button(`Show ${Math.min(more, LISTED)} more`, () => showList(limit + LISTED)) : "";
    if (narrow.isConnected) {
      listed.querySelector("ul").replaceWith(items);
      listed.querySelector("p").replaceChildren(foot);
    } else listed.replaceChildren(narrow, items, el("p", null, foot));
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

/** A legend's mark: the shape and the colour of a kind. */
function swatch(kind) {
  const shape = el("svg:path", { d: SVG_SHAPES[shapeOf(kind)], fill: "currentColor" });
  return el("svg:svg", { class: `swatch c${kind % COLOURS}`, viewBox: "-6 -6 12 12", "aria-hidden": "true" }, shape);
}

// Colour alone tells eight kinds apart to most eyes; the shape tells them apart to all, and more of them.
const shapeOf = (kind) => (kind + Math.floor(kind / COLOURS)) % SHAPES;
const SVG_SHAPES = ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M0-5.800L5.800 0L0 5.800L-5.800 0Z", "M-4.500-4.500h9v9h-9Z", "M0-5.500L5.500 4.300H-5.500Z"];

function trace(context, kind, x, y, radius) {
  const shape = shapeOf(kind);
  if (shape === 0) {
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
    return;
  }
  if (shape === 2) {
    context.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
    return;
  }
  const corners = shape === 1 ? [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]] : [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]];
  for (const [index, [dx, dy]] of corners.entries()) context[index ? "lineTo" : "moveTo"](x + dx * radius, y + dy * radius);
  context.closePath();
}

/** An element that has the colour of a kind, to read what the theme makes of it. */
function probe(index) {
  const id = `probe-${index}`;
  return document.getElementById(id) ?? document.body.appendChild(el("i", { id, class: `probe c${index}`, hidden: true }));
}
