// A part of a view, with its heading.

import { h } from "../lib/element.js";

export function panel(name, title, ...content) {
  return h("section", { class: `panel ${name}`, "aria-labelledby": `${name}-title` }, h("h2", { id: `${name}-title` }, title), content);
}
