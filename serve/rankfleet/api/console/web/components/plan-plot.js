// Latency against quality: every plan that was considered, the budget, and what each budget buys.

import { h, svg } from "../lib/element.js";
import { ms, planName, quality } from "../lib/format.js";
import { linearScale, linearTicks, logScale, logTicks } from "../lib/scale.js";
import { placeLabels } from "./plot-labels.js";

const HEIGHT = 310;
const LEGEND = [
  ["ring", "what this budget gets"],
  ["step", "the best that each budget buys"],
  ["took", "what it took, last time"],
];
const MARGIN = { left: 52, right: 24, top: 40, bottom: 40 };

export class PlanPlot extends HTMLElement {
  #shown = null;

  connectedCallback() {
    this.#watch ??= new ResizeObserver(() => this.#draw());
    this.#watch.observe(this);
  }

  disconnectedCallback() {
    this.#watch.disconnect();
  }

  #watch = null;

  /**
   * decision: of /v1/plan. domain: of the axis, in ms. offers: of `budgetOffers`. tierIndex(name): for its colour.
   * measured: {name of tier or plan: ms}, what the last ranking took. budgetMs: null for none. legend: [[kind, words]].
   */
  show(shown) {
    this.#shown = shown;
    this.#draw();
  }

  #draw() {
    if (!this.#shown || !this.clientWidth) return;
    const { decision, budgetMs, domain, offers, tierIndex, measured, legend = LEGEND } = this.#shown;
    const width = this.clientWidth;
    const plans = decision.considered.filter((each) => each.predicted_ms !== null);
    const inner = [MARGIN.left, width - MARGIN.right];
    const floor = HEIGHT - MARGIN.bottom;
    const x = logScale(domain, inner);
    const named = new Set(apart(logTicks(domain), x));
    const within = (value) => Math.min(inner[1], Math.max(inner[0], x(value)));
    const y = linearScale(qualityDomain(decision.considered, offers), [floor, MARGIN.top]);
    const points = plans
      .map((each) => ({
        ...each, x: within(each.predicted_ms), y: y(each.quality), name: planName(each),
        chosen: each.verdict === "chosen", whole: each.how === "everything" || each.tier === "none",
      }))
      .sort((one, other) => one.chosen - other.chosen);
    const over = within(budgetMs ?? domain[1]);
    this.replaceChildren(
      svg(
        "svg",
        { width, height: HEIGHT, role: "img", "aria-label": inWords(decision, budgetMs) },
        linearTicks(endsOf(y, floor), 5).map((tick) => [
          svg("line", { class: "grid", x1: inner[0], x2: inner[1], y1: y(tick), y2: y(tick) }),
          svg("text", { class: "tick", x: inner[0] - 8, y: y(tick) + 4, "text-anchor": "end" }, quality(tick)),
        ]),
        logTicks(domain).map((tick) => [
          svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: MARGIN.top, y2: floor }),
          named.has(tick) && svg("text", { class: "tick", x: x(tick), y: floor + 18, "text-anchor": "middle" }, tickName(tick)),
        ]),
        svg("text", { class: "axis", x: inner[1], y: HEIGHT - 4, "text-anchor": "end" }, "predicted latency, 99th percentile →"),
        svg("text", { class: "axis", x: 4, y: 12 }, "↑ quality, nDCG@10"),
        svg("rect", { class: "over", x: over, y: MARGIN.top, width: Math.max(0, inner[1] - over), height: floor - MARGIN.top }),
        offers.length ? svg("path", { class: "buys", d: steps(offers, within, y, inner) }) : null,
        budgetMs === null ? null : budgetLine(over, budgetMs, floor, inner),
        points.map((point) => took(point, measured, within)),
        points.map((point) => mark(point, tierIndex)),
        placeLabels(points.filter((point) => point.whole || point.chosen), inner, [MARGIN.top, floor]).map((label) =>
          svg("text", { class: label.point.chosen ? "name chosen" : "name", x: label.x, y: label.y, "text-anchor": label.anchor }, label.point.name),
        ),
      ),
      h(
        "p",
        { class: "legend", "aria-hidden": "true" },
        legend.map(([kind, words]) => h("span", {}, h("span", { class: `key ${kind}` }), words)),
      ),
    );
  }
}

function budgetLine(x, budgetMs, floor, inner) {
  return [
    svg("line", { class: "budget", x1: x, x2: x, y1: MARGIN.top - 8, y2: floor }),
    svg("text", { class: "budget-name", x, y: MARGIN.top - 11, "text-anchor": anchor(x, inner) }, `budget ${ms(budgetMs)}`),
  ];
}

function qualityDomain(plans, offers) {
  const values = [...plans, ...offers].map((each) => each.quality).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = Math.max(0.004, (high - low) * 0.15);
  return [low - pad, high + pad];
}

// The qualities at the bottom and the top of the plot.
function endsOf(y, floor) {
  const [zero, one] = [y(0), y(1)];
  const invert = (pixel) => (pixel - zero) / (one - zero);
  return [invert(floor), invert(MARGIN.top)];
}

// The ticks whose names do not run into each other, from the largest down.
function apart(ticks, x) {
  let last = Infinity;
  return ticks.reverse().filter((tick) => last - x(tick) >= 52 && ((last = x(tick)), true));
}

const tickName = (tick) => (tick < 1000 ? `${Number(tick.toPrecision(1))} ms` : `${tick / 1000} s`);

const anchor = (position, [low, high]) => (position < low + 50 ? "start" : position > high - 50 ? "end" : "middle");

function steps(offers, x, y, [start, end]) {
  const known = offers.filter((offer) => offer.quality !== null);
  if (!known.length) return "";
  const parts = known.map((offer, i) => `${i ? "H" : "M"}${offer === offers[0] ? start : x(offer.fromMs)}${i ? "V" : ","}${y(offer.quality)}`);
  return `${parts.join("")}H${end}`;
}

function mark({ x, y, chosen, whole, tier, name, predicted_ms, quality: worth, verdict }, tierIndex) {
  return svg(
    "g",
    { "data-tier": tierIndex(tier) },
    svg("title", {}, `${name}: ${ms(predicted_ms)}, nDCG@10 ${quality(worth)}; ${verdict}`),
    chosen ? svg("circle", { class: "ring", cx: x, cy: y, r: 12 }) : null,
    svg("circle", { class: "plan", cx: x, cy: y, r: whole ? 6.5 : 4 }),
  );
}

function took({ x, y, name }, measured, within) {
  if (measured[name] === undefined) return null;
  const at = within(measured[name]);
  return [
    svg("line", { class: "took", x1: at, x2: x, y1: y, y2: y }),
    svg("path", { class: "took", d: `M${at - 5},${y}l5,-5l5,5l-5,5z` }),
  ];
}

function inWords(decision, budgetMs) {
  const plans = decision.considered.map((each) => `${planName(each)} ${ms(each.predicted_ms)}, quality ${quality(each.quality)}`);
  return `Latency against quality${budgetMs === null ? "" : ` with a budget of ${ms(budgetMs)}`}: ${plans.join("; ")}.`;
}

customElements.define("plan-plot", PlanPlot);
