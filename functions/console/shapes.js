// Assigns a colour (of eight) and a shape (of four) to each category of the map.

import { el } from "./dom.js";

export const COLOURS = 8;
const SHAPES = 4;

/** The colours of the current theme. */
export const palette = () => [...Array(COLOURS).keys()].map((index) => getComputedStyle(probe(index)).color);

/** The mark of a category in the legend: its shape and its colour. */
export function swatch(kind) {
  const shape = el("svg:path", { d: SVG_SHAPES[shapeOf(kind)], fill: "currentColor" });
  return el("svg:svg", { class: `swatch c${kind % COLOURS}`, viewBox: "-6 -6 12 12", "aria-hidden": "true" }, shape);
}

// Shapes make the kinds distinguishable for colour-blind users, and allow more than eight kinds.
const shapeOf = (kind) => (kind + Math.floor(kind / COLOURS)) % SHAPES;
const SVG_SHAPES = ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", "M0-5.800L5.800 0L0 5.800L-5.800 0Z", "M-4.500-4.500h9v9h-9Z", "M0-5.500L5.500 4.300H-5.500Z"];

// The corners of the same shapes on a canvas. The first shape is a circle, without corners.
const DIAMOND = [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]];
const SQUARE = [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]];
const TRIANGLE = [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]];
const CORNERS = [[[1, 0]], DIAMOND, SQUARE, TRIANGLE];

export function trace(context, kind, x, y, radius) {
  const shape = shapeOf(kind);
  for (const [index, [dx, dy]] of CORNERS[shape].entries()) context[index ? "lineTo" : "moveTo"](x + dx * radius, y + dy * radius);
  if (shape === 0) context.arc(x, y, radius, 0, 2 * Math.PI);
  context.closePath();
}

/** An element with the colour of a kind, from which the theme's value is read. */
function probe(index) {
  const id = `probe-${index}`;
  return document.getElementById(id) ?? document.body.appendChild(el("i", { id, class: `probe c${index}`, hidden: true }));
}
