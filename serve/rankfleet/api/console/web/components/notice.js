// A message in the place of what cannot be shown: what is wrong, what to do, and a button for it.

import { h } from "../lib/element.js";
import { ms } from "../lib/format.js";

/** An error of the API. retry: called by the button; there is none if a retry cannot help. */
export function errorNotice(error, retry) {
  const after = error.retryMs > 0 ? ` It can be retried in ${ms(error.retryMs)}.` : "";
  return h(
    "div",
    { class: "notice error", role: "alert" },
    h("p", {}, `${error.message}${/[.!?]$/.test(error.message) ? "" : "."}${after}`),
    error.requestId ? h("p", { class: "note" }, `Request ${error.requestId}, as in the router's log.`) : null,
    retry && (error.retryMs !== null || error.status === 401)
      ? h("button", { type: "button", onclick: retry }, "Try again")
      : null,
  );
}

export const emptyNotice = (...content) => h("p", { class: "notice" }, ...content);
