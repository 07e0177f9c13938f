// Finds, shows and edits the synonyms of genres and moods, generates them again and removes them from search.

import { ApiError, call, newest, path, post } from "./api.js";
import { afterTyping, button, choices, count, el, figureRow, labelled, plural, say, searchbar, sum, table, timeOf, working } from "./dom.js";
import { DEGRADED, failure, fill, note } from "./states.js";

const TASK_MS = 1000;
const FOUND = 8;
const ENDED = ["completed", "failed", "interrupted", "crashed"];
const NO_GENERATOR =
  "No language model is configured to write synonyms. Set GENERATION_PROVIDER to ollama or openai in the server's settings. You can also write synonyms by hand.";
const TYPES = [["", "genres and moods"], ["genre", "genres"], ["mood", "moods"]];

export function mount(panel) {
  const placeholder = "bossa nova, musique douce, rainy evening …";
  const box = el("input", { type: "search", id: "tag-query", placeholder, autocomplete: "off", maxlength: 100 });
  const type = el("select", { id: "tag-type" }, choices(TYPES));
  const state = el("div", { class: "synonym-state" });
  const found = el("ul", { class: "tags", "aria-label": "Tags found" });
  const status = el("p", { class: "dim status", role: "status" });
  const warning = el("p", { class: "notice", hidden: true }, DEGRADED);
  const editor = el("div", { class: "editor" });
  panel.append(
    el("h2", { class: "sr" }, "Synonyms"),
    searchbar(lookUp, labelled("Look up a tag", box, "grow"), labelled("of the type", type)),
    el("div", { class: "row" }, status),
    warning,
    el("div", { class: "synonyms" }, el("div", null, found, state), editor),
  );
  const latest = newest();
  const typing = afterTyping(find);
  let watch = null;
  let open = null;
  let generator = false;
  let unsaved = false;

  addEventListener("beforeunload", (event) => unsaved && event.preventDefault());
  box.addEventListener("input", typing.later);
  type.addEventListener("change", find);
  welcome();

  function welcome() {
    const text = "Type the name of a tag or a synonym, in English or French. Then you can edit the synonyms, or let the language model write them again.";
    editor.replaceChildren(note("Look up a tag", text));
  }

  async function find() {
    typing.cancel();
    const query = box.value.trim();
    if (!query) {
      latest.stop();
      found.replaceChildren();
      say(status, "");
      return [];
    }
    const wanted = new URLSearchParams({ q: query, limit: FOUND, ...(type.value && { tag_type: type.value }) });
    try {
      const answer = await latest((signal) => call(`/api/synonyms/search?${wanted}`, { signal, keyed: false }));
      if (!answer) return [];
      warning.hidden = !answer.degraded;
      say(status, `${plural(answer.results.length, "tag")} · ${answer.took_ms} ms${answer.cached ? ", from the cache" : ""}`);
      found.replaceChildren(...answer.results.map(tagLine));
      return answer.results;
    } catch (error) {
      found.replaceChildren(el("li", null, failure(error)));
      return [];
    }
  }

  function tagLine(tag) {
    const { tag_name: name, tag_type: kind } = tag;
    const terms = (tag.synonyms.search_terms ?? []).slice(0, 4).join(", ");
    const line = button("", () => read(kind, name), { "aria-current": open?.id === tag.id && "true", "data-tag": name });
    const score = el("span", { class: "number dim" }, tag.score.toFixed(3));
    line.append(el("b", null, name), el("span", { class: "chip" }, kind), score, el("span", { class: "terms dim" }, terms));
    return el("li", null, line);
  }

  /** Enter opens the tag with that name. Similar tags are only listed. */
  async function lookUp() {
    const name = box.value.trim();
    if (!name) return;
    const exact = (await find()).find((tag) => tag.tag_name.toLowerCase() === name.toLowerCase());
    if (exact) read(exact.tag_type, exact.tag_name);
    else read(type.value || "genre", name, type.value ? [] : ["mood"]);
  }

  /** Open a tag's synonyms; if it has none, those of a tag of another type with the same name. */
  async function read(tagType, name, others = [], asked = []) {
    if (unsaved && !confirm("Discard the unsaved changes?")) return;
    unsaved = false;
    stop();
    try {
      edit(await call(path("synonyms", tagType, name), { keyed: false }));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) editor.replaceChildren(failure(error));
      else if (others.length) await read(others[0], name, others.slice(1), [...asked, tagType]);
      else missing([...asked, tagType], name);
    }
  }

  function missing(types, name) {
    open = null;
    const problem = el("p", { class: "bad", role: "alert" });
    const write = async (tagType) => {
      edit(await post("/api/synonyms", { tag_type: tagType, tag_name: name, synonyms: { search_terms: [name] } }));
      find();
    };
    const refused = (error) => {
      if (error.status === 401) editor.replaceChildren(failure(error));
      else problem.textContent = error.message;
    };
    const writeFor = (tagType) => button(`Write synonyms for the ${tagType}`, working(() => write(tagType), refused));
    const step = note(
      `“${name}” has no active synonyms`,
      `If a ${types.join(" or a ")} has this name, you can write its synonyms. The name becomes the first term.`,
    );
    step.append(el("div", { class: "row" }, types.map(writeFor)), problem);
    editor.replaceChildren(step);
  }

  function edit(tag, news = "") {
    const another = open?.id !== tag.id;
    open = tag;
    unsaved = false;
    for (const line of found.querySelectorAll("button")) line.toggleAttribute("aria-current", line.dataset.tag === tag.tag_name);
    const form = makeForm(tag.synonyms, tag.confidence);
    const said = el("p", { class: "status", role: "status" });
    const report = (text, bad = false) => {
      said.textContent = text;
      said.classList.toggle("bad", bad);
    };
    const reread = () => {
      unsaved = false;
      read(tag.tag_type, tag.tag_name);
    };
    const failed = (error) => {
      if (error.status === 401) editor.append(failure(error));
      else if (error.status === 409) {
        report(`${error.message}. Nothing was overwritten. `, true);
        said.append(button("Read it again", reread));
      } else report(error.message, true);
    };
    const attempt = (action) => working(() => (report(""), action()), failed);
    const change = (method, body, saved) =>
      attempt(async () => {
        edit(await call(path("synonyms", tag.id), { method, body: body?.() }), saved);
        find();
      });
    const save = change("PUT", () => ({ ...form.values(), updated_at: tag.updated_at }), "Saved. Searches use these synonyms now.");
    const switchOff = change("DELETE", null, "Removed. Searches no longer find this tag. Its terms are kept.");
    const revive = change("PUT", () => ({ is_active: true }), "Searches find this tag again.");
    const again = attempt(async () => {
      const task = await post("/api/synonyms/generate", { tag_type: tag.tag_type, tag_ids: [tag.tag_id], force: true });
      if (!task.task_id) return report(task.message);
      report("The language model writes the synonyms …");
      await follow(task.task_id, report);
      if (open === tag) await read(tag.tag_type, tag.tag_name);
      find();
    });
    const author = { manual: "written by hand", generated: "generated by a language model" }[tag.source] ?? `source: ${tag.source}`;
    const origin = el("span", { class: "dim" }, `${tag.tag_type} · ${author} · ${timeOf(tag.updated_at)}`);
    const state = el("span", { class: `chip ${tag.is_active ? "ok" : "wait"}` }, tag.is_active ? "active" : "not searched");
    const onsubmit = (event) => {
      event.preventDefault();
      save({ currentTarget: event.submitter ?? event.target });
    };
    const oninput = () => {
      unsaved = true;
      report("Unsaved changes");
    };
    editor.replaceChildren(
      el(
        "form",
        { class: "card", oninput, onsubmit },
        el("div", { class: "card-head" }, el("div", null, el("h3", null, tag.tag_name), origin), state),
        form.nodes,
        el(
          "div",
          { class: "row" },
          el("button", { class: "primary" }, "Save"),
          generator && button("Generate again", again),
          tag.is_active ? button("Remove from search", switchOff, { class: "danger" }) : button("Put back into search", revive),
          said,
        ),
      ),
    );
    report(news);
    // On a phone the editor is below the list of tags.
    if (another && matchMedia("(max-width: 860px)").matches) editor.scrollIntoView({ block: "start" });
  }

  /** Wait until the task has ended. */
  async function follow(taskId, tell) {
    for (;;) {
      const task = await call(path("tasks", taskId));
      if (ENDED.includes(task.status)) {
        if (task.status !== "completed") tell(task.error ?? task.status, true);
        return;
      }
      await new Promise((resolve) => (watch = setTimeout(resolve, TASK_MS)));
    }
  }

  const stop = () => clearTimeout(watch);

  async function showState() {
    await fill(state, async () => {
      const { generator: there, coverage, failures } = await call("/api/synonyms/generation");
      generator = there;
      const without = sum(coverage, "without");
      const said = el("p", { class: "dim", role: "status" });
      const tell = (text) => (said.textContent = text);
      const write = async () => {
        const task = await post("/api/synonyms/generate", {});
        tell(task.message);
        if (!task.task_id) return;
        await follow(task.task_id, tell);
        showState();
      };
      const writeAll = working(write, (error) => tell(error.message));
      const step = generator
        ? without > 0 && el("div", { class: "row" }, button(`Write synonyms for ${plural(without, "tag")}`, writeAll), said)
        : el("p", { class: "dim" }, NO_GENERATOR);
      const rows = coverage.map((row) => figureRow(row.tag_type, [row.tags, row.active, row.without, row.failed].map(count)));
      return [
        el("h3", null, "Tags"),
        table("numbers", ["type", "tags", "written", "missing", "failed"], rows),
        step,
        failures.length > 0 && el("ul", { class: "failures" }, failures.map(failedTag)),
      ];
    });
  }

  return {
    show: showState,
    hide: stop,
    reset(now) {
      editor.querySelectorAll("form.note").forEach((old) => old.remove());
      if (!editor.hasChildNodes()) welcome();
      if (now) showState();
    },
  };
}

/** The fields of a tag's synonyms, and their values. */
function makeForm(synonyms, confidence) {
  const area = (label, lines, hint = "one on each line") => {
    const id = `terms-${label.toLowerCase().replaceAll(" ", "-")}`;
    const input = el("textarea", { rows: 6, id, spellcheck: "false" }, (lines ?? []).join("\n"));
    const name = el("span", null, label, " ", el("small", { class: "dim" }, hint));
    const read = () => input.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return { node: el("label", { class: "field", for: id }, name, input), read };
  };
  const terms = area("Search terms", synonyms.search_terms, "one on each line; the first is the name of the tag");
  const related = area("Related tags", synonyms.related_tags);
  const fr = area("In French", synonyms.translations?.fr);
  const en = area("In English", synonyms.translations?.en);
  const context = el("textarea", { rows: 3, maxlength: 2000, id: "usage-context" }, synonyms.usage_context);
  const sure = el("input", { type: "number", min: 0, max: 1, step: 0.05, value: confidence, id: "tag-confidence" });
  return {
    nodes: [
      el("div", { class: "fields" }, [terms, related, fr, en].map(({ node }) => node)),
      el("label", { class: "field", for: "usage-context" }, el("span", null, "Used for"), context),
      el("label", { class: "field narrow", for: "tag-confidence" }, el("span", null, "Confidence"), sure),
    ],
    values: () => ({
      synonyms: {
        search_terms: terms.read(),
        related_tags: related.read(),
        usage_context: context.value.trim(),
        translations: { fr: fr.read(), en: en.read() },
      },
      confidence: Number(sure.value),
    }),
  };
}

function failedTag({ tag_name: name, error, attempts }) {
  const reason = el("div", null, el("b", null, name), el("p", null, error ?? "no reason was given"));
  return el("li", null, reason, el("span", { class: "dim" }, plural(attempts, "attempt")));
}
