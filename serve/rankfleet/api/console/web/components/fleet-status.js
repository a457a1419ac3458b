// Whether the router can rank, in the header: a dot and a word.

import { readiness } from "../lib/api.js";
import { h } from "../lib/element.js";

const PERIOD_MS = 10_000;
const SAYS = {
  ready: "ready",
  asleep: "asleep: the next request starts a replica",
  starting: "starting",
  failing: "ranking fails",
};

class FleetStatus extends HTMLElement {
  connectedCallback() {
    this.setAttribute("role", "status");
    this.#ask();
    this.timer = setInterval(() => document.visibilityState === "visible" && this.#ask(), PERIOD_MS);
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  async #ask() {
    let state = "unreachable";
    let said = { reason: "" };
    try {
      said = await readiness();
      state = said.status;
    } catch (error) {
      said = { reason: error.message };
    }
    const words = SAYS[state] ?? "no answer";
    if (this.dataset.state === state) return; // nothing to announce
    this.dataset.state = state;
    this.title = [said.reason, ...(said.not_changed ?? [])].filter(Boolean).join(" ");
    this.replaceChildren(h("span", { class: "dot", "aria-hidden": "true" }), `Fleet: ${words}`);
  }
}

customElements.define("fleet-status", FleetStatus);
