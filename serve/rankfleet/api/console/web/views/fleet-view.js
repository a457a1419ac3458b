// Fleet: what the router that answers knows of tiers, groups and replicas, and what it has decided lately.

import * as api from "../lib/api.js";
import { h } from "../lib/element.js";
import { Newest } from "../lib/newest.js";
import { Tiers } from "../lib/tiers.js";
import { DecisionList } from "../components/decision-list.js";
import { ExperimentList } from "../components/experiment-list.js";
import { GroupTable } from "../components/group-table.js";
import { errorNotice } from "../components/notice.js";
import { panel } from "../components/panel.js";
import { PlanPlot } from "../components/plan-plot.js";
import { RecentRequests } from "../components/recent-requests.js";

const PERIOD_MS = 1000;
const HEARD_MS = 15_000; // a router that has not answered for so long is left out

export class FleetView extends HTMLElement {
  #timer = 0;
  #refused = false;
  #heard = new Map(); // router → {fleet, at}: behind several routers each answer may come from another one
  #router = null; // the one that is shown
  #fleet = new Newest(
    (_, signal) => api.fleet(signal),
    (_, fleet, error) => (error ? this.#failed(error) : this.#answered(fleet)),
  );

  connectedCallback() {
    this.#timer = setInterval(() => document.visibilityState === "visible" && !this.#refused && this.#ask(), PERIOD_MS);
    if (this.live) return this.#ask();
    this.notice = h("div", {}, h("p", { class: "waiting" }, "Asking the router…"));
    this.plot = new PlanPlot();
    this.recent = new RecentRequests();
    this.groups = new GroupTable();
    this.experiments = new ExperimentList();
    this.experimentPanel = panel("experiments", "Experiments", this.experiments);
    this.decisions = new DecisionList();
    this.routers = h("div", { class: "routers" });
    this.live = h(
      "div",
      { class: "panels" },
      panel("tiers", "Tiers now, for 100 documents of 128 tokens", this.plot),
      panel("recent", "Requests", this.recent),
      panel("groups", "Groups and replicas", this.groups),
      this.experimentPanel,
      panel("decisions", "Latest decisions of this router", this.decisions),
    );
    this.live.hidden = true;
    this.append(h("h1", { class: "sr" }, "Fleet"), this.routers, this.notice, this.live);
    this.#ask();
  }

  disconnectedCallback() {
    clearInterval(this.#timer);
    this.#fleet.drop();
  }

  open() {}

  #ask() {
    this.#refused = false;
    this.#fleet.put(null);
  }

  #failed(error) {
    this.#refused = error.status === 401; // who has said “Not now” is not asked for the key again
    if (this.#refused) this.#fleet.drop();
    this.live.hidden = this.routers.hidden = true;
    this.notice.replaceChildren(errorNotice(error, () => this.#ask()));
  }

  #answered(fleet) {
    const now = performance.now();
    this.#heard.set(fleet.router, { fleet, at: now });
    for (const [name, { at }] of this.#heard) if (now - at > HEARD_MS) this.#heard.delete(name);
    if (!this.#heard.has(this.#router)) this.#router = fleet.router;
    if (this.#router === fleet.router) this.#show(fleet);
    this.#nameRouters();
  }

  #nameRouters() {
    const names = [...this.#heard.keys()].sort();
    const shown = JSON.stringify([names, this.#router]);
    if (this.routers.dataset.shown === shown && !this.routers.hidden) return; // the focus stays where it is
    this.routers.dataset.shown = shown;
    this.routers.hidden = false;
    const what = `As router ${this.#router} knows it. The number of replicas and its reason are Serve's controller's, for the whole fleet.`;
    const choose = (name) => {
      this.#router = name;
      this.#show(this.#heard.get(name).fleet);
      this.#nameRouters();
      this.routers.querySelector('[aria-pressed="true"]').focus();
    };
    this.routers.replaceChildren(
      h("p", { class: "note" }, what),
      names.length === 1
        ? ""
        : h(
          "div",
          { class: "buttons", role: "group", "aria-label": "Router" },
          names.map((name) => h("button", { type: "button", "aria-pressed": String(name === this.#router), onclick: () => choose(name) }, name)),
        ),
    );
  }

  #show({ tiers, groups, experiments, recent, decisions }) {
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
    this.experimentPanel.hidden = !experiments.length;
    this.experiments.show(experiments);
    this.decisions.show(decisions, index);
  }
}

customElements.define("fleet-view", FleetView);
