// What the planner would do with the request, live while the budget moves. Sends `moved` and `settled` as the slider.

import * as api from "../lib/api.js";
import { h } from "../lib/element.js";
import { ms, planName } from "../lib/format.js";
import { Newest } from "../lib/newest.js";
import { chosenOf, budgetOffers } from "../model/budget-offers.js";
import { BudgetOffers } from "./budget-offers.js";
import { BudgetSlider } from "./budget-slider.js";
import { emptyNotice, errorNotice } from "./notice.js";
import { PlanPlot } from "./plan-plot.js";
import { PlanTable } from "./plan-table.js";

export class PlanPanel extends HTMLElement {
  #body = null;
  #tiers = null;
  #domain = null;
  #decision = null;
  #offers = [];
  #measured = {};
  #comparing = false;
  #asking = new AbortController();
  #plans = new Newest(
    (body, signal) => api.plan(body, signal),
    (body, decision, error) => (error ? this.#failed(error) : this.#planned(body, decision)),
  );

  connectedCallback() {
    if (this.slider) return;
    this.says = h("div", { class: "says", role: "status" });
    this.plot = new PlanPlot();
    this.slider = new BudgetSlider();
    this.offers = new BudgetOffers();
    this.table = new PlanTable();
    this.live = h("div", { class: "live" }, this.plot, this.slider, this.offers, this.table);
    this.notice = h("div", {});
    this.append(this.says, this.notice, this.live);
    this.slider.addEventListener("moved", () => this.#moved());
    this.slider.addEventListener("settled", () => this.dispatchEvent(new Event("settled")));
    this.offers.addEventListener("budget", ({ detail }) => {
      this.slider.budgetMs = detail;
      this.#moved();
      this.dispatchEvent(new Event("settled"));
    });
    this.#nothing(h("p", { class: "waiting" }, "Asking the planner…"));
  }

  get budgetMs() {
    return this.slider.budgetMs;
  }

  set budgetMs(value) {
    this.slider.budgetMs = value;
  }

  set tiers(tiers) {
    this.#tiers = tiers;
  }

  /** What the last ranking took, by the name of its plan, in ms. */
  set measured(measured) {
    this.#measured = measured;
    if (this.#decision) this.#draw();
  }

  /** Ask about a new request. body: null as long as there is none. comparing: whether to ask what other budgets get. */
  ask(body, comparing = true) {
    this.#body = body;
    this.#comparing = comparing;
    this.#plans.drop();
    this.#asking.abort();
    this.#decision = this.#domain = this.#offers = null;
    this.#measured = {};
    if (body) this.#plans.put(body);
    else this.#nothing(emptyNotice("Write a query and at least one document; the plan for them then stands here."));
  }

  /** Ask once more, and what other budgets get: load and estimates may have changed. */
  refresh() {
    if (!this.#body) return;
    this.#comparing = true;
    this.#plans.put(this.#body);
  }

  #moved() {
    this.dispatchEvent(new Event("moved"));
    if (!this.#body) return;
    this.#body = { ...this.#body, slo_ms: this.budgetMs };
    this.#plans.put(this.#body);
  }

  #nothing(notice) {
    this.live.hidden = true;
    this.#decision = null;
    this.says.replaceChildren();
    this.notice.replaceChildren(notice);
  }

  #failed(error) {
    this.#nothing(errorNotice(error, () => this.ask(this.#body)));
  }

  #planned(body, decision) {
    this.#decision = decision;
    this.live.hidden = false;
    this.notice.replaceChildren();
    this.says.replaceChildren(sentence(body, decision));
    this.#draw();
    if (this.#comparing) this.#askOffers(body);
  }

  async #askOffers(body) {
    this.#comparing = false;
    this.#asking.abort();
    const { signal } = (this.#asking = new AbortController());
    let offers = [];
    try {
      offers = await budgetOffers(body, this.#domain, signal);
    } catch {
      // The planner answers, or says why not, above; without these answers the page only shows less.
    }
    if (signal.aborted) return;
    this.#offers = offers;
    this.#draw();
  }

  #draw() {
    this.#domain = fit(this.#domain, this.#decision, Object.values(this.#measured), this.budgetMs);
    this.slider.domain = this.#domain;
    const tierIndex = this.#tiers.index;
    const decision = this.#decision;
    const measured = this.#measured;
    this.plot.show({ decision, budgetMs: this.budgetMs, domain: this.#domain, offers: this.#offers ?? [], tierIndex, measured });
    this.offers.show(this.#offers, this.budgetMs, tierIndex);
    this.table.show(decision, tierIndex);
  }
}

function sentence(body, decision) {
  const chosen = chosenOf(decision);
  const at = `With ${ms(body.slo_ms)}, `;
  if (!chosen) return h("p", { class: "refused" }, at, "the request would be ", h("b", {}, "refused"), `: ${decision.reason}.`);
  return h("p", {}, at, "auto would answer with ", h("b", {}, planName(chosen)), `: ${decision.reason}.`);
}

// The axis: from half of the fastest plan to four times the slowest, with the budget on it, unless `before` will do.
function fit(before, decision, measured, budgetMs) {
  const times = [...decision.considered.map((each) => each.predicted_ms).filter((value) => value !== null), ...measured];
  if (!times.length) times.push(10, 100);
  const fastest = Math.min(...times);
  const slowest = Math.max(...times);
  if (before && before[0] <= Math.min(fastest, budgetMs) && Math.max(slowest, budgetMs) <= before[1]) return before;
  return [Math.max(1, Math.min(fastest / 2, budgetMs / 1.5)), Math.max(slowest * 4, budgetMs * 1.5, 10)];
}

customElements.define("plan-panel", PlanPanel);
