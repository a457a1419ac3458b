// The latest decisions of the router that answered, newest first.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

const HEAD = ["Ago", "Answered by", "Took", "Budget", "Why"];

export class DecisionList extends HTMLElement {
  /** decisions: of GET /v1/fleet. */
  show(decisions, tierIndex) {
    if (!decisions.length) return this.replaceChildren(h("p", { class: "notice" }, "No request has been answered yet. “Try it” sends some."));
    this.replaceChildren(
      h(
        "div",
        { class: "scroll", role: "group", tabindex: "0", "aria-label": "Latest decisions" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, HEAD.map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, decisions.map((decision) => row(decision, tierIndex))),
        ),
      ),
    );
  }
}

function row({ age_s, tier, total_ms, budget_ms, met, reason }, tierIndex) {
  const name = tier === "none" ? "the order as given" : tier;
  return h(
    "tr",
    {},
    h("td", {}, ms(age_s * 1000)),
    h("th", { scope: "row" }, h("span", { class: "dot", "data-tier": tierIndex(tier), "aria-hidden": "true" }), ` ${name}`),
    h("td", { class: met === false && "late" }, ms(total_ms), met === false ? " late" : null),
    h("td", {}, budget_ms === null ? "none" : ms(budget_ms)),
    h("td", {}, reason),
  );
}

customElements.define("decision-list", DecisionList);
