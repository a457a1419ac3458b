// What a tighter or a larger budget would change, as buttons that set it. Sends `budget` with `detail` in ms.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

export class BudgetRungs extends HTMLElement {
  /** rungs: of `ladder`; null while they are asked for. budgetMs: the budget now. */
  show(rungs, budgetMs, tierIndex) {
    if (rungs === null) return this.replaceChildren(h("p", { class: "note" }, "Asking what each budget buys…"));
    const current = rungs.findLastIndex((rung) => rung.fromMs <= budgetMs);
    this.replaceChildren(
      h("h3", { id: "rungs-title" }, "What each budget gets now"),
      h(
        "ul",
        { class: "rungs", "aria-labelledby": "rungs-title" },
        rungs.map((rung, i) => h("li", {}, this.#button(rung, rungs[i + 1], i === 0, i === Math.max(0, current), tierIndex))),
      ),
    );
  }

  #button(rung, next, first, current, tierIndex) {
    const range = first ? (next ? `under ${ms(next.fromMs)}` : "any budget") : `from ${ms(rung.fromMs)}`;
    const inside = first && next ? next.fromMs * 0.9 : rung.fromMs * 1.02;
    const budget = Math.max(1, Number(inside.toPrecision(3))); // two digits could be those of the rung below
    return h(
      "button",
      {
        type: "button", "aria-pressed": String(current), "data-tier": rung.tier === null ? "refused" : tierIndex(rung.tier),
        onclick: () => this.dispatchEvent(new CustomEvent("budget", { detail: budget })),
      },
      h("b", {}, rung.name),
      " ",
      h("span", {}, range),
    );
  }
}

customElements.define("budget-rungs", BudgetRungs);
