// Synonyms of genres and moods: look up, read, edit, generate again, remove from search.

import { ApiError, call, newest, path, post } from "./api.js";
import { button, count, el, plural, say, timeOf, working } from "./dom.js";
import { DEGRADED, failure, fill, note } from "./states.js";

const TYPING_MS = 150;
const TASK_MS = 1000;
const FOUND = 8;
const ENDED = ["completed", "failed", "interrupted", "crashed"];

export function mountSynonyms(panel) {
  const box = el("input", { type: "search", id: "tag-query", placeholder: "bossa nova, musique douce, rainy evening …", autocomplete: "off", maxlength: 100 });
  const type = el("select", { id: "tag-type" }, [["", "genres and moods"], ["genre", "genres"], ["mood", "moods"]].map(([value, label]) => el("option", { value }, label)));
  const state = el("div", { class: "synonym-state" });
  const found = el("ul", { class: "tags", "aria-label": "Tags found" });
  const status = el("p", { class: "dim status", role: "status" });
  const warning = el("p", { class: "notice", hidden: true }, DEGRADED);
  const editor = el("div", { class: "editor" });
  panel.append(
    el("h2", { class: "sr" }, "Synonyms"),
    el(
      "form",
      { class: "searchbar", role: "search", onsubmit: (event) => (event.preventDefault(), lookUp()) },
      el("label", { class: "grow" }, el("span", { class: "sr" }, "Look up a tag"), box),
      el("label", null, el("span", { class: "sr" }, "of the type"), type),
    ),
    el("div", { class: "row" }, status),
    warning,
    el("div", { class: "synonyms" }, el("div", null, found, state), editor),
  );
  const latest = newest();
  let timer = null;
  let watch = null;
  let open = null;
  let generator = false;
  let unsaved = false;

  addEventListener("beforeunload", (event) => unsaved && event.preventDefault());

  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(find, TYPING_MS);
  });
  type.addEventListener("change", find);
  welcome();

  function welcome() {
    editor.replaceChildren(note("Look up a tag", "By its name or by a synonym, in English or French. Edit its terms here, or have the model write them again."));
  }

  async function find() {
    clearTimeout(timer);
    const query = box.value.trim();
    if (!query) {
      latest(async () => null);
      found.replaceChildren();
      say(status, "");
      return [];
    }
    const wanted = new URLSearchParams({ q: query, limit: FOUND });
    if (type.value) wanted.set("tag_type", type.value);
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
    const line = button("", () => read(tag.tag_type, tag.tag_name), { "aria-current": open && open.id === tag.id ? "true" : null, "data-tag": tag.tag_name });
    line.append(el("b", null, tag.tag_name), el("span", { class: "chip" }, tag.tag_type), el("span", { class: "number dim" }, tag.score.toFixed(3)));
    line.append(el("span", { class: "terms dim" }, (tag.synonyms.search_terms ?? []).slice(0, 4).join(", ")));
    return el("li", null, line);
  }

  /** Enter opens the tag of that name. Tags that are only similar are listed, not opened. */
  async function lookUp() {
    const name = box.value.trim();
    if (!name) return;
    const exact = (await find()).find((tag) => tag.tag_name.toLowerCase() === name.toLowerCase());
    if (exact) read(exact.tag_type, exact.tag_name);
    else read(type.value || "genre", name, type.value ? [] : ["mood"]);
  }

  /** Open a tag's synonyms; where there are none, those of the same name among the other types. */
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
    const write = (tagType) => working(async () => {
      try {
        edit(await post("/api/synonyms", { tag_type: tagType, tag_name: name, synonyms: { search_terms: [name] } }));
        find();
      } catch (error) {
        if (error.status === 401) editor.replaceChildren(failure(error));
        else problem.textContent = error.message;
      }
    });
    editor.replaceChildren(
      el(
        "div",
        { class: "note" },
        el("h3", null, `“${name}” has no active synonyms`),
        el("p", null, `If there is a ${types.join(" or a ")} of that name, begin with its own name as the first term.`),
        el("div", { class: "row" }, types.map((tagType) => button(`Write synonyms for the ${tagType}`, write(tagType)))),
        problem,
      ),
    );
  }

  function edit(tag) {
    const another = open?.id !== tag.id;
    open = tag;
    unsaved = false;
    for (const line of found.querySelectorAll("button")) line.toggleAttribute("aria-current", line.dataset.tag === tag.tag_name);
    const { synonyms } = tag;
    const areas = {
      search_terms: area("Search terms", synonyms.search_terms, "one a line; the first is the name"),
      related_tags: area("Related tags", synonyms.related_tags, "one a line"),
      fr: area("In French", synonyms.translations?.fr, "one a line"),
      en: area("In English", synonyms.translations?.en, "one a line"),
    };
    const context = el("textarea", { rows: 3, maxlength: 2000, id: "usage-context" });
    context.value = synonyms.usage_context ?? "";
    const confidence = el("input", { type: "number", min: 0, max: 1, step: 0.05, value: tag.confidence, id: "tag-confidence" });
    const said = el("p", { class: "status", role: "status" });
    const report = (text, bad = false) => {
      said.textContent = text;
      said.classList.toggle("bad", bad);
    };
    const attempt = (action) =>
      working(async () => {
        report("");
        try {
          await action(report);
        } catch (error) {
          if (error instanceof ApiError && error.status === 401) editor.append(failure(error));
          else if (error instanceof ApiError && error.status === 409) {
            report(`${error.message}. Nothing was overwritten. `, true);
            said.append(button("Read it again", () => ((unsaved = false), read(tag.tag_type, tag.tag_name))));
          } else report(error.message, true);
        }
      });
    const save = attempt(async () => {
      const written = {
        search_terms: areas.search_terms.lines(),
        related_tags: areas.related_tags.lines(),
        usage_context: context.value.trim(),
        translations: { fr: areas.fr.lines(), en: areas.en.lines() },
      };
      const body = { synonyms: written, confidence: Number(confidence.value), updated_at: tag.updated_at };
      edit(await call(path("synonyms", tag.id), { method: "PUT", body }));
      editor.querySelector("[role=status]").textContent = "Saved. Search uses it now.";
      find();
    });
    const switchOff = attempt(async () => {
      edit(await call(path("synonyms", tag.id), { method: "DELETE" }));
      editor.querySelector("[role=status]").textContent = "Removed: searches no longer find this tag. Its terms are kept.";
      find();
    });
    const revive = attempt(async () => {
      edit(await call(path("synonyms", tag.id), { method: "PUT", body: { is_active: true } }));
      editor.querySelector("[role=status]").textContent = "Searches find this tag again.";
      find();
    });
    const again = attempt(async (tell) => {
      const task = await post("/api/synonyms/generate", { tag_type: tag.tag_type, tag_ids: [tag.tag_id], force: true });
      if (!task.task_id) return tell(task.message);
      tell("The model is writing …");
      await follow(task.task_id, tell);
      if (open === tag) await read(tag.tag_type, tag.tag_name);
      find();
    });
    editor.replaceChildren(
      el(
        "form",
        { class: "card", oninput: () => ((unsaved = true), report("Unsaved changes")), onsubmit: (event) => (event.preventDefault(), save({ currentTarget: event.submitter ?? event.target })) },
        el(
          "div",
          { class: "card-head" },
          el("div", null, el("h3", null, tag.tag_name), el("span", { class: "dim" }, `${tag.tag_type} · written by ${tag.source === "manual" ? "hand" : tag.source} · ${timeOf(tag.updated_at)}`)),
          el("span", { class: `chip ${tag.is_active ? "ok" : "wait"}` }, tag.is_active ? "active" : "not searched"),
        ),
        el("div", { class: "fields" }, Object.values(areas).map(({ node }) => node)),
        el("label", { class: "field", for: "usage-context" }, el("span", null, "Used for"), context),
        el("label", { class: "field narrow", for: "tag-confidence" }, el("span", null, "Confidence"), confidence),
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
    // On a phone it lies below the tags that were found.
    if (another && matchMedia("(max-width: 860px)").matches) editor.scrollIntoView({ block: "start" });
  }

  function area(label, lines, hint) {
    const id = `terms-${label.toLowerCase().replaceAll(" ", "-")}`;
    const input = el("textarea", { rows: 6, id, spellcheck: "false" });
    input.value = (lines ?? []).join("\n");
    return {
      node: el("label", { class: "field", for: id }, el("span", null, label, " ", el("small", { class: "dim" }, hint)), input),
      lines: () => input.value.split("\n").map((line) => line.trim()).filter(Boolean),
    };
  }

  /** Until the task has ended. */
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
      const without = coverage.reduce((all, row) => all + row.without, 0);
      const said = el("p", { class: "dim", role: "status" });
      const tell = (text) => (said.textContent = text);
      const write = working(async () => {
        try {
          const task = await post("/api/synonyms/generate", {});
          tell(task.message);
          if (!task.task_id) return;
          await follow(task.task_id, tell);
          showState();
        } catch (error) {
          tell(error.message);
        }
      });
      return [
        el("h3", null, "Tags"),
        el("table", { class: "numbers" }, el("thead", null, el("tr", null, ["type", "tags", "written", "missing", "failed"].map((head) => el("th", { scope: "col" }, head)))), el("tbody", null, coverage.map((row) => el("tr", null, el("th", { scope: "row" }, row.tag_type), [row.tags, row.active, row.without, row.failed].map((number) => el("td", { class: "number" }, count(number))))))),
        generator
          ? without > 0 && el("div", { class: "row" }, button(`Write synonyms for ${plural(without, "tag")}`, write), said)
          : el("p", { class: "dim" }, "No model is set up to write synonyms: set GENERATION_PROVIDER to ollama or openai in the server's environment. You can still write them by hand."),
        failures.length > 0 && el("ul", { class: "failures" }, failures.map((row) => el("li", null, el("div", null, el("b", null, row.tag_name), el("p", null, row.error ?? "no reason was given")), el("span", { class: "dim" }, plural(row.attempts, "attempt"))))),
      ].filter(Boolean);
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
