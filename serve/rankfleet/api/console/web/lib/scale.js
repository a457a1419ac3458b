// Axes: positions of values, and the values to mark.

/** Maps a domain to a range by the logarithm; `invert` maps back. */
export function logScale([low, high], [from, to]) {
  const ratio = Math.log(high / low);
  const scale = (value) => from + (Math.log(value / low) / ratio) * (to - from);
  scale.invert = (position) => low * Math.exp(((position - from) / (to - from)) * ratio);
  return scale;
}

export function linearScale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

/** 1, 2, 5, 10, ... inside a domain. */
export function logTicks([low, high]) {
  const ticks = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
    ticks.push(...[1, 2, 5].map((digit) => digit * power).filter((tick) => tick >= low && tick <= high));
  return ticks;
}

/** About `number` round values inside a domain. */
export function linearTicks([low, high], number) {
  const rough = (high - low) / number;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(tick);
  return ticks;
}

/** A budget as people write it: two digits, from 1 ms to an hour. */
export function roundBudget(value) {
  const bounded = Math.min(3_600_000, Math.max(1, value));
  return Number(bounded.toPrecision(2));
}
