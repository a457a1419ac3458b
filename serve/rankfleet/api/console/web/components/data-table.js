// A table that scrolls where it is wide, and whose rows become blocks on a phone. The roles are named, because browsers
// drop those of a table whose rows are laid out as blocks.

import { h } from "../lib/element.js";

/** rows: lists of cells, each a list of children or [attributes, ...children]; the cell at `header` names its row. */
export function dataTable(name, head, rows, header = 0) {
  const cell = ([first, ...rest], i) => {
    const attributes = first?.constructor === Object ? first : {};
    const children = first === attributes ? rest : [first, ...rest];
    const named = { ...attributes, "data-label": head[i] }; // which a phone shows, where the head would be far off
    return i === header ? h("th", { scope: "row", role: "rowheader", ...named }, children) : h("td", { role: "cell", ...named }, children);
  };
  return h(
    "div",
    { class: "scroll", role: "group", tabindex: "0", "aria-label": name },
    h(
      "table",
      { role: "table", "aria-label": name },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((title) => h("th", { scope: "col", role: "columnheader" }, title)))),
      h("tbody", { role: "rowgroup" }, rows.map((cells) => h("tr", { role: "row" }, cells.map(cell)))),
    ),
  );
}
