// What a tighter or a larger budget would change, as buttons that set it. Sends `budget` with `detail` in ms.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

export class BudgetOffers extends HTMLElement {
  /** offers: of `budgetOffers`; null while they are asked for. budgetMs: the budget now. */
  show(offers, budgetMs, tierIndex) {
    if (offers === null) return this.replaceChildren(h("p", { class: "note" }, "Asking what each budget buys…"));
    const current = offers.findLastIndex((offer) => offer.fromMs <= budgetMs);
    this.replaceChildren(
      h("h3", { id: "offers-title" }, "What each budget gets now"),
      h("p", { class: "other" }, inWords(offers, Math.max(0, current))),
      h(
        "ul",
        { class: "offers", "aria-labelledby": "offers-title" },
        offers.map((offer, i) => h("li", {}, this.#button(offer, offers[i + 1], i === 0, i === Math.max(0, current), tierIndex))),
      ),
    );
  }

  #button(offer, next, first, current, tierIndex) {
    const range = first ? (next ? `under ${ms(next.fromMs)}` : "any budget") : `from ${ms(offer.fromMs)}`;
    const inside = first && next ? next.fromMs * 0.9 : offer.fromMs * 1.02;
    const budget = Math.max(1, Number(inside.toPrecision(3))); // two digits could be those of the offer below
    return h(
      "button",
      {
        type: "button", "aria-pressed": String(current), "data-tier": offer.tier === null ? "refused" : tierIndex(offer.tier),
        onclick: () => this.dispatchEvent(new CustomEvent("budget", { detail: budget })),
      },
      h("b", {}, offer.name),
      " ",
      h("span", {}, range),
    );
  }
}

// What less time and more time would change.
function inWords(offers, current) {
  const [less, now, more] = [offers[current - 1], offers[current], offers[current + 1]];
  const gets = ({ tier, name }) => (tier === null ? "the request would be refused" : `${name} would answer`);
  const tighter = less ? `Under ${ms(now.fromMs)}, ${gets(less)}` : "Less time would change nothing";
  return `${tighter}; ${more ? `from ${ms(more.fromMs)} on, ${gets(more)}` : "more time would change nothing"}.`;
}

customElements.define("budget-offers", BudgetOffers);
