// The groups of the fleet: why each has its number of replicas, and the replicas with their load as this router knows it.

import { h } from "../lib/element.js";
import { ago, count, ms } from "../lib/format.js";
import { dataTable } from "./data-table.js";

const HEAD = ["Group", "Tiers", "Replica", "State", "In flight", "Work ahead"];

export class GroupTable extends HTMLElement {
  /** groups: of GET /v1/fleet. */
  show(groups) {
    this.replaceChildren(
      h("ul", { class: "scaling", "aria-label": "Why each group has its replicas" }, groups.map(scaling)),
      dataTable("Groups and replicas", HEAD, groups.flatMap(rows)),
    );
  }
}

function scaling(group) {
  const { name, in_router, scaling: told } = group;
  if (in_router) return h("li", {}, h("b", {}, name), " runs in every router, and is not scaled by itself.");
  if (!told) return h("li", {}, h("b", {}, name), ": the autoscaler has not been heard of yet.");
  const running = `: ${told.running} of ${count(told.target, "replica")} running`;
  if (told.state === "fixed") return h("li", {}, h("b", {}, name), `${running}; ${told.reason}.`);
  const change = told.last_change;
  return h(
    "li",
    {},
    h("b", {}, name),
    `${running}, and the fleet file allows ${group.min_replicas} to ${group.max_replicas}.`,
    h("p", {}, h("b", {}, "Now"), `: ${told.reason}.`),
    change
      ? h("p", { class: "change" }, h("b", {}, `Scaled ${change.before} → ${change.after}, ${ago(change.age_s)}`), `: ${change.reason}.`)
      : h("p", { class: "note" }, "Not scaled since Serve's controller started."),
  );
}

function rows(group) {
  const start = [[group.in_router ? `${group.name} (in the router)` : group.name], [group.tiers.join(", ")]];
  if (!group.replicas.length) {
    const state = group.asleep ? "asleep: the next request starts a replica" : "no replica has been heard of yet";
    return [[...start, ["–"], [state], ["–"], ["–"]]];
  }
  return group.replicas.map((replica) => [
    ...start,
    [replica.name],
    [{ class: replica.ejected && "late" }, replica.ejected ? "ejected: it lost or failed work" : "takes work"],
    [replica.chunks],
    [ms(replica.ahead_ms)],
  ]);
}

customElements.define("group-table", GroupTable);
