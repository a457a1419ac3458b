// Where the time of each answer went, as bars on one axis, with the budget and what was predicted.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

const STEPS = ["read", "tokenize", "plan", "transfer", "queue", "infer", "reply"];

export class TimeChart extends HTMLElement {
  /** columns: those that have been answered. budgetMs: of the request to `auto`. */
  show(columns, budgetMs, titleOf) {
    const totals = columns.map((column) => column.totalMs);
    const predicted = columns.map((column) => column.reply.rankfleet.predicted_ms ?? 0);
    // The budget is on the axis unless that would leave the bars too short to read.
    const most = Math.max(...totals, ...predicted);
    const end = (budgetMs <= 3 * most ? Math.max(most, budgetMs) : most) * 1.05;
    this.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, "Where the time went"),
        h("thead", {}, h("tr", {}, ["Ranking", "Steps", "Total"].map((name) => h("th", { scope: "col" }, h("span", { class: "sr" }, name))))),
        h("tbody", {}, columns.map((column) => this.#row(column, end, budgetMs, titleOf(column)[0]))),
      ),
      h(
        "ul",
        { class: "legend" },
        STEPS.map((step) => h("li", {}, h("span", { class: `swatch ${step}` }), step)),
        h("li", {}, h("span", { class: "swatch predicted" }), "predicted, 99th percentile"),
        budgetMs <= end ? h("li", {}, h("span", { class: "swatch limit" }), `budget, ${ms(budgetMs)}`) : null,
      ),
    );
  }

  #row({ reply, totalMs }, end, budgetMs, title) {
    const { timing_ms: timing, predicted_ms: predicted } = reply.rankfleet;
    const share = (value) => `${(value / end) * 100}%`;
    const words = STEPS.map((step) => `${step} ${ms(timing[step])}`).join(", ");
    const parts = STEPS.map((step) => {
      const part = h("span", { class: `part ${step}`, title: `${step} ${ms(timing[step])}` });
      part.style.width = share(timing[step]);
      return part;
    });
    const line = (kind, value) => {
      const at = h("span", { class: kind });
      at.style.left = share(value);
      return at;
    };
    const bar = h(
      "div",
      { class: "bars", role: "img", "aria-label": `${words}; predicted ${ms(predicted)}` },
      parts,
      predicted !== null ? line("predicted", predicted) : null,
      budgetMs <= end ? line("limit", budgetMs) : null,
    );
    const late = totalMs > budgetMs;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, title),
      h("td", {}, bar),
      h("td", { class: late && "late" }, ms(totalMs), late ? " late" : null),
    );
  }
}

customElements.define("time-chart", TimeChart);
