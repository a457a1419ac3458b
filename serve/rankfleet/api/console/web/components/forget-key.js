// A button in the header that forgets the API key. It is there only while there is one.

import { h } from "../lib/element.js";
import { storedKey, storeKey } from "../lib/key.js";

class ForgetKey extends HTMLElement {
  connectedCallback() {
    this.append(h("button", { type: "button", class: "quiet", onclick: () => storeKey(null) }, "Forget the API key"));
    this.hidden = !storedKey();
    addEventListener("rankfleet-key", () => (this.hidden = !storedKey()));
  }
}

customElements.define("forget-key", ForgetKey);
