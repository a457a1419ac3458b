// Query and documents. Sends `edited` when what is asked has changed, and `rank` when it shall be ranked.

import { h } from "../lib/element.js";
import { count } from "../lib/format.js";
import { parseDocuments } from "../model/documents.js";
import { SAMPLE } from "../model/sample.js";

export class RequestForm extends HTMLElement {
  connectedCallback() {
    if (this.query) return;
    const edited = () => this.#edited();
    this.query = h("input", { id: "query", type: "text", autocomplete: "off", oninput: edited });
    this.text = h("textarea", {
      id: "documents", rows: "11", spellcheck: "false", "aria-describedby": "documents-read", oninput: edited,
    });
    this.read = h("p", { id: "documents-read", class: "note" });
    this.candidates = h(
      "select",
      { id: "candidates", onchange: edited },
      h("option", { value: "" }, "what the fleet file says"),
      h("option", { value: "ranked" }, "counts: a retriever ranked them"),
      h("option", { value: "unordered" }, "says nothing"),
    );
    this.append(
      h(
        "form",
        { onsubmit: (event) => this.#submit(event), onkeydown: (event) => this.#key(event) },
        h("label", { for: "query" }, "Query"),
        this.query,
        h("label", { for: "documents" }, "Documents: one a line, a JSON array, or JSON Lines"),
        this.text,
        this.read,
        h("div", { class: "field" }, h("label", { for: "candidates" }, "Their order"), this.candidates),
        h(
          "div",
          { class: "buttons" },
          h("button", { type: "submit", class: "primary" }, "Rank with every tier"),
          h("button", { type: "button", onclick: () => this.#use(SAMPLE) }, "Use the sample"),
          h("button", { type: "button", onclick: () => this.#use({ ...SAMPLE, query: "", text: "" }) }, "Clear"),
          h("span", { class: "note" }, "or Ctrl + Enter"),
        ),
      ),
    );
  }

  /** {query, text, candidates}. */
  get value() {
    return { query: this.query.value, text: this.text.value, candidates: this.candidates.value };
  }

  set value({ query, text, candidates }) {
    this.query.value = query;
    this.text.value = text;
    this.candidates.value = candidates;
    this.#describe();
  }

  #use({ query, text, candidates }) {
    this.value = { query, text, candidates };
    this.#edited();
    if (query) this.dispatchEvent(new Event("rank"));
    else this.query.focus();
  }

  #edited() {
    this.#describe();
    this.dispatchEvent(new Event("edited"));
  }

  #describe() {
    const { documents, format, note } = parseDocuments(this.text.value);
    this.read.classList.toggle("warning", note !== "");
    this.read.textContent = documents.length ? `${count(documents.length, "document")}, ${format}. ${note}` : "No documents yet.";
  }

  #submit(event) {
    event.preventDefault();
    this.dispatchEvent(new Event("rank"));
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit(event);
  }
}

customElements.define("request-form", RequestForm);
