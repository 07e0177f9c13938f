// Shows messages in a panel without content (empty, locked, failed), each with the next step.

import { ApiError, ServerGone, hasKey, useKey } from "./api.js";
import { button, el, labelled } from "./dom.js";

/** Shown if a query could not be embedded. */
export const DEGRADED = "The embedding provider does not answer, so only full-text search was used.";

/** A titled note with the commands of the next step. */
export function note(title, text, ...commands) {
  return el("div", { class: "note" }, el("h3", null, title), text && el("p", null, text), commands.map(command));
}

/** The message of search and map in a database without the shipped collections. */
export const nothingToSearch = () =>
  note("No collection to search", "This database was set up without the shipped collections. Add one of them:", "scripts/migrate.py --collections music_knowledge");

/** A shell command. */
export function command(text) {
  const write = () => navigator.clipboard?.writeText(text).then(() => (copy.textContent = "Copied"));
  const copy = button("Copy", write, { class: "quiet", "aria-label": `Copy ${text}` });
  return el("div", { class: "command" }, el("code", null, text), copy);
}

export const loading = () =>
  el("div", { class: "loading", role: "status" }, el("span", { class: "sr" }, "Loading"), [1, 2, 3].map(() => el("i")));

/** The message for an error. */
export function failure(error) {
  if (error instanceof ServerGone) return note("The server does not answer", "This panel is loaded again when the server answers.");
  if (error instanceof ApiError && error.status === 401) return locked();
  if (!(error instanceof ApiError)) throw error;
  const node = note("That did not work", error.message);
  node.setAttribute("role", "alert");
  if (error.requestId) node.append(el("p", { class: "dim" }, `The server's log has more about the request ${error.requestId}.`));
  return node;
}

/** Asks for the key. */
export function locked() {
  const typed = { autocomplete: "off", spellcheck: "false", required: true };
  const field = el("input", { type: "password", name: "key", "aria-describedby": "key-hint", ...typed });
  const submit = (event) => {
    event.preventDefault();
    if (field.value.trim()) useKey(field.value.trim());
    field.value = "";
  };
  const hint = "The key is the value of FUNCTIONS_API_KEY in the server's settings. This tab keeps it in memory and forgets it when you close the tab.";
  return el(
    "form",
    { class: "note", onsubmit: submit, autocomplete: "off" },
    el("h3", null, hasKey() ? "The server refused this key" : "This server asks for its key"),
    el("p", { id: "key-hint" }, hint),
    el("div", { class: "row" }, labelled("Key", field), el("button", { class: "primary" }, "Use key")),
  );
}

/** Show the result of `load` in `place`, or a message after an error. An empty place shows a loading state first. */
export async function fill(place, load) {
  if (!place.hasChildNodes()) place.replaceChildren(loading());
  try {
    const nodes = await load();
    if (nodes) place.replaceChildren(...[nodes].flat().filter(Boolean));
    return true;
  } catch (error) {
    place.replaceChildren(failure(error));
    return false;
  }
}
