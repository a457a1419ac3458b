// Every plan that was considered, best first, and why each was taken or not. Cascades and plans that leave something
// out are many: they show when asked for.

import { h } from "../lib/element.js";
import { ms, planName, quality } from "../lib/format.js";

export class PlanTable extends HTMLElement {
  #all = false;

  /** decision: of /v1/plan. */
  show(decision, tierIndex) {
    const shown = this.#all ? decision.considered : decision.considered.filter(isShort);
    const more = decision.considered.length - decision.considered.filter(isShort).length;
    const toggle = () => {
      this.#all = !this.#all;
      this.show(decision, tierIndex);
      this.querySelector("button").focus();
    };
    this.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, "Every alternative, best first, and why"),
        h("thead", {}, h("tr", {}, ["Plan", "nDCG@10", "Predicted", "Verdict"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, shown.map((each) => row(each, tierIndex))),
      ),
      ...(more ? [this.#toggle(more, toggle)] : []),
    );
  }

  #toggle(more, toggle) {
    const name = this.#all ? "Show fewer" : `Show ${more} more: cascades, and plans that leave something out`;
    return h("button", { type: "button", class: "more", "aria-expanded": String(this.#all), onclick: toggle }, name);
  }
}

const isShort = (each) => each.how === "everything" || each.tier === "none" || each.verdict === "chosen";

function row(each, tierIndex) {
  const chosen = each.verdict === "chosen";
  return h(
    "tr",
    { class: chosen && "chosen" },
    h("th", { scope: "row" }, h("span", { class: "dot", "data-tier": tierIndex(each.tier), "aria-hidden": "true" }), planName(each)),
    h("td", {}, quality(each.quality)),
    h("td", {}, ms(each.predicted_ms)),
    h("td", {}, chosen ? h("b", {}, "chosen") : each.verdict),
  );
}

customElements.define("plan-table", PlanTable);
