// Shows tokens and cost by day and model, an estimate for the pending rows, and the latest runs.

import { call, path } from "./api.js";
import { about, compact, count, dayOf, duration, el, figureRow, figures, fold, money, numbers, plural, segments, sum, table } from "./dom.js";
import { runLine, runsTable } from "./coverage.js";
import { fill, note } from "./states.js";

const DAYS = [7, 30, 90];
const HEIGHT = 180;
const LEFT = 44;
const TOP = 8;
const BOTTOM = 22;
const LABEL = 64;
const RUNS = 30;

export function mount(panel) {
  let days = 30;
  let unit = "tokens";
  let answer = null;
  const spans = segments("Days", DAYS.map((number) => [number, `${number} days`]), days, (number) => ((days = number), load()));
  const units = segments("Unit", [["tokens", "Tokens"], ["cost", "Money"]], unit, (name) => ((unit = name), draw()));
  const totals = el("dl", { class: "figures" });
  const chart = el("div", { class: "chart" });
  const estimates = el("div");
  const runs = el("div");
  panel.append(
    el("div", { class: "head" }, el("h2", null, "Cost"), spans, units),
    el("div", { class: "card" }, totals, chart),
    el("div", { class: "cards" }, card("Estimated cost of pending rows", estimates), card("Latest runs", runs)),
  );
  let drawn = 0;
  new ResizeObserver(() => answer && chart.clientWidth !== drawn && draw()).observe(chart);

  async function load() {
    const spent = await fill(chart, async () => {
      answer = await call(`/api/costs?days=${days}`);
      draw();
    });
    // The panel needs only one form for the key.
    panel.classList.toggle("single", !spent);
    if (!spent) return totals.replaceChildren();
    fill(estimates, showEstimates);
    fill(runs, showRuns);
  }

  function draw() {
    const { entries, total, budget } = answer;
    drawn = chart.clientWidth;
    const models = [...new Set(entries.map((entry) => entry.model))].sort();
    const embedded = count(sum(entries, "embedded"));
    const today = budget && [["budget of today", `${money(budget.spent)} of ${money(budget.limit)}`], ["starts again in", duration(budget.resets_in)]];
    totals.replaceChildren(
      ...figures([["tokens", count(total.tokens)], ["spent", money(total.cost)], ["rows embedded", embedded], ...(today ?? [])]),
    );
    if (!entries.length) return chart.replaceChildren(note("Nothing was embedded in this time", "A run is counted here when it has ended."));
    const mark = (index) => el("i", { class: `m${index % 4}` });
    chart.replaceChildren(
      bars(entries, models, days, unit, Math.max(240, chart.clientWidth)),
      el("ul", { class: "legend" }, models.map((model, index) => el("li", null, mark(index), el("span", null, model ?? "no model")))),
      fold("As a table", dayTable(entries)),
    );
  }

  async function showEstimates() {
    const { collections } = await call("/api/collections");
    const pending = collections.filter((collection) => collection.pending > 0);
    if (!pending.length) return el("p", { class: "dim" }, "No row is pending: every row that can be embedded is embedded.");
    const found = await Promise.all(pending.map((collection) => call(path("collections", collection.collection, "estimate"))));
    const rows = found.map((one) =>
      figureRow(one.collection, [about(one.rows, one.rows_estimated), about(one.tokens, one.counted === "estimated"), money(one.cost)]),
    );
    return [
      table("numbers", ["collection", "rows", "tokens", "cost"], rows),
      found.length > 1 && el("p", { class: "total" }, `${count(sum(found, "tokens"))} tokens, ${money(sum(found, "cost"))} in total`),
      el("p", { class: "dim" }, `Counted by ${[...new Set(found.map((one) => one.method))].join("; ")}.`),
    ];
  }

  async function showRuns() {
    const { runs: latest } = await call(`/api/runs?limit=${RUNS}`);
    if (!latest.length) return el("p", { class: "dim" }, "There is no run yet.");
    const named = latest.flatMap((run) => {
      const [line, ...rest] = runLine(run);
      line.firstChild.append(el("span", { class: "of dim" }, run.collection ?? "every collection"));
      return [line, ...rest];
    });
    return el("div", { class: "tall", tabindex: "0", role: "region", "aria-label": "Latest runs" }, runsTable(named));
  }

  return {
    show: load,
    reset(now) {
      for (const place of [chart, estimates, runs]) place.replaceChildren();
      if (now) load();
    },
  };
}

const card = (title, body) => el("div", { class: "card" }, el("h3", null, title), body);

/** Bars by day, stacked by model. */
function bars(entries, models, days, unit, width) {
  const dates = lastDays(days);
  const byDay = new Map(dates.map((date) => [date, []]));
  for (const entry of entries) byDay.get(entry.day)?.push(entry);
  const heights = dates.map((date) => sum(byDay.get(date), unit));
  const top = ceiling(Math.max(...heights), unit);
  const wide = (width - LEFT) / days;
  const high = HEIGHT - BOTTOM - TOP;
  const apart = Math.max(1, Math.ceil(LABEL / wide));
  const figure = unit === "cost" ? money : compact;
  const nodes = [0, 0.5, 1].flatMap((part) => {
    const y = TOP + high * (1 - part);
    return [
      el("svg:line", { x1: LEFT, x2: width, y1: y, y2: y, class: "line" }),
      el("svg:text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, figure(top * part)),
    ];
  });
  for (const [index, date] of dates.entries()) {
    const x = LEFT + index * wide;
    let y = TOP + high;
    for (const entry of byDay.get(date).sort((a, b) => models.indexOf(a.model) - models.indexOf(b.model))) {
      const height = (entry[unit] / top) * high;
      y -= height;
      const title = el("svg:title", null, `${dayOf(date)}, ${entry.model}: ${plural(entry.tokens, "token")}, ${money(entry.cost)}`);
      const shape = { x: x + wide * 0.15, y, width: wide * 0.7, height: Math.max(height, 0.5), rx: 1.5 };
      nodes.push(el("svg:rect", { ...shape, class: `m${models.indexOf(entry.model) % 4}` }, title));
    }
    // Place the labels backwards from today, so that today always has a label.
    if ((days - 1 - index) % apart === 0 && index * wide > 12) {
      const last = index === days - 1;
      nodes.push(el("svg:text", { x: last ? width : x + wide / 2, y: HEIGHT - 6, "text-anchor": last ? "end" : "middle" }, dayOf(date)));
    }
  }
  const label = `${unit === "cost" ? "Money" : "Tokens"} by day and model; the table below has the figures`;
  return el("svg:svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, nodes);
}

function dayTable(entries) {
  const latestFirst = [...entries].sort((a, b) => (a.day < b.day ? 1 : a.day > b.day ? -1 : 0));
  const rows = latestFirst.map((entry) => {
    const cells = [count(entry.runs), count(entry.embedded), count(entry.tokens), money(entry.cost)];
    return el("tr", null, el("th", { scope: "row" }, dayOf(entry.day)), el("td", null, entry.model), numbers(cells));
  });
  return table("figures-table", ["day", "model", "runs", "embedded", "tokens", "cost"], rows);
}

/** The last days in UTC, like the server's. */
function lastDays(number) {
  return [...Array(number).keys()].map((back) => new Date(Date.now() - (number - 1 - back) * 86_400_000).toISOString().slice(0, 10));
}

function ceiling(most, unit) {
  if (!most) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  const top = [1, 2, 5, 10].find((step) => step * power >= most) * power;
  return unit === "tokens" ? Math.max(top, 2) : top;
}
