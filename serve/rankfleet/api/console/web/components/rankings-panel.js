// The answers to one request: which tier answered and why, all rankings, and where the time went. Sends `ranked` with
// what plans took as `detail`, and `again` where the person wants to rank once more.

import * as api from "../lib/api.js";
import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";
import { Newest } from "../lib/newest.js";
import { Column } from "../model/columns.js";
import { rankAll } from "../model/ranker.js";
import { DocumentDetail } from "./document-detail.js";
import { emptyNotice, errorNotice } from "./notice.js";
import { RankingsBoard, columnTitle } from "./rankings-board.js";
import { TimeChart } from "./time-chart.js";

export class RankingsPanel extends HTMLElement {
  #body = null;
  #columns = [];
  #tiers = null;
  #selected = null;
  #ranking = new AbortController();
  #auto = new Newest(
    (body, signal) => api.rerank({ ...body, model: "auto" }, signal),
    (body, reply, error) => this.#answeredAuto(body, reply, error),
  );

  connectedCallback() {
    if (this.board) return;
    this.answer = h("div", { class: "answer", role: "status" });
    this.board = new RankingsBoard();
    this.detail = new DocumentDetail();
    this.detail.hidden = true;
    this.time = new TimeChart();
    this.append(this.answer, this.board, this.detail, this.time);
    this.board.addEventListener("select", ({ detail }) => this.#select(detail));
    this.clear();
  }

  set tiers(tiers) {
    this.#tiers = tiers;
  }

  /** Forget all answers. */
  clear() {
    this.#stop();
    this.#body = null;
    this.answer.replaceChildren(emptyNotice("Nothing is ranked yet. “Rank with every tier” shows all rankings side by side."));
    for (const part of [this.board, this.detail, this.time]) part.hidden = true;
  }

  /** Rank by `auto` and by every tier. */
  rank(body) {
    this.#stop();
    this.#body = body;
    this.#selected = null;
    this.classList.remove("outdated");
    this.#columns = [Column.sent(body.documents), ...this.#tiers.names.map((name) => new Column(name)), new Column("auto")];
    this.#draw();
    this.#ranking = new AbortController();
    return rankAll(body, this.#columns, this.#tiers.all, () => this.#draw(), this.#ranking.signal);
  }

  /** Rank once more by `auto` alone, with another budget. Others do not change with it. */
  rankAuto(budgetMs) {
    if (this.#body && !this.classList.contains("outdated")) this.#auto.put({ ...this.#body, slo_ms: budgetMs });
  }

  /** The request on the page is no longer the one that was ranked. */
  outdate() {
    if (this.#body && !this.classList.contains("outdated")) {
      this.classList.add("outdated");
      this.answer.prepend(
        h("p", { class: "notice" }, "The request has changed since. ", h("button", { type: "button", onclick: () => this.#again() }, "Rank again")),
      );
    }
  }

  #stop() {
    this.#ranking.abort();
    this.#auto.drop();
  }

  #again() {
    this.dispatchEvent(new Event("again"));
  }

  #answeredAuto(body, reply, error) {
    this.#body = body;
    const auto = new Column("auto");
    if (error) auto.failed(error);
    else auto.answered(reply);
    this.#columns = [...this.#columns.slice(0, -1), auto];
    this.#draw();
  }

  #select(index) {
    this.#selected = index;
    this.detail.show(index, this.#body.documents, this.#columns, columnTitle);
  }

  #draw() {
    const { documents } = this.#body;
    const auto = this.#columns.at(-1);
    const answered = this.#columns.filter((column) => column.reply);
    this.answer.replaceChildren(
      { waiting: () => h("p", { class: "waiting" }, "Ranking…"), done: () => answerOf(auto), failed: () => this.#error(auto) }[auto.state](),
    );
    this.board.hidden = false;
    this.board.show({
      documents, columns: this.#columns, titleOf: columnTitle, tierIndex: this.#tiers.index, retry: (column) => this.#error(column),
    });
    this.detail.show(this.#selected, documents, this.#columns, columnTitle);
    this.time.hidden = !answered.length;
    if (answered.length) this.time.show(answered, this.#body.slo_ms, columnTitle);
    const took = answered.filter((column) => column.key !== "auto").map((column) => [column.planName, column.totalMs]);
    if (auto.reply) took.push([auto.planName, auto.totalMs]);
    this.dispatchEvent(new CustomEvent("ranked", { detail: Object.fromEntries(took) }));
  }

  #error(column) {
    return errorNotice(column.error, () => this.#again());
  }
}

function answerOf(auto) {
  const { reason, slo } = auto.reply.rankfleet;
  const within = slo ? ` of ${ms(slo.budget_ms)}` : "";
  return h(
    "p",
    {},
    "auto answered with ",
    h("b", {}, auto.planName),
    ` in ${ms(auto.totalMs)}${within}: ${reason}.`,
    slo && !slo.met ? h("span", { class: "late" }, " The budget was missed.") : null,
    slo?.partial ? h("span", { class: "note" }, " The second stage was left out, for lack of time or because it failed.") : null,
  );
}

customElements.define("rankings-panel", RankingsPanel);
