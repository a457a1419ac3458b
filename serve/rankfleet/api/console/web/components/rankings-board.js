// The rankings side by side, with the moves of each document drawn as lines between them. Sends `select` with the
// index of the document that was chosen.

import { h, svg } from "../lib/element.js";
import { ms, score } from "../lib/format.js";
import { textOf } from "../model/documents.js";

const ROW = 58; // pixels; the lines rely on it
const GUTTER = 46;
const SHOWN = 12;

export class RankingsBoard extends HTMLElement {
  #shown = null;
  #selected = null;
  #all = false;

  connectedCallback() {
    this.style.setProperty("--row", `${ROW}px`);
    this.addEventListener("keydown", (event) => this.#key(event));
    this.addEventListener("pointerover", (event) => this.#hover(event.target));
    this.addEventListener("pointerleave", () => this.#mark("hovered", null));
  }

  /** documents: as sent. columns: of `Column`. titleOf(column), tierIndex(name): how columns look. retry(column). */
  show(shown) {
    if (shown.documents !== this.#shown?.documents) [this.#selected, this.#all] = [null, false];
    this.#shown = shown;
    this.#draw();
  }

  #draw() {
    const focused = this.contains(document.activeElement) ? document.activeElement.dataset : null;
    const { documents, columns } = this.#shown;
    const rows = this.#all ? documents.length : Math.min(SHOWN, documents.length);
    const best = Math.max(0, ...columns.flatMap((column) => [...column.results.values()].map((each) => each.relevance_score)));
    const parts = columns.flatMap((column, i) => [
      i ? this.#moves(columns[i - 1], column, rows) : null,
      this.#column(column, columns[0], rows, best),
    ]);
    this.replaceChildren(
      h("div", { class: "board", role: "group", "aria-label": "Rankings side by side; arrow keys move between documents" }, parts),
      ...(documents.length > rows ? [this.#more(documents.length)] : []),
    );
    this.#roving();
    this.#mark("selected", this.#selected);
    if (focused?.index) this.#button(focused.column, focused.index)?.focus();
  }

  #more(number) {
    return h("button", { type: "button", class: "more", onclick: () => this.#showAll() }, `Show all ${number} documents`);
  }

  #showAll() {
    this.#all = true;
    this.#draw();
    this.querySelector("li button").focus();
  }

  #column(column, sent, rows, best) {
    const { tierIndex, titleOf, retry } = this.#shown;
    const [title, under] = titleOf(column);
    const tier = column.key === "auto" ? column.reply?.rankfleet.tier : column.key;
    const list = column.order.slice(0, rows).map((index, place) => this.#document(column, sent, index, place, best));
    const body = {
      done: () => h("ol", { "aria-label": `Ranking: ${title}` }, list),
      waiting: () => h("p", { class: "waiting", role: "status" }, "Ranking…"),
      failed: () => h("div", { class: "failed" }, retry(column)),
    }[column.state]();
    return h(
      "section",
      { class: `column ${column.key === "auto" ? "auto" : ""}`, "data-tier": tier ? tierIndex(tier) : null, "aria-busy": String(column.state === "waiting") },
      h("h3", {}, title, h("span", { class: "under" }, under)),
      body,
    );
  }

  #document(column, sent, index, place, best) {
    const result = column.results.get(index);
    const up = sent.rankOf(index) - place - 1;
    const moved = column === sent || up === 0 ? "" : up > 0 ? `up ${up}` : `down ${-up}`;
    const width = result && best ? Math.max(1, (result.relevance_score / best) * 100) : 0;
    const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span", {}));
    bar.firstChild.style.width = `${width}%`;
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", "data-index": index, "data-column": column.key, onclick: () => this.#select(index) },
        h("span", { class: "rank" }, place + 1),
        h("span", { class: "text" }, textOf(this.#shown.documents[index])),
        h(
          "span",
          { class: "figures" },
          result ? scored(result, bar) : null,
          moved && [
            h("span", { class: "sr" }, `, ${moved}`),
            h("span", { class: `move ${up > 0 ? "rose" : "fell"}`, "aria-hidden": "true" }, `${up > 0 ? "▲" : "▼"}${Math.abs(up)}`),
          ],
        ),
      ),
    );
  }

  #moves(from, to, rows) {
    const height = rows * ROW;
    const y = (rank) => (rank > rows ? height + ROW / 2 : (rank - 0.5) * ROW);
    const lines = this.#shown.documents.map((_, index) => {
      const [left, right] = [from.rankOf(index), to.rankOf(index)];
      if (left === null || right === null || (left > rows && right > rows)) return null;
      const move = right < left ? "rose" : right > left ? "fell" : "kept";
      const [a, b, half] = [y(left), y(right), GUTTER / 2];
      return svg("path", { class: move, "data-index": index, d: `M0,${a}C${half},${a} ${half},${b} ${GUTTER},${b}` });
    });
    return svg("svg", { class: "moves", width: GUTTER, height, "aria-hidden": "true" }, lines);
  }

  #select(index) {
    this.#selected = index;
    this.#mark("selected", index);
    this.dispatchEvent(new CustomEvent("select", { detail: index }));
  }

  #hover(target) {
    this.#mark("hovered", target.closest?.("[data-index]")?.dataset.index ?? null);
  }

  // Marks a document in every column, and its lines.
  #mark(name, index) {
    for (const each of this.querySelectorAll("[data-index]")) {
      const here = index !== null && each.dataset.index === String(index);
      each.classList.toggle(name, here);
      if (name === "selected" && each.tagName === "BUTTON") each.setAttribute("aria-pressed", String(here));
    }
  }

  // One document of the board is in the order of Tab; arrow keys reach the others.
  #roving(current = this.querySelector("li button")) {
    for (const each of this.querySelectorAll("li button")) each.tabIndex = each === current ? 0 : -1;
  }

  #button(column, index) {
    return this.querySelector(`button[data-column="${CSS.escape(column)}"][data-index="${index}"]`);
  }

  #key(event) {
    const { index, column } = event.target.dataset;
    if (index === undefined) return;
    const list = [...event.target.closest("ol").querySelectorAll("button")];
    const place = list.indexOf(event.target);
    const keys = this.#shown.columns.filter((each) => each.state === "done").map((each) => each.key);
    const beside = (step) => this.#button(keys[keys.indexOf(column) + step] ?? column, index);
    const next = {
      ArrowDown: () => list[place + 1],
      ArrowUp: () => list[place - 1],
      Home: () => list[0],
      End: () => list.at(-1),
      ArrowRight: () => beside(1),
      ArrowLeft: () => beside(-1),
    }[event.key]?.();
    if (!next) return;
    event.preventDefault();
    this.#roving(next);
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function scored({ relevance_score: value, logit }, bar) {
  if (logit === null) return h("span", {}, h("span", { class: "sr" }, ", "), "not scored");
  return [h("span", { class: "sr" }, ", score "), h("span", { class: "score" }, score(value)), bar];
}

/** Title of a column, and the line below it. */
export function columnTitle(column) {
  if (column.key === "sent") return ["as sent", "the order of the documents"];
  const time = column.state === "done" ? ms(column.totalMs) : "";
  if (column.key !== "auto") return [column.key, time];
  return ["auto", column.state === "done" ? `${column.planName}, ${time}` : time];
}

customElements.define("rankings-board", RankingsBoard);
