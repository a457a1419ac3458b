// The code for what is on the page, in tabs.

import { h } from "../lib/element.js";
import { copyButton } from "./copy-button.js";

export class CodePanel extends HTMLElement {
  #codes = {};
  #current = null;

  connectedCallback() {
    if (this.tabs) return;
    this.tabs = h("div", { role: "tablist", "aria-label": "Language", onkeydown: (event) => this.#key(event) });
    this.code = h("code", {});
    const { button, said } = copyButton(this.code);
    this.said = said;
    const panel = { id: "code", role: "tabpanel", tabindex: "0" };
    this.panel = h("pre", panel, this.code);
    this.append(h("div", { class: "code-head" }, this.tabs, button, said), this.panel);
  }

  /** codes: {name: code}. */
  show(codes) {
    this.#codes = codes;
    this.#current ??= Object.keys(codes)[0];
    const hadFocus = this.tabs.contains(document.activeElement);
    this.tabs.replaceChildren(
      ...Object.keys(codes).map((name) => {
        const chosen = name === this.#current;
        return h(
          "button",
          {
            type: "button", role: "tab", id: `code-${name}`, "aria-selected": String(chosen), "aria-controls": "code",
            tabindex: chosen ? 0 : -1, onclick: () => this.#choose(name),
          },
          name,
        );
      }),
    );
    this.panel.setAttribute("aria-labelledby", `code-${this.#current}`);
    this.code.textContent = codes[this.#current];
    if (hadFocus) this.tabs.querySelector('[tabindex="0"]').focus();
  }

  #choose(name) {
    this.#current = name;
    this.said.textContent = "";
    this.show(this.#codes);
    this.tabs.querySelector('[tabindex="0"]').focus();
  }

  #key(event) {
    const names = Object.keys(this.#codes);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) this.#choose(names[(names.indexOf(this.#current) + step + names.length) % names.length]);
  }
}

customElements.define("code-panel", CodePanel);
