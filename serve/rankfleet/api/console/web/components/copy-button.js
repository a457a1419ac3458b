// A button that copies code, and where the browser lets no page do so, selects it.

import { h } from "../lib/element.js";

/** code: the element whose text is copied. name: of the button for screen readers, if “Copy” does not say enough. */
export function copyButton(code, name) {
  const said = h("span", { class: "note", role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      said.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = "Selected: this browser lets no page copy here, so press Ctrl + C.";
    }
  };
  return { button: h("button", { type: "button", "aria-label": name, onclick: copy }, "Copy"), said };
}
