// Starts the console: registers the elements, and shows the view that the address names (#/try, ...).

import "./components/fleet-status.js";
import "./components/forget-key.js";
import "./components/key-dialog.js";
import { FleetView } from "./views/fleet-view.js";
import { TryView } from "./views/try-view.js";
import { h } from "./lib/element.js";

// A view is an element that gets the rest of the address: #/try/REST. The first one is the default.
const VIEWS = [
  { name: "try", title: "Try it", element: TryView },
  { name: "fleet", title: "Fleet", element: FleetView },
];

function showView() {
  const [, name, rest = ""] = location.hash.split("/");
  const view = VIEWS.find((each) => each.name === name) ?? VIEWS[0];
  document.getElementById("views").replaceChildren(
    ...VIEWS.map((each) =>
      h("a", { href: `#/${each.name}`, "aria-current": each === view && "page" }, each.title),
    ),
  );
  const main = document.getElementById("main");
  const shown = main.firstElementChild;
  if (shown instanceof view.element) shown.open(rest);
  else main.replaceChildren(new view.element(rest));
}

addEventListener("hashchange", (event) => {
  if (location.hash !== "#main") showView(); // the skip link's
});
showView();
