// Shows the coverage of each collection, running backfills, failed rows and the latest runs.

import { call, newest, path, post } from "./api.js";
import { about, arrange, button, changing, count, duration, el, figures, fold, money, numbers, percent, plural, say, sum, table, timeOf, working } from "./dom.js";
import { failure, loading, note } from "./states.js";

const RUNNING_MS = 2000;
const IDLE_MS = 10_000;
// A requested task appears as a run a moment later.
const EXPECTED_MS = 20_000;
const RUNS_SHOWN = 5;

export function mount(panel) {
  const summary = el("p", { class: "dim", id: "coverage-summary" });
  const everything = button("Embed all pending", working(() => embed(null)), { hidden: true });
  const said = el("p", { class: "sr", role: "status" });
  const cards = el("div", { class: "cards" }, loading());
  const problem = el("div", { class: "problem" });
  panel.append(el("div", { class: "head" }, el("h2", null, "Coverage"), summary, everything), said, problem, cards);

  const shown = new Map();
  const latest = newest();
  let timer = null;
  let visible = false;
  let expectedUntil = 0;

  async function refresh() {
    clearTimeout(timer);
    let busy = false;
    try {
      const asked = ["/api/collections", "/api/runs?limit=100"];
      const answers = await latest((signal) => Promise.all(asked.map((route) => call(route, { signal }))));
      if (!answers) return;
      const [{ collections }, { runs }] = answers;
      render(collections, runs);
      busy = collections.some((collection) => collection.running) || Date.now() < expectedUntil;
    } catch (error) {
      shown.clear();
      everything.hidden = true;
      say(summary, "");
      cards.replaceChildren(failure(error));
      // The frame calls reset() after the key was set, or when the server answers again.
      if (error.status === 401) return;
    }
    if (visible) timer = setTimeout(refresh, busy ? RUNNING_MS : IDLE_MS);
  }

  function render(collections, runs) {
    const [total, embedded, pending, failed] = ["total", "embedded", "pending", "failed"].map((field) => sum(collections, field));
    const estimated = collections.some((collection) => collection.estimated);
    const parts = [`${estimated ? "about " : ""}${plural(total, "row")}`, `${percent(embedded, total)} embedded`];
    if (pending) parts.push(`${about(pending, estimated)} pending`);
    if (failed) parts.push(`${count(failed)} failed`);
    say(summary, total ? parts.join(" · ") : "");
    everything.hidden = !pending || collections.length < 2;
    if (!total && !collections.some((collection) => collection.error)) {
      shown.clear();
      cards.replaceChildren(empty(collections));
      return;
    }
    for (const collection of collections) {
      const name = collection.collection;
      if (!shown.has(name)) shown.set(name, makeCard(name, { embed, refresh, announce }));
      shown.get(name).update(collection, runs.filter((run) => run.collection === name).slice(0, RUNS_SHOWN));
    }
    const names = new Set(collections.map((collection) => collection.collection));
    for (const name of shown.keys()) if (!names.has(name)) shown.delete(name);
    arrange(cards, [...shown.values()].map((card) => card.node));
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
    announce(`Requested embedding of ${collection ?? "every collection"}`);
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
  const names = collections.map((collection) => collection.collection).join(", ");
  const step = names
    ? note("The collections are empty", `These collections have no rows: ${names}. Load and embed the sample rows, or write your own rows.`, "make demo")
    : note("No table is tracked yet", "Add a shipped collection with its sample rows, or track a table of your own.", ".venv/bin/python scripts/migrate.py --seed --collections music_knowledge");
  step.append(el("p", null, "To track your own table, run the two statements in docs/your-own-table.md."));
  return step;
}

function makeCard(name, { embed, refresh, announce }) {
  const model = el("span", { class: "dim" });
  const state = el("span", { class: "chip" });
  const start = button("Embed now", working(() => embed(name)), { "aria-label": `Embed now: ${name}` });
  const values = Object.fromEntries(["rows", "embedded", "pending", "failed"].map((label) => [label, el("dd", null)]));
  const bar = el("div", { class: "bar-track", role: "img" });
  const legend = el("ul", { class: "legend" });
  const wrong = el("p", { class: "bad", role: "alert", hidden: true });
  const live = el("div", { class: "live", hidden: true }, el("span"));
  const failures = makeFailures(name, { refresh, announce });
  const runs = makeRuns();
  const node = el(
    "article",
    { class: "card", "aria-labelledby": `card-${name}`, "data-collection": name },
    el("div", { class: "card-head" }, el("div", null, el("h3", { id: `card-${name}` }, name), model), state, start),
    wrong,
    el("dl", { class: "figures" }, figures(Object.entries(values))),
    [bar, legend, live, failures.node, runs.node],
  );

  return {
    node,
    update(collection, latest) {
      const { total, embedded, pending, failed, running, error, estimated } = collection;
      say(wrong, error ?? "");
      wrong.hidden = !error;
      say(model, collection.model ?? "no model yet: the first backfill sets it");
      for (const [label, number] of Object.entries({ rows: total, embedded, pending })) say(values[label], about(number, estimated));
      say(values.failed, count(failed));
      values.failed.classList.toggle("bad", failed > 0);
      const [text, kind] = stateOf(collection);
      say(state, text);
      state.className = `chip ${kind}`;
      start.hidden = Boolean(running) || Boolean(error) || !pending;
      drawBar(bar, legend, collection);
      live.hidden = !running;
      if (running) say(live.firstChild, speed(running));
      failures.update(collection);
      runs.update(latest, total > 0 && !pending && !failed && !error);
    },
  };
}

/** The text of the state label, and its colour. */
function stateOf({ total, pending, failed, running, error, estimated }) {
  if (error) return ["cannot be read", "bad"];
  if (running) return ["embedding", "run"];
  if (failed) return [`${count(failed)} failed`, "bad"];
  if (pending) return [`${about(pending, estimated)} pending`, "wait"];
  return total ? ["up to date", "ok"] : ["empty", ""];
}

/** The stacked bar: rows of the collection's model first, then of other models (during a switch), then rows without a vector. */
function drawBar(bar, legend, { collection, model, models, total, pending, failed }) {
  const others = Object.keys(models).filter((name) => name !== model).sort();
  const bare = Math.max(0, total - Object.values(models).reduce((all, part) => all + part, 0));
  const parts = [
    [model, models[model] ?? 0, "m0"],
    ...others.map((name, place) => [name || "unknown model", models[name], `m${1 + (place % 3)}`]),
    // Rows of another model are also pending. Draw them only once, in the part of their model.
    ["no vector", Math.max(0, bare - failed), "none"],
    ["failed", Math.min(failed, bare), "bad"],
  ].filter(([, rows]) => rows);
  arrange(bar, parts.map((_, place) => bar.children[place] ?? el("span")));
  arrange(legend, parts.map((_, place) => legend.children[place] ?? el("li", null, el("i"), el("span"), el("b"))));
  for (const [place, [name, rows, kind]] of parts.entries()) {
    bar.children[place].className = kind;
    bar.children[place].style.setProperty("--share", total ? rows / total : 0);
    const [mark, label, share] = legend.children[place].children;
    mark.className = kind;
    say(label, name);
    say(share, percent(rows, total));
  }
  const shares = parts.map(([name, rows]) => `${name} ${percent(rows, total)}`);
  bar.setAttribute("aria-label", `${collection}: ${total ? shares.join(", ") : "no rows"}`);
}

/** The speed of a running backfill and the time left. The figures and the bar above show its progress. */
function speed({ rows_per_second: rate, seconds_left: left }) {
  const parts = [rate && `${rate < 10 ? rate.toFixed(1) : count(Math.round(rate))} rows/s`, left !== null && `${duration(left)} left`];
  return parts.filter(Boolean).join(" · ") || "starting";
}

function makeFailures(name, { refresh, announce }) {
  const list = el("ul", { class: "failures" });
  const problem = el("p", { class: "bad", role: "alert" });
  const wrong = (error) => (problem.textContent = error.message);
  const retrying = (wanted) => working(() => retry(wanted), wrong);
  const all = button("Retry all", retrying({}), { "aria-label": `Retry all failed rows of ${name}` });
  const node = fold("", [el("div", { class: "row" }, all, problem), list], { class: "fold failed", hidden: true, ontoggle: load });
  const isNewList = changing();
  const isNewState = changing();
  let listed = null;

  async function retry(wanted) {
    problem.textContent = "";
    const { retried } = await post(path("collections", name, "retry"), wanted);
    announce(`${plural(retried, "row")} of ${name} will be tried again`);
    await refresh();
    await listed;
    // The pressed button was removed together with its row.
    if (!node.hidden && document.activeElement === document.body) node.firstChild.focus();
  }

  async function load() {
    if (!node.open) return;
    try {
      const { failures, total } = await call(path("collections", name, "failures"));
      if (!isNewList(failures)) return;
      const more = total - failures.length;
      list.replaceChildren(...failures.map(line), more > 0 ? el("li", { class: "dim" }, `and ${count(more)} more`) : "");
    } catch (error) {
      wrong(error);
    }
  }

  const line = ({ row_id: id, error, attempts, failed_at: at }) =>
    el(
      "li",
      null,
      el("div", null, el("code", null, id), el("p", null, error ?? "no reason was given")),
      el("span", { class: "dim" }, `${plural(attempts, "attempt")}, ${timeOf(at)}`),
      button("Retry", retrying({ row_ids: [id] }), { "aria-label": `Retry row ${id}` }),
    );

  return {
    node,
    update({ failed, failures }) {
      node.hidden = !failed;
      say(node.firstChild, `${plural(failed, "failed row")}, with the reasons`);
      if (isNewState([failed, failures])) listed = load();
    },
  };
}

function makeRuns() {
  const body = el("tbody");
  const node = fold("", runsTable(body));
  const isNew = changing();
  return {
    node,
    update(runs, complete) {
      if (!isNew([runs, complete])) return;
      node.hidden = !runs.length;
      // The card shows an active run above; an old failure is not shown when every row is embedded.
      const last = runs.find((run) => !["queued", "running"].includes(run.state));
      if (last) {
        const result = `${plural(last.embedded, "row")} in ${duration(last.seconds)}, ${money(last.cost)}`;
        const mended = complete && last.state !== "finished";
        say(node.firstChild, `Last run ${last.state}, ${timeOf(last.started_at)}: ${mended ? "every row is embedded now" : result}`);
      } else say(node.firstChild, "Runs");
      body.replaceChildren(...runs.flatMap(runLine));
    },
  };
}

export const runsTable = (rows) => table("runs", ["started", "state", "took", "embedded", "tokens", "cost"], rows);

/** A table row for a run, and a second row for its error. */
export function runLine(run) {
  const kind = { failed: "bad", crashed: "bad", running: "run" }[run.state] ?? "";
  const cells = numbers([duration(run.seconds), count(run.embedded), count(run.tokens), money(run.cost)]);
  const line = el("tr", null, el("td", null, timeOf(run.started_at)), el("td", { class: kind }, run.state), cells);
  return run.error ? [line, el("tr", null, el("td", { colspan: line.children.length, class: "reason" }, run.error))] : [line];
}
