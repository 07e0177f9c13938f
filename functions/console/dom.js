// Creates elements and formats figures. All text becomes text nodes: no code of the console parses markup.

const SVG = "http://www.w3.org/2000/svg";
const TYPING_MS = 150;
const LEFT_OUT = [null, undefined, false];

/** An element. `on…` adds a listener, `vars` sets CSS properties; null and false attributes and children are left out. */
export function el(tag, attributes, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (LEFT_OUT.includes(value)) continue;
    if (name === "vars") for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => !LEFT_OUT.includes(child)));
  return node;
}

/** A button with optional attributes. */
export function button(text, onclick, attributes) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/** Change a node's text only if it differs. Otherwise the browser would lay it out and a screen reader read it again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Make `nodes` the children of `place`. A node that is already in its position is not moved. */
export function arrange(place, nodes) {
  for (const child of [...place.children]) if (!nodes.includes(child)) child.remove();
  nodes.forEach((node, index) => node === place.children[index] || place.insertBefore(node, place.children[index] ?? null));
}

/** Run a button's action. Until it ends, the button is disabled but keeps the focus. `failed` gets an error. */
export function working(action, failed) {
  return async (event) => {
    const pressed = event.currentTarget;
    if (pressed.getAttribute("aria-disabled") === "true") return;
    pressed.setAttribute("aria-disabled", "true");
    try {
      await action(event);
    } catch (error) {
      if (!failed) throw error;
      failed(error);
    } finally {
      pressed.removeAttribute("aria-disabled");
    }
  };
}

/** A group of buttons ([[value, text]]), one of which is pressed. `press` is called with the value of a clicked button. */
export function segments(label, pairs, chosen, press) {
  const buttons = pairs.map(([value, text]) =>
    button(text, (event) => {
      for (const one of buttons) one.setAttribute("aria-pressed", one === event.currentTarget);
      press(value);
    }, { "aria-pressed": String(value === chosen) }),
  );
  return el("div", { class: "segments", role: "group", "aria-label": label }, buttons);
}

/** A field with a label for screen readers only. */
export const labelled = (text, field, kind) => el("label", { class: kind }, el("span", { class: "sr" }, text), field);

/** A form around a search box and its selects; Enter searches. */
export const searchbar = (search, ...fields) =>
  el("form", { class: "searchbar", role: "search", onsubmit: (event) => (event.preventDefault(), search()) }, fields);

/** A section that the user can open under its title. */
export const fold = (title, body, attributes) =>
  el("details", { class: "fold", ...attributes }, el("summary", null, title), el("div", { class: "fold-body" }, body));

/** Figures with their labels: [[label, text or <dd>]]. */
export const figures = (pairs) =>
  pairs.map(([label, value]) => el("div", null, el("dt", null, label), value instanceof Node ? value : el("dd", null, value)));

/** A table. `rows` is a list of rows, or a <tbody> that the caller fills. */
export function table(kind, heads, rows) {
  const head = el("tr", null, heads.map((text) => el("th", { scope: "col" }, text)));
  return el("table", { class: kind }, el("thead", null, head), rows instanceof Node ? rows : el("tbody", null, rows));
}

/** A row of a table: its name, then figures. */
export const figureRow = (name, cells) => el("tr", null, el("th", { scope: "row" }, name), numbers(cells));
export const numbers = (cells) => cells.map((cell) => el("td", { class: "number" }, cell));

/** Choices of a select: [[value, label]]. */
export const choices = (pairs) => pairs.map(([value, label]) => el("option", { value }, label));

export const sum = (rows, field) => rows.reduce((all, row) => all + row[field], 0);

/** A function that returns whether its value differs from the value of the previous call. */
export function changing() {
  let seen;
  return (value) => seen !== (seen = JSON.stringify(value));
}

/** `later` runs an action when the user has typed nothing for a moment; `cancel` prevents this. */
export function afterTyping(action) {
  let timer = null;
  const cancel = () => clearTimeout(timer);
  const later = () => {
    cancel();
    timer = setTimeout(action, TYPING_MS);
  };
  return { later, cancel };
}

/** A function that runs an action once at the next frame, even if it is called several times. */
export function oncePerFrame(action) {
  let frame = null;
  const run = () => {
    frame = null;
    action();
  };
  return () => (frame ??= requestAnimationFrame(run));
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const count = (number) => whole.format(number);
export const about = (number, estimated) => `${estimated && number ? "about " : ""}${count(number)}`;
export const compact = (number) => short.format(number);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const dayOf = (iso) => day.format(new Date(`${iso}T00:00:00`));
export const timeOf = (iso) => moment.format(new Date(iso));

/** USD with enough digits for small sums; – if the price is not known. */
export function money(cost) {
  if (cost === null) return "–";
  if (cost === 0) return "$0";
  return `$${cost >= 1 ? cost.toFixed(2) : cost >= 0.01 ? cost.toFixed(3) : Number(cost.toPrecision(2))}`;
}

/** A share in percent; it is rounded to 0 or 100 only if it is exactly that. */
export function percent(part, total) {
  if (!part) return "0\u00a0%";
  if (part === total) return "100\u00a0%";
  const share = Math.min(99.9, Math.max((100 * part) / total, 0.1));
  return `${share.toFixed(share < 10 || share > 99 ? 1 : 0).replace(/\.0$/, "")}\u00a0%`;
}

/** A duration with its unit. No-break spaces keep number and unit on one line. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}\u00a0s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes}\u00a0min` : `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}
