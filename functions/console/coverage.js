// How much of each collection is embedded, running backfills, failed rows and the latest runs.

import { call, path, post } from "./api.js";
import { button, count, duration, el, money, percent, plural, say, timeOf, working } from "./dom.js";
import { failure, loading, note } from "./states.js";

const RUNNING_MS = 2000;
const IDLE_MS = 10_000;
// A requested task appears as a run a moment later.
const EXPECTED_MS = 20_000;
const RUNS_SHOWN = 5;

export function mountCoverage(panel) {
  const summary = el("p", { class: "dim", id: "coverage-summary" });
  const everything = button("Embed all pending", working(() => embed(null)), { hidden: true });
  const said = el("p", { class: "sr", role: "status" });
  const cards = el("div", { class: "cards" }, loading());
  const problem = el("div", { class: "problem" });
  panel.append(el("div", { class: "head" }, el("h2", null, "Coverage"), summary, everything), said, problem, cards);

  const shown = new Map();
  let timer = null;
  let visible = false;
  let expectedUntil = 0;
  let asking = 0;

  async function refresh() {
    clearTimeout(timer);
    const mine = ++asking;
    let busy = false;
    try {
      const [{ collections }, { runs }] = await Promise.all([call("/api/collections"), call("/api/runs?limit=100")]);
      if (mine !== asking) return;
      render(collections, runs);
      busy = collections.some((collection) => collection.running) || Date.now() < expectedUntil;
    } catch (error) {
      if (mine !== asking) return;
      shown.clear();
      everything.hidden = true;
      say(summary, "");
      cards.replaceChildren(failure(error));
      // The frame calls reset() once there is a key, or the server is back.
      if (error.status === 401) return;
    }
    if (visible) timer = setTimeout(refresh, busy ? RUNNING_MS : IDLE_MS);
  }

  function render(collections, runs) {
    const total = sum(collections, "total");
    const pending = sum(collections, "pending");
    const failed = sum(collections, "failed");
    const parts = [plural(total, "row"), `${percent(sum(collections, "embedded"), total)} embedded`];
    if (pending) parts.push(`${count(pending)} pending`);
    if (failed) parts.push(`${count(failed)} failed`);
    say(summary, total ? parts.join(" · ") : "");
    everything.hidden = !pending || collections.length < 2;
    if (!total && !collections.some((collection) => collection.error)) {
      shown.clear();
      cards.replaceChildren(...empty(collections));
      return;
    }
    if (!shown.size) cards.replaceChildren();
    for (const collection of collections) {
      let card = shown.get(collection.collection);
      if (!card) {
        shown.set(collection.collection, (card = makeCard(collection.collection, { embed, refresh, announce })));
        cards.append(card.node);
      }
      card.update(collection, runs.filter((run) => run.collection === collection.collection).slice(0, RUNS_SHOWN));
    }
    for (const [name, card] of shown) {
      if (collections.some((collection) => collection.collection === name)) continue;
      card.node.remove();
      shown.delete(name);
    }
  }

  function announce(text) {
    said.textContent = text;
  }

  async function embed(collection) {
    try {
      await post("/api/tasks/generate-embeddings", { collection });
    } catch (error) {
      problem.replaceChildren(failure(error));
      return;
    }
    problem.replaceChildren();
    announce(`Embedding ${collection ?? "every collection"} was asked for`);
    expectedUntil = Date.now() + EXPECTED_MS;
    await refresh();
  }

  return {
    show() {
      visible = true;
      refresh();
    },
    hide() {
      visible = false;
      clearTimeout(timer);
    },
    reset(now) {
      problem.replaceChildren();
      if (now) refresh();
    },
  };
}

function empty(collections) {
  const own = el("p", null, "A table of your own takes two statements; docs/your-own-table.md has them.");
  const title = collections.length ? "The collections are empty" : "No table is tracked yet";
  const text = collections.length
    ? `${collections.map((collection) => collection.collection).join(", ")} hold no rows. Load the sample rows and embed them, or write rows of your own: they show up here.`
    : "Add a shipped collection with its sample rows, or track a table of your own.";
  const first = note(title, text, collections.length ? "make demo" : ".venv/bin/python scripts/migrate.py --seed --collections music_knowledge");
  first.append(own);
  return [first];
}

function makeCard(name, { embed, refresh, announce }) {
  const model = el("span", { class: "dim" });
  const state = el("span", { class: "chip" });
  const start = button("Embed now", working(() => embed(name)), { "aria-label": `Embed now: ${name}` });
  const figures = Object.fromEntries(["rows", "embedded", "pending", "failed"].map((label) => [label, el("dd", null)]));
  const bar = el("div", { class: "bar-track", role: "img" });
  const legend = el("ul", { class: "legend" });
  const wrong = el("p", { class: "bad", role: "alert", hidden: true });
  const live = el("div", { class: "live", hidden: true });
  const failures = el("details", { class: "fold failed", hidden: true });
  const runs = el("details", { class: "fold" });
  const node = el(
    "article",
    { class: "card", "aria-labelledby": `card-${name}`, "data-collection": name },
    el("div", { class: "card-head" }, el("div", null, el("h3", { id: `card-${name}` }, name), model), state, start),
    wrong,
    el("dl", { class: "figures" }, Object.entries(figures).map(([label, value]) => el("div", null, el("dt", null, label), value))),
    bar,
    legend,
    live,
    failures,
    runs,
  );
  const progress = makeProgress(live);
  const showFailures = makeFailures(failures, name, { refresh, announce });
  const showRuns = makeRuns(runs);

  return {
    node,
    update(collection, latest) {
      const { total, embedded, pending, failed, running, error } = collection;
      say(wrong, error ?? "");
      wrong.hidden = !error;
      say(model, collection.model ?? "no model yet: the first backfill sets it");
      say(figures.rows, count(total));
      say(figures.embedded, count(embedded));
      say(figures.pending, count(pending));
      say(figures.failed, count(failed));
      figures.failed.classList.toggle("bad", failed > 0);
      const [text, kind] = error
        ? ["cannot be read", "bad"]
        : running
          ? ["embedding", "run"]
          : failed
            ? [`${count(failed)} failed`, "bad"]
            : pending
              ? [`${count(pending)} pending`, "wait"]
              : total
                ? ["up to date", "ok"]
                : ["empty", ""];
      say(state, text);
      state.className = `chip ${kind}`;
      start.hidden = Boolean(running) || Boolean(error) || !pending;
      drawBar(bar, legend, collection);
      progress(running);
      showFailures(collection);
      showRuns(latest, total > 0 && !pending && !failed && !error);
    },
  };
}

/** The stacked bar: the collection's model first, then others (during a switch), then what has no vector. */
function drawBar(bar, legend, { collection, model, models, total, pending, failed }) {
  const others = Object.keys(models).filter((name) => name !== model).sort();
  const vectors = Object.values(models).reduce((all, part) => all + part, 0);
  const parts = [
    [model, models[model] ?? 0, "m0"],
    ...others.map((name, place) => [name || "unknown model", models[name], `m${1 + (place % 3)}`]),
    // Rows of another model are pending too: they are drawn once, as what they hold.
    ["no vector", Math.max(0, total - vectors - failed), "none"],
    ["failed", Math.min(failed, Math.max(0, total - vectors)), "bad"],
  ].filter(([, rows]) => rows);
  for (const [place, [, rows, kind]] of parts.entries()) {
    const part = bar.children[place] ?? bar.appendChild(el("span"));
    part.className = kind;
    part.style.setProperty("--share", total ? rows / total : 0);
  }
  while (bar.children.length > parts.length) bar.lastChild.remove();
  const shares = parts.map(([name, rows]) => `${name} ${percent(rows, total)}`);
  bar.setAttribute("aria-label", total ? `${collection}: ${shares.join(", ")}` : `${collection}: no rows`);
  for (const [place, [name, rows, kind]] of parts.entries()) {
    const line = legend.children[place] ?? legend.appendChild(el("li", null, el("i"), el("span"), el("b")));
    line.children[0].className = kind;
    say(line.children[1], name);
    say(line.children[2], percent(rows, total));
  }
  while (legend.children.length > parts.length) legend.lastChild.remove();
}

/** The speed of a running backfill and the time left. The figures and the bar above show how far it is. */
function makeProgress(place) {
  const text = place.appendChild(el("span", null));
  return (running) => {
    place.hidden = !running;
    if (!running) return;
    const rate = running.rows_per_second;
    const parts = [];
    if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))} rows/s`);
    if (running.seconds_left !== null) parts.push(`${duration(running.seconds_left)} left`);
    say(text, parts.join(" · ") || "starting");
  };
}

function makeFailures(place, name, { refresh, announce }) {
  const title = el("summary", null);
  const list = el("ul", { class: "failures" });
  const problem = el("p", { class: "bad", role: "alert" });
  const all = button("Retry all", working(() => retry()), { "aria-label": `Retry all failed rows of ${name}` });
  place.append(title, el("div", { class: "fold-body" }, el("div", { class: "row" }, all, problem), list));
  let seen = "";
  let known = 0;
  let listed = null;

  async function retry(rowIds) {
    problem.textContent = "";
    try {
      const { retried } = await post(path("collections", name, "retry"), rowIds ? { row_ids: rowIds } : {});
      announce(`${plural(retried, "row")} of ${name} will be tried again`);
    } catch (error) {
      problem.textContent = error.message;
      return;
    }
    await refresh();
    await listed;
    // The button that was pressed has gone with its row.
    if (!place.hidden && document.activeElement === document.body) title.focus();
  }

  async function load() {
    if (!place.open) return;
    try {
      const { failures, total } = await call(path("collections", name, "failures"));
      render(failures, total);
    } catch (error) {
      problem.textContent = error.message;
    }
  }

  function render(failures, total) {
    const state = JSON.stringify(failures);
    if (state === seen) return;
    seen = state;
    list.replaceChildren(
      ...failures.map((row) =>
        el(
          "li",
          null,
          el("div", null, el("code", null, row.row_id), el("p", null, row.error ?? "no reason was given")),
          el("span", { class: "dim" }, `${plural(row.attempts, "attempt")}, ${timeOf(row.failed_at)}`),
          button("Retry", working(() => retry([row.row_id])), { "aria-label": `Retry row ${row.row_id}` }),
        ),
      ),
      total > failures.length ? el("li", { class: "dim" }, `and ${count(total - failures.length)} more`) : "",
    );
  }

  place.addEventListener("toggle", load);
  return ({ failed, failures }) => {
    place.hidden = !failed;
    say(title, `${plural(failed, "failed row")}, with the reasons`);
    const signature = failed + JSON.stringify(failures);
    if (signature !== known) listed = load();
    known = signature;
  };
}

function makeRuns(place) {
  const title = el("summary", null);
  const body = el("tbody");
  const heads = ["started", "state", "took", "embedded", "tokens", "cost"];
  const table = el("table", { class: "runs" }, el("thead", null, el("tr", null, heads.map((head) => el("th", { scope: "col" }, head)))), body);
  place.append(title, el("div", { class: "fold-body" }, table));
  let seen = "";
  return (runs, complete) => {
    const state = JSON.stringify([runs, complete]);
    if (state === seen) return;
    seen = state;
    place.hidden = !runs.length;
    if (!runs.length) return;
    // The card shows a run at work above; an old failure matters no more once every row is embedded.
    const last = runs.find((run) => !["queued", "running"].includes(run.state));
    const result = last && (complete && last.state !== "finished" ? "every row is embedded now" : `${plural(last.embedded, "row")} in ${duration(last.seconds)}, ${money(last.cost)}`);
    say(title, last ? `Last run ${last.state}, ${timeOf(last.started_at)}: ${result}` : "Runs");
    body.replaceChildren(...runs.flatMap(runLine));
  };
}

/** A run as a row of the table, and its error as a row below. */
export function runLine(run) {
  const cells = [timeOf(run.started_at), run.state, duration(run.seconds), count(run.embedded), count(run.tokens), money(run.cost)];
  const kind = { failed: "bad", crashed: "bad", running: "run" }[run.state] ?? "";
  const line = el("tr", null, cells.map((text, place) => el("td", { class: place === 1 ? kind : place > 1 && "number" }, text)));
  return run.error ? [line, el("tr", null, el("td", { colspan: cells.length, class: "reason" }, run.error))] : [line];
}

const sum = (rows, field) => rows.reduce((all, row) => all + row[field], 0);
