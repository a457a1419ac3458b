// What each budget buys: the plans for budgets from low to high, for one request.

import * as api from "../lib/api.js";
import { planName } from "../lib/format.js";
import { logScale } from "../lib/scale.js";

const STEPS = 24;
const AT_A_TIME = 4;

/** [{fromMs, name, tier, quality}], one for each run of budgets with the same plan, the smallest budgets first. */
export async function budgetOffers(body, [lowMs, highMs], signal) {
  const at = logScale([lowMs, highMs], [0, STEPS - 1]);
  const budgets = Array.from({ length: STEPS }, (_, step) => Number(at.invert(step).toPrecision(3)));
  const decisions = [];
  for (let step = 0; step < STEPS; step += AT_A_TIME) {
    const some = budgets.slice(step, step + AT_A_TIME).map((slo_ms) => api.plan({ ...body, slo_ms }, signal));
    decisions.push(...(await Promise.all(some)));
  }
  return runs(budgets, decisions);
}

// More time never gets less: where it seems so, the router itself was slower for one question than for the next.
function runs(budgets, decisions) {
  const found = [];
  budgets.forEach((fromMs, step) => {
    const chosen = chosenOf(decisions[step]);
    const offer = chosen
      ? { fromMs, name: kindOf(chosen), tier: chosen.tier, quality: chosen.quality }
      : { fromMs, name: "refused", tier: null, quality: null };
    const before = found.at(-1);
    if (!before || (offer.name !== before.name && offer.quality > before.quality)) found.push(offer);
  });
  return found;
}

export const chosenOf = (decision) => decision.considered.find((each) => each.verdict === "chosen") ?? null;

// How many documents or tokens a budget has time for grows with it: "first 5 of 12", "first 6 of 12" are one kind.
function kindOf(chosen) {
  if (chosen.how.startsWith("first ")) return `${chosen.tier} on the first few`;
  if (chosen.how.endsWith(" tokens a pair")) return `${chosen.tier}, cut pairs`;
  return planName(chosen);
}
