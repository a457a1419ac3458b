// Numbers and names, as people read them.

/** Milliseconds: 0.42 ms, 8.1 ms, 38 ms, 1.2 s. */
export function ms(value) {
  if (value === null || value === undefined) return "not measured";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 9.95) return `${Number(value.toFixed(1))} ms`;
  if (value < 999.5) return `${value.toFixed(0)} ms`;
  return `${Number((value / 1000).toFixed(value < 9950 ? 1 : 0))} s`;
}

export const quality = (value) => value.toFixed(3);

/** A relevance score, 0 to 1: three digits, and more where it is near an end. */
export function score(value) {
  if (value === 0) return "0";
  return value < 0.001 ? value.toExponential(0) : value.toFixed(3);
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** The name of a plan: of an alternative in `considered`. */
export function planName({ tier, how }) {
  if (tier === "none") return "the order as given";
  if (how === "everything") return tier;
  return /^(best|first) /.test(how) ? `${tier} on the ${how}` : `${tier}, ${how}`;
}

/** How long ago: 12 s ago, 5 min ago, 3 h ago. */
export function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
}

/** 1234567 as 1,234,567. */
export const number = (value) => value.toLocaleString("en-US");

/** A share: 60%, 12.5%, 0.25%. */
export const percent = (share) => `${Number((share * 100).toFixed(2))}%`;

/** A time as the fleet file may have it: 2026-12-01 08:00 UTC. at: a date's text, or milliseconds since 1970. */
export const utc = (at) => `${new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC`;
