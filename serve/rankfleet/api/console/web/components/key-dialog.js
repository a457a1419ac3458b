// Asks for an API key when the server wants one. Requests that wait for it are all told at once.

import { onKeyWanted } from "../lib/api.js";
import { h } from "../lib/element.js";
import { storedKey, storeKey } from "../lib/key.js";

class KeyDialog extends HTMLElement {
  #asked = null;
  #answer = null;

  connectedCallback() {
    this.note = h("p", { class: "note", role: "status" });
    this.input = h("input", { id: "api-key", type: "password", autocomplete: "off", required: true });
    const form = h(
      "form",
      { onsubmit: (event) => this.#submit(event) },
      h("h2", { id: "key-title" }, "This server wants an API key"),
      this.note,
      h("label", { for: "api-key" }, "API key"),
      this.input,
      h("p", { class: "note" }, "Kept until this tab is closed, and sent to this server only."),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "submit", class: "primary" }, "Use this key"),
        h("button", { type: "button", onclick: () => this.dialog.close() }, "Not now"),
      ),
    );
    this.dialog = h("dialog", { "aria-labelledby": "key-title", onclose: () => this.#tell(false) }, form);
    this.replaceChildren(this.dialog);
    onKeyWanted((refused) => this.ask(refused));
  }

  /** A promise of whether there is a key now. refused: the key that was sent; null if none was. */
  async ask(refused) {
    if (refused !== storedKey()) return true; // another one has been given since
    this.#asked ??= new Promise((resolve) => {
      this.#answer = resolve;
      this.note.textContent = refused ? "The key that was sent is not accepted here." : "";
      this.input.value = "";
      this.dialog.showModal();
    });
    return this.#asked;
  }

  #submit(event) {
    event.preventDefault();
    storeKey(this.input.value.trim());
    this.#tell(true);
    this.dialog.close();
  }

  #tell(given) {
    this.#answer?.(given);
    this.#answer = this.#asked = null;
  }
}

customElements.define("key-dialog", KeyDialog);
