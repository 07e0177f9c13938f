// Shows the frame of the page: tabs, theme and the state of the server, also when the server does not answer.

import { alive, call, forgetKey, hasKey, on, tell } from "./api.js";
import { el, say } from "./dom.js";
import { command } from "./states.js";

const RETRY_MS = 2000;
const PROBLEM_MS = 10_000;
const ALIVE_MS = 3000;

const byId = (id) => document.getElementById(id);
const allTabs = [...document.querySelectorAll("[role=tab]")];
/** The visible tabs: a database may have no synonyms. */
let tabs = allTabs;
const nameOf = (tab) => tab.getAttribute("aria-controls");
const isShown = (name) => tabs.some((tab) => nameOf(tab) === name);

/** State that the panels share: the server's answer to /api/console, and a promise of this answer. */
const shared = { server: null, ready: null };
const panels = {};
let current = null;

async function open(name, focus = false) {
  if (!isShown(name)) return;
  for (const tab of allTabs) {
    const chosen = nameOf(tab) === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    byId(nameOf(tab)).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (current === name) return;
  panels[current]?.hide?.();
  current = name;
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Tonnetz`;
  if (!panels[name]) {
    // A panel's module is loaded when the panel is first opened.
    const module = await import(`./${name}.js`).catch(() => null);
    if (!module) {
      // The server stopped before it sent the module: the next visit to the tab tries again.
      if (current === name) current = null;
      return tell("gone");
    }
    panels[name] ??= module.mount(byId(name), shared);
  }
  if (current === name) panels[name].show();
}

for (const tab of allTabs) {
  tab.addEventListener("click", () => (location.hash = `/${nameOf(tab)}`));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const place = tabs.indexOf(tab);
    const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step && (place + step + tabs.length) % tabs.length;
    if (to === undefined) return;
    event.preventDefault();
    history.replaceState(null, "", `#/${nameOf(tabs[to])}`);
    open(nameOf(tabs[to]), true);
  });
}
// The address is `#/search` and not `#search`, because the name of an element would move the focus to this element.
function shownTab() {
  const name = location.hash.slice(2);
  return isShown(name) ? name : "coverage";
}
addEventListener("hashchange", () => open(location.hash.slice(2)));

// The page has the theme of the system until the user chooses another one. The choice is not stored.
const themes = ["auto", "light", "dark"];
byId("theme").addEventListener("click", (event) => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  say(event.currentTarget, `Theme: ${next}`);
  dispatchEvent(new Event("themechange"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));

byId("forget").addEventListener("click", forgetKey);
const reload = () => Object.entries(panels).forEach(([name, panel]) => panel.reset(name === current));
on("key", () => {
  byId("forget").hidden = !hasKey();
  reload();
});

// The server is asked once at the start, and again while it reports a problem or does not answer.
let timer = null;
let lost = false;

async function greet() {
  clearTimeout(timer);
  try {
    shared.server = await call("/api/console", { keyed: false });
  } catch {
    // The server is down, or a gateway answers in its place.
    timer = setTimeout(greet, RETRY_MS);
    return;
  }
  showServer();
  if (shared.server.problems.length) timer = setTimeout(greet, PROBLEM_MS);
}

function showServer() {
  const { server } = shared;
  const synonyms = byId("tab-synonyms");
  synonyms.hidden = !server.searchable.includes("mir_synonyms");
  tabs = allTabs.filter((tab) => !tab.hidden);
  if (synonyms.hidden && current === "synonyms") open("coverage");
  const width = server.dimensions && `${server.dimensions} dimensions`;
  const model = [server.provider, server.model, width].filter(Boolean).join(" · ");
  byId("server").replaceChildren(
    el("span", { class: `dot ${server.problems.length ? "warn" : "ok"}` }),
    el("span", null, model || "no provider"),
    server.version ? el("span", { class: "dim" }, `v${server.version}`) : "",
  );
  notices(server.problems.map((problem) => notice(problem.message, problem.fix)));
}

function notice(message, fix) {
  const isCommand = fix && /^[\w./-]+( \S+)*$/.test(fix) && fix.length < 80 && !fix.endsWith(".");
  return el("div", { class: "notice" }, el("p", null, message), fix && (isCommand ? command(fix) : el("p", null, fix)));
}

function notices(nodes) {
  // Replace the notices only if their text changed, so that a screen reader does not read them again.
  const place = byId("notices");
  if (place.textContent !== nodes.map((node) => node.textContent).join("")) place.replaceChildren(...nodes);
}

on("gone", () => {
  lost = true;
  byId("server").replaceChildren(el("span", { class: "dot bad" }), el("span", null, "no answer"));
  const here = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  const port = location.port === "8000" ? "" : ` PORT=${location.port || 80}`;
  const message = "The server does not answer. This page tries again every two seconds.";
  notices([here ? notice(`${message} If the server is not running, start it:`, `make serve${port}`) : notice(message)]);
  clearTimeout(timer);
  timer = setTimeout(greet, RETRY_MS);
});
on("back", () => {
  if (!lost) return;
  lost = false;
  notices([]);
  greet().then(reload);
  if (current === null) open(shownTab());
});
// Check the server regularly, because an idle panel sends few requests.
setInterval(() => document.hidden || lost || alive(), ALIVE_MS);
document.addEventListener("visibilitychange", () => panels[current]?.[document.hidden ? "hide" : "show"]?.());

shared.ready = greet();
// The server's answer says whether the database has synonyms.
if (shownTab() === "synonyms") shared.ready.then(() => open(shownTab()));
else open(shownTab());
