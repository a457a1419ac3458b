// The groups of the fleet and their replicas, with their load as this router knows it.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

const HEAD = ["Group", "Tiers", "Replica", "State", "In flight", "Work ahead"];

export class GroupTable extends HTMLElement {
  /** groups: of GET /v1/fleet. */
  show(groups) {
    this.replaceChildren(
      h(
        "div",
        { class: "scroll", role: "group", tabindex: "0", "aria-label": "Groups and replicas" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, HEAD.map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, groups.flatMap(rows)),
        ),
      ),
    );
  }
}

function rows(group) {
  const tiers = group.tiers.join(", ");
  const where = group.in_router ? `${group.name} (in the router)` : group.name;
  if (!group.replicas.length) {
    const state = group.asleep ? "asleep: the next request starts a replica" : "no replica has been heard of yet";
    return [h("tr", {}, h("th", { scope: "row" }, where), h("td", {}, tiers), h("td", {}, "–"), h("td", {}, state), h("td", {}), h("td", {}))];
  }
  return group.replicas.map((replica) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, where),
      h("td", {}, tiers),
      h("td", {}, replica.name),
      h("td", { class: replica.ejected && "late" }, replica.ejected ? "ejected: it lost or failed work" : "takes work"),
      h("td", {}, replica.chunks),
      h("td", {}, ms(replica.ahead_ms)),
    ),
  );
}

customElements.define("group-table", GroupTable);
