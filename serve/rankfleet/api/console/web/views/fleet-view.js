// Fleet: what the router that answers knows of tiers, groups and replicas, and what it has decided lately.

import * as api from "../lib/api.js";
import { h } from "../lib/element.js";
import { Newest } from "../lib/newest.js";
import { Tiers } from "../lib/tiers.js";
import { DecisionList } from "../components/decision-list.js";
import { GroupTable } from "../components/group-table.js";
import { errorNotice } from "../components/notice.js";
import { panel } from "../components/panel.js";
import { PlanPlot } from "../components/plan-plot.js";
import { RecentRequests } from "../components/recent-requests.js";

const PERIOD_MS = 2000;

export class FleetView extends HTMLElement {
  #timer = 0;
  #fleet = new Newest(
    (_, signal) => api.fleet(signal),
    (_, fleet, error) => (error ? this.#failed(error) : this.#show(fleet)),
  );

  connectedCallback() {
    this.#timer = setInterval(() => document.visibilityState === "visible" && this.#fleet.put(null), PERIOD_MS);
    if (this.live) return this.#fleet.put(null);
    this.notice = h("div", {}, h("p", { class: "waiting" }, "Asking the router…"));
    this.plot = new PlanPlot();
    this.recent = new RecentRequests();
    this.groups = new GroupTable();
    this.decisions = new DecisionList();
    const what = "As the router knows it that answers this page; behind several routers, others know other requests.";
    this.live = h(
      "div",
      { class: "panels" },
      panel("tiers", "Tiers now, for 100 documents of 128 tokens", this.plot),
      panel("recent", "Requests", this.recent),
      panel("groups", "Groups and replicas", this.groups),
      panel("decisions", "Decisions of this router", this.decisions),
    );
    this.live.hidden = true;
    this.append(h("h1", { class: "sr" }, "Fleet"), h("p", { class: "note" }, what), this.notice, this.live);
    this.#fleet.put(null);
  }

  disconnectedCallback() {
    clearInterval(this.#timer);
    this.#fleet.drop();
  }

  open() {}

  #failed(error) {
    this.live.hidden = true;
    this.notice.replaceChildren(errorNotice(error, () => this.#fleet.put(null)));
  }

  #show({ tiers, groups, recent, decisions }) {
    this.notice.replaceChildren();
    this.live.hidden = false;
    const { index } = new Tiers(tiers.map((tier) => ({ ...tier, id: tier.name, kind: "tier" })));
    const considered = tiers.map(({ name, quality, predicted_ms }) => ({ tier: name, how: "everything", quality, predicted_ms, verdict: "now" }));
    const idle = Object.fromEntries(tiers.filter((tier) => tier.idle_ms !== null).map((tier) => [tier.name, tier.idle_ms]));
    const times = [...Object.values(idle), ...tiers.map((tier) => tier.predicted_ms)].filter((value) => value !== null);
    this.plot.show({
      decision: { considered }, budgetMs: null, offers: [], tierIndex: index, measured: idle,
      domain: times.length ? [Math.min(...times) / 2, Math.max(...times) * 2] : [10, 1000],
      legend: [["took", "on an idle fleet"]],
    });
    this.recent.show(recent, index);
    this.groups.show(groups);
    this.decisions.show(decisions, index);
  }
}

customElements.define("fleet-view", FleetView);
