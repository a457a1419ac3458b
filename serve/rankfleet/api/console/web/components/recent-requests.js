// What became of the requests of the last minutes: how many, in time or late, by which tier, and what was refused.

import { h } from "../lib/element.js";
import { count, ms } from "../lib/format.js";

export class RecentRequests extends HTMLElement {
  /** recent: of GET /v1/fleet. tierIndex(name): for its colour. */
  show(recent, tierIndex) {
    const refused = Object.values(recent.refused).reduce((sum, number) => sum + number, 0);
    const rate = recent.period_s ? (recent.answered / recent.period_s).toFixed(1) : "0";
    const facts = [
      [recent.answered, `answered, ${rate} a second`],
      [recent.with_budget ? `${((recent.met / recent.with_budget) * 100).toFixed(1)}%` : "–", "of those with a budget in time"],
      [refused, refused ? `refused or failed: ${codes(recent.refused)}` : "refused or failed"],
    ];
    this.replaceChildren(
      h("p", { class: "note" }, `In the last ${ms(recent.period_s * 1000)}`),
      h("dl", { class: "facts" }, facts.map(([value, name]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      h("ul", { class: "shares", "aria-label": "Answers by tier" }, Object.entries(recent.tiers).map((entry) => share(entry, recent.answered, tierIndex))),
    );
  }
}

function share([tier, number], all, tierIndex) {
  const percent = (number / all) * 100;
  const name = tier === "none" ? "the order as given" : tier;
  const item = h("li", { "data-tier": tierIndex(tier), title: count(number, "answer") }, `${name} ${percent.toFixed(0)}%`);
  item.style.flexGrow = percent;
  return item;
}

const codes = (refused) => Object.entries(refused).map(([code, number]) => `${code} ${number}`).join(", ");

customElements.define("recent-requests", RecentRequests);
