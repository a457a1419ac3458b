// The groups of the fleet: why each has its number of replicas, and the replicas with their load as this router knows it.

import { h } from "../lib/element.js";
import { ago, count, ms } from "../lib/format.js";

const HEAD = ["Group", "Tiers", "Replica", "State", "In flight", "Work ahead"];

export class GroupTable extends HTMLElement {
  /** groups: of GET /v1/fleet. */
  show(groups) {
    this.replaceChildren(
      h("ul", { class: "scaling", "aria-label": "Why each group has its replicas" }, groups.map(scaling)),
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

function scaling(group) {
  const { name, in_router, scaling: told } = group;
  if (in_router) return h("li", {}, h("b", {}, name), " runs in each router and is not scaled apart from it.");
  if (!told) return h("li", {}, h("b", {}, name), ": the autoscaler has not been heard of yet.");
  const range = `${told.running} of ${count(told.target, "replica")} running`;
  if (told.state === "fixed") return h("li", {}, h("b", {}, name), `: ${range}; ${told.reason}.`);
  return h(
    "li",
    {},
    h("b", {}, name),
    `: ${range}, between ${group.min_replicas} and ${group.max_replicas}. `,
    h("span", { class: "tag" }, told.state),
    ` ${sentence(told.reason)}`,
    told.last_change ? change(told.last_change) : h("span", { class: "note" }, "Not scaled since the controller started."),
  );
}

const change = ({ before, after, age_s, reason }) =>
  h("span", { class: "change" }, h("b", {}, `scaled ${before} → ${after}, ${ago(age_s)}`), `: ${sentence(reason)}`);

const sentence = (reason) => `${reason}.`;

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
