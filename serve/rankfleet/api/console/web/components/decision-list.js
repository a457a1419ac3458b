// The latest decisions of the router that answered, newest first.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";
import { dataTable } from "./data-table.js";

const HEAD = ["Ago", "Answered by", "Took", "Budget", "Why"];

export class DecisionList extends HTMLElement {
  /** decisions: of GET /v1/fleet. */
  show(decisions, tierIndex) {
    if (!decisions.length) return this.replaceChildren(h("p", { class: "notice" }, "No request has been answered yet. “Try it” sends some."));
    this.replaceChildren(dataTable("Latest decisions", HEAD, decisions.map((decision) => row(decision, tierIndex)), 1));
  }
}

function row({ age_s, tier, total_ms, budget_ms, met, reason }, tierIndex) {
  const name = tier === "none" ? "the order as given" : tier;
  return [
    [ms(age_s * 1000)],
    [h("span", { class: "dot", "data-tier": tierIndex(tier), "aria-hidden": "true" }), ` ${name}`],
    [{ class: met === false && "late" }, ms(total_ms), met === false ? " late" : null],
    [budget_ms === null ? "none" : ms(budget_ms)],
    [reason],
  ];
}

customElements.define("decision-list", DecisionList);
