// Try it: write a request, move its budget, see the plan live, and all rankings side by side.

import * as api from "../lib/api.js";
import { h } from "../lib/element.js";
import { storedKey } from "../lib/key.js";
import { Tiers } from "../lib/tiers.js";
import { CodePanel } from "../components/code-panel.js";
import { errorNotice } from "../components/notice.js";
import { panel } from "../components/panel.js";
import { PlanPanel } from "../components/plan-panel.js";
import { RankingsPanel } from "../components/rankings-panel.js";
import { RequestForm } from "../components/request-form.js";
import { codeFor } from "../model/code.js";
import { decode, encode } from "../model/permalink.js";
import { bodyOf } from "../model/request.js";
import { SAMPLE } from "../model/sample.js";

const TYPING_MS = 250; // after the last letter

export class TryView extends HTMLElement {
  #address = "";
  #typing = 0;

  /** address: what follows #/try/, an encoded request; empty for the sample. */
  constructor(address) {
    super();
    this.#address = address;
  }

  async connectedCallback() {
    if (this.form) return;
    this.form = new RequestForm();
    this.plan = new PlanPanel();
    this.rankings = new RankingsPanel();
    this.code = new CodePanel();
    this.notice = h("div", {});
    this.linkSaid = h("span", { class: "note", role: "status" });
    this.append(
      h("h1", { class: "sr" }, "Try it"),
      this.notice,
      panel("request", "Request", this.form),
      panel("plan", "What this budget gets", this.plan),
      panel("answers", "Rankings", this.rankings),
      panel(
        "code",
        "The same from your code",
        this.code,
        h("p", { class: "link" }, h("button", { type: "button", onclick: () => this.#copyLink() }, "Copy a link to this request"), this.linkSaid),
      ),
    );
    this.form.addEventListener("edited", () => this.#edited());
    this.form.addEventListener("rank", () => this.#rank());
    this.rankings.addEventListener("again", () => this.#rank());
    this.rankings.addEventListener("ranked", ({ detail }) => (this.plan.measured = detail));
    this.plan.addEventListener("moved", () => this.#remember());
    this.plan.addEventListener("settled", () => this.rankings.rankAuto(this.plan.budgetMs));
    addEventListener("rankfleet-key", () => this.#describe());
    await this.#start();
  }

  /** Show the request of another address. */
  async open(address) {
    if (address === this.#address) return;
    this.#address = address;
    await this.#load();
  }

  async #start() {
    try {
      this.tiers = new Tiers(await api.models());
    } catch (error) {
      this.notice.replaceChildren(errorNotice(error, () => this.#start()));
      return;
    }
    this.notice.replaceChildren();
    this.plan.tiers = this.rankings.tiers = this.tiers;
    await this.#load();
  }

  async #load() {
    const found = this.#address ? await decode(this.#address) : SAMPLE;
    this.notice.replaceChildren(
      ...(found ? [] : [h("p", { class: "notice", role: "alert" }, "The address holds no request that can be read; here is the sample.")]),
    );
    this.form.value = found ?? SAMPLE;
    this.plan.budgetMs = (found ?? SAMPLE).budgetMs;
    this.#describe();
    this.#rank();
  }

  get #request() {
    return { ...this.form.value, budgetMs: this.plan.budgetMs };
  }

  #edited() {
    this.rankings.outdate();
    this.#describe();
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => {
      this.plan.ask(bodyOf(this.#request));
      this.#remember();
    }, TYPING_MS);
  }

  async #rank() {
    if (!this.tiers) return;
    clearTimeout(this.#typing);
    const body = bodyOf(this.#request);
    this.#remember();
    this.plan.ask(body, false);
    if (!body) return this.rankings.clear();
    await this.rankings.rank(body);
    this.plan.refresh(); // only now: what other budgets get takes many requests, and the rankings are being timed
  }

  // The address follows what is on the page, so that it can be copied at any time.
  async #remember() {
    this.#describe();
    const request = this.#request;
    const address = JSON.stringify(request) === JSON.stringify(sampleRequest()) ? "" : await encode(request);
    if (JSON.stringify(request) !== JSON.stringify(this.#request)) return; // edited meanwhile, and remembered again
    this.#address = address;
    history.replaceState(null, "", this.#address ? `#/try/${this.#address}` : "#/try");
  }

  #describe() {
    const body = bodyOf(this.#request);
    this.code.hidden = !body;
    if (body) this.code.show(codeFor(body, location.origin, storedKey() !== null));
  }

  async #copyLink() {
    await this.#remember();
    try {
      await navigator.clipboard.writeText(location.href);
      this.linkSaid.textContent = "Copied. The request is in the link itself; no server keeps it.";
    } catch {
      this.linkSaid.textContent = "The address of this page is that link.";
    }
  }
}

const sampleRequest = () => ({ query: SAMPLE.query, text: SAMPLE.text, candidates: SAMPLE.candidates, budgetMs: SAMPLE.budgetMs });

customElements.define("try-view", TryView);
