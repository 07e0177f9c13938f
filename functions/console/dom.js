// Elements and figures. Text goes into the page as text nodes: nothing here, or anywhere else, parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `on…` adds a listener, `vars` sets CSS properties; null and false attributes and children are left out. */
export function el(tag, attributes, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "vars") for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A button; `attributes` may hold more. */
export function button(text, onclick, attributes) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/** Change a node's text only where it differs, so that nothing is laid out or read aloud again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Run a button's action with the button switched off meanwhile; focus stays on it. */
export function working(action) {
  return async (event) => {
    const pressed = event.currentTarget;
    if (pressed.getAttribute("aria-disabled") === "true") return;
    pressed.setAttribute("aria-disabled", "true");
    try {
      await action(event);
    } finally {
      pressed.removeAttribute("aria-disabled");
    }
  };
}

/** A function that runs an action at the next frame, once however often it is called before. */
export function oncePerFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  };
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const day = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const count = (number) => whole.format(number);
export const compact = (number) => short.format(number);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const dayOf = (iso) => day.format(new Date(`${iso}T00:00:00`));
export const timeOf = (iso) => moment.format(new Date(iso));

/** USD, with digits enough to tell small sums from nothing; – where the price is not known. */
export function money(cost) {
  if (cost === null) return "–";
  if (cost === 0) return "$0";
  return `$${cost >= 1 ? cost.toFixed(2) : cost >= 0.01 ? cost.toFixed(3) : Number(cost.toPrecision(2))}`;
}

/** A share in percent; what is not nothing and not all is never rounded to it. */
export function percent(part, total) {
  if (!part) return "0\u00a0%";
  if (part === total) return "100\u00a0%";
  const share = Math.min(99.9, Math.max((100 * part) / total, 0.1));
  return `${share.toFixed(share < 10 || share > 99 ? 1 : 0).replace(/\.0$/, "")}\u00a0%`;
}

/** Seconds in words. Figure and unit stay on one line, here and above. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}\u00a0s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes}\u00a0min` : `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min`;
}
