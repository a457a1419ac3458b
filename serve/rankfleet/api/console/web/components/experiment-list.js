// The experiments of the fleet: arms with their shares and counts, which are stopped and why, what comes next, and the
// command for the verdict.

import { h } from "../lib/element.js";
import { number, percent, utc } from "../lib/format.js";
import { copyButton } from "./copy-button.js";
import { dataTable } from "./data-table.js";

const HEAD = ["Arm", "What it changes", "Share", "Requests", "Errors", "Budgets met"];
const SHADOW_HEAD = HEAD.slice(0, 3); // its arms answer nothing that could be counted

export class ExperimentList extends HTMLElement {
  #parts = new Map(); // by name; they stay, so that the focus does, too

  /** experiments: of GET /v1/fleet. */
  show(experiments) {
    const before = this.#parts;
    this.#parts = new Map(experiments.map(({ name, mode }) => [`${mode} ${name}`, before.get(`${mode} ${name}`) ?? part(name, mode)]));
    if ([...before.keys()].join() !== [...this.#parts.keys()].join())
      this.replaceChildren(...[...this.#parts.values()].map(({ element }) => element));
    for (const experiment of experiments) {
      const shown = this.#parts.get(`${experiment.mode} ${experiment.name}`);
      const told = JSON.stringify(experiment);
      if (shown.told === told) continue;
      shown.told = told;
      shown.live.replaceChildren(...live(experiment));
    }
  }
}

function part(name, mode) {
  const live = h("div", {});
  const code = h("code", {}, `rankfleet experiment report ${name} --config FILE`);
  const { button, said } = copyButton(code, `Copy the command for ${name}`);
  const what = mode === "shadow" ? "what the comparisons say" : "the verdict";
  const hint = `For ${what}, run this where the fleet file (FILE) and its events are:`;
  const report = h("div", { class: "report" }, h("p", { class: "note" }, hint), h("div", { class: "command" }, code, button, said));
  return { element: h("section", { "aria-label": `Experiment ${name}` }, h("h3", {}, name), live, report), live };
}

function live(experiment) {
  const { name, mode, stopped, control, arms, next } = experiment;
  const head = mode === "shadow" ? SHADOW_HEAD : HEAD;
  const rows = arms.map((arm) => row(arm, experiment).slice(0, head.length));
  const instead = `Its share is ${mode === "shadow" ? "compared" : "answered"} as ${control}`;
  const reasons = arms.filter((arm) => arm.stopped).map((arm) => h("li", {}, h("b", {}, arm.name), ` is stopped: ${arm.stopped}. ${instead}.`));
  return [
    h("p", { class: stopped ? "late" : "note" }, stopped ? "Stopped: no request takes part." : what(experiment)),
    dataTable(`Arms of ${name}`, head, rows),
    reasons.length ? h("ul", { class: "stopped" }, reasons) : "",
    next && !stopped ? h("p", { class: "next" }, h("b", {}, `Next, ${utc(next.at)}`), `: ${step(arms, next.weights)}.`) : "",
  ];
}

function what({ mode, unit, since_s }) {
  if (mode === "shadow")
    return `Shadow, by ${unit}: compared and not answered. Requests are answered as without the experiment; afterwards the arm's tier ranks the same documents, if the fleet has time. An arm that changes nothing is not compared.`;
  return `Split by ${unit}. ${since_s === null ? "Nothing has been counted yet." : `Counts of all routers since ${utc(since_s * 1000)}.`}`;
}

function row(arm, { control, stopped, mode }) {
  const off = stopped || arm.stopped;
  const bar = h("span", {});
  bar.style.width = `${arm.share * 100}%`;
  const isControl = mode === "split" && arm.name === control;
  return [
    [arm.name, isControl ? [" ", h("span", { class: "mark" }, "control")] : null],
    [arm.changes],
    [h("span", { class: off ? "bar off" : "bar", "aria-hidden": "true" }, bar), percent(arm.share), arm.stopped ? h("span", { class: "late" }, " stopped") : null],
    [number(arm.requests)],
    [arm.errors ? `${number(arm.errors)} (${percent(arm.errors / arm.requests)})` : "0"],
    [arm.budgets ? `${percent(arm.met / arm.budgets)} of ${number(arm.budgets)}` : "–"],
  ];
}

/** The shares that a step of the schedule changes. weights: of the step; arms that it leaves out keep theirs. */
function step(arms, weights) {
  const next = arms.map((arm) => weights[arm.name] ?? arm.weight);
  const total = next.reduce((sum, weight) => sum + weight, 0);
  const moves = arms.map((arm, i) => [arm.name, percent(arm.share), percent(next[i] / total)]).filter(([, now, then]) => now !== then);
  return moves.length ? moves.map(([name, now, then]) => `${name} ${now} → ${then}`).join(", ") : "no share changes";
}

customElements.define("experiment-list", ExperimentList);
