// The latency budget: a slider on the axis of the plot above it, and the number. Sends `moved` while the budget
// changes, and `settled` once it has.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";
import { logScale, roundBudget } from "../lib/scale.js";

const STEPS = 400;

export class BudgetSlider extends HTMLElement {
  #budgetMs = 200;
  #domain = [1, 1000];

  connectedCallback() {
    if (this.range) return;
    this.range = h("input", {
      id: "budget", type: "range", min: "0", max: STEPS, step: "1",
      oninput: () => this.#choose(this.#scale().invert(Number(this.range.value)), "moved"),
      onchange: () => this.dispatchEvent(new Event("settled")),
    });
    this.number = h("input", {
      id: "budget-number", type: "number", min: "1", max: "3600000", step: "any", "aria-label": "Budget in milliseconds",
      oninput: () => this.number.validity.valid && this.number.value && this.#choose(Number(this.number.value), "moved"),
      onchange: () => {
        this.number.value = this.#budgetMs; // what is no budget is taken back
        this.dispatchEvent(new Event("settled"));
      },
    });
    this.append(
      h("div", { class: "budget-head" }, h("label", { for: "budget" }, "Budget"), this.number, h("span", {}, "ms")),
      this.range,
    );
    this.#draw();
  }

  get budgetMs() {
    return this.#budgetMs;
  }

  set budgetMs(value) {
    this.#budgetMs = value;
    this.#draw();
  }

  /** [low, high] in milliseconds. */
  set domain(domain) {
    this.#domain = domain;
    this.#draw();
  }

  #scale() {
    return logScale(this.#domain, [0, STEPS]);
  }

  #choose(value, event) {
    this.#budgetMs = roundBudget(value);
    this.#draw();
    this.dispatchEvent(new Event(event));
  }

  #draw() {
    if (!this.range) return;
    const position = Math.round(this.#scale()(this.#budgetMs));
    if (document.activeElement !== this.range || Math.abs(position - this.range.value) > 2) this.range.value = position;
    this.range.setAttribute("aria-valuetext", ms(this.#budgetMs));
    if (document.activeElement !== this.number) this.number.value = this.#budgetMs;
  }
}

customElements.define("budget-slider", BudgetSlider);
