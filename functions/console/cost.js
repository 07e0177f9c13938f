// Tokens and money by day and by model, what the pending rows would cost, and the runs that were paid.

import { call, path } from "./api.js";
import { button, compact, count, dayOf, el, money, plural } from "./dom.js";
import { runLine } from "./coverage.js";
import { fill, note } from "./states.js";

const DAYS = [7, 30, 90];
const HEIGHT = 180;
const LEFT = 44;
const BOTTOM = 22;
const LABEL = 64;
const RUNS = 30;

export function mountCost(panel) {
  let days = 30;
  let unit = "tokens";
  let answer = null;
  const group = (label, buttons) => el("div", { class: "segments", role: "group", "aria-label": label }, buttons);
  const spans = DAYS.map((number) => button(`${number} days`, () => ((days = number), press(), load()), { "data-value": number }));
  const units = [["tokens", "Tokens"], ["cost", "Money"]].map(([name, label]) => button(label, () => ((unit = name), press(), draw()), { "data-value": name }));
  const totals = el("dl", { class: "figures" });
  const chart = el("div", { class: "chart" });
  const estimates = el("div");
  const runs = el("div");
  panel.append(
    el("div", { class: "head" }, el("h2", null, "Cost"), group("Days", spans), group("Unit", units)),
    el("div", { class: "card" }, totals, chart),
    el("div", { class: "cards" }, el("div", { class: "card" }, el("h3", null, "What is pending would cost"), estimates), el("div", { class: "card" }, el("h3", null, "Latest runs"), runs)),
  );
  press();
  let drawn = 0;
  new ResizeObserver(() => answer && chart.clientWidth !== drawn && draw()).observe(chart);

  function press() {
    for (const one of [...spans, ...units]) one.setAttribute("aria-pressed", one.dataset.value === String(days) || one.dataset.value === unit);
  }

  async function load() {
    const spent = fill(chart, async () => {
      answer = await call(`/api/costs?days=${days}`);
      draw();
    });
    // One form for the key is enough.
    if (!(await spent)) {
      totals.replaceChildren();
      panel.classList.add("single");
      return;
    }
    panel.classList.remove("single");
    fill(estimates, showEstimates);
    fill(runs, showRuns);
  }

  function draw() {
    const { entries, total } = answer;
    drawn = chart.clientWidth;
    const models = [...new Set(entries.map((entry) => entry.model))].sort();
    const figures = [["tokens", count(total.tokens)], ["spent", money(total.cost)], ["rows embedded", count(entries.reduce((all, entry) => all + entry.embedded, 0))]];
    totals.replaceChildren(...figures.map(([label, value]) => el("div", null, el("dt", null, label), el("dd", null, value))));
    if (!entries.length) {
      chart.replaceChildren(note("Nothing was embedded in this time", "Runs are counted here as they end."));
      return;
    }
    chart.replaceChildren(
      bars(entries, models, days, unit, Math.max(240, chart.clientWidth)),
      el("ul", { class: "legend" }, models.map((model, index) => el("li", null, el("i", { class: `m${index % 4}` }), el("span", null, model ?? "no model")))),
      figuresTable(entries),
    );
  }

  async function showEstimates() {
    const { collections } = await call("/api/collections");
    const pending = collections.filter((collection) => collection.pending > 0);
    if (!pending.length) return el("p", { class: "dim" }, "Nothing is pending: everything that can be embedded is.");
    const found = await Promise.all(pending.map((collection) => call(path("collections", collection.collection, "estimate"))));
    const line = (cells) => el("tr", null, cells.map((cell, place) => el(place ? "td" : "th", place ? { class: "number" } : { scope: "row" }, cell)));
    const all = (field) => found.reduce((sum, one) => sum + one[field], 0);
    return [
      table(["collection", "rows", "tokens", "cost"], found.map((one) => line([one.collection, count(one.rows), `${one.counted === "estimated" ? "≈ " : ""}${count(one.tokens)}`, money(one.cost)])), "numbers"),
      found.length > 1 && el("p", { class: "total" }, `${count(all("tokens"))} tokens, ${money(all("cost"))} in all`),
      el("p", { class: "dim" }, `Counted by ${[...new Set(found.map((one) => one.method))].join("; ")}.`),
    ].filter(Boolean);
  }

  async function showRuns() {
    const { runs: latest } = await call(`/api/runs?limit=${RUNS}`);
    if (!latest.length) return el("p", { class: "dim" }, "No run yet.");
    const heads = ["started", "state", "took", "embedded", "tokens", "cost"];
    const named = latest.flatMap((run) => {
      const [line, ...rest] = runLine(run);
      line.firstChild.append(el("span", { class: "of dim" }, run.collection ?? "every collection"));
      return [line, ...rest];
    });
    return el("div", { class: "tall", tabindex: "0", role: "region", "aria-label": "Latest runs" }, table(heads, named, "runs"));
  }

  return {
    show: load,
    hide() {},
    reset(now) {
      for (const place of [chart, estimates, runs]) place.replaceChildren();
      if (now) load();
    },
  };
}

const table = (heads, lines, kind) => el("table", { class: kind }, el("thead", null, el("tr", null, heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", null, lines));

/** Bars by day, stacked by model. */
function bars(entries, models, days, unit, width) {
  const dates = lastDays(days);
  const byDay = new Map(dates.map((date) => [date, []]));
  for (const entry of entries) byDay.get(entry.day)?.push(entry);
  const heights = dates.map((date) => byDay.get(date).reduce((sum, entry) => sum + entry[unit], 0));
  const top = ceiling(Math.max(...heights), unit);
  const wide = (width - LEFT) / days;
  const high = HEIGHT - BOTTOM - 8;
  const apart = Math.max(1, Math.ceil(LABEL / wide));
  const label = unit === "cost" ? money : compact;
  const nodes = [0, 0.5, 1].flatMap((part) => {
    const y = 8 + high * (1 - part);
    return [
      el("svg:line", { x1: LEFT, x2: width, y1: y, y2: y, class: "line" }),
      el("svg:text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, label(top * part)),
    ];
  });
  for (const [index, date] of dates.entries()) {
    const x = LEFT + index * wide;
    let y = 8 + high;
    for (const entry of byDay.get(date).sort((a, b) => models.indexOf(a.model) - models.indexOf(b.model))) {
      const height = (entry[unit] / top) * high;
      y -= height;
      const title = el("svg:title", null, `${dayOf(date)}, ${entry.model}: ${plural(entry.tokens, "token")}, ${money(entry.cost)}`);
      nodes.push(el("svg:rect", { x: x + wide * 0.15, y, width: wide * 0.7, height: Math.max(height, 0.5), rx: 1.5, class: `m${models.indexOf(entry.model) % 4}` }, title));
    }
    // Counted from today backwards, so that the last day has its name.
    if ((days - 1 - index) % apart === 0 && index * wide > 12) {
      const last = index === days - 1;
      nodes.push(el("svg:text", { x: last ? width : x + wide / 2, y: HEIGHT - 6, "text-anchor": last ? "end" : "middle" }, dayOf(date)));
    }
  }
  const what = unit === "cost" ? "Money" : "Tokens";
  return el("svg:svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${what} by day and model; the table below has the figures` }, nodes);
}

function figuresTable(entries) {
  const lines = [...entries]
    .sort((a, b) => (a.day < b.day ? 1 : a.day > b.day ? -1 : 0))
    .map((entry) => el("tr", null, el("th", { scope: "row" }, dayOf(entry.day)), el("td", null, entry.model), [count(entry.runs), count(entry.embedded), count(entry.tokens), money(entry.cost)].map((cell) => el("td", { class: "number" }, cell))));
  return el("details", { class: "fold" }, el("summary", null, "As a table"), el("div", { class: "fold-body" }, table(["day", "model", "runs", "embedded", "tokens", "cost"], lines, "figures-table")));
}

/** The last days as the server names them: in UTC. */
function lastDays(number) {
  return [...Array(number).keys()].map((back) => new Date(Date.now() - (number - 1 - back) * 86_400_000).toISOString().slice(0, 10));
}

function ceiling(most, unit) {
  if (!most) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  const top = [1, 2, 5, 10].find((step) => step * power >= most) * power;
  return unit === "tokens" ? Math.max(top, 2) : top;
}
