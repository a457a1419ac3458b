// One document in full, with its place in every ranking.

import { h } from "../lib/element.js";
import { score } from "../lib/format.js";
import { textOf } from "../model/documents.js";

export class DocumentDetail extends HTMLElement {
  /** index: of the document; null hides the element. */
  show(index, documents, columns, titleOf) {
    this.hidden = index === null;
    if (index === null) return;
    const answered = columns.filter((column) => column.state === "done");
    this.replaceChildren(
      h("h3", {}, `Document ${index + 1} of ${documents.length}`),
      h("p", { class: "whole", tabindex: "0" }, textOf(documents[index])),
      h(
        "table",
        {},
        h("caption", {}, "Its place in every ranking"),
        h("thead", {}, h("tr", {}, ["Ranking", "Place", "Score", "Logit"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, answered.map((column) => row(index, column, titleOf(column)[0]))),
      ),
    );
  }
}

function row(index, column, title) {
  const result = column.results.get(index);
  const cut = column.reply?.rankfleet.truncated.includes(index);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, title),
    h("td", {}, column.rankOf(index), cut ? " (not read to its end)" : null),
    h("td", {}, result ? score(result.relevance_score) : "–"),
    h("td", {}, result ? result.logit?.toFixed(2) ?? "not scored" : "–"),
  );
}

customElements.define("document-detail", DocumentDetail);
