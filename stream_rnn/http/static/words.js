// Numbers as a person reads them; the same words as the daemon's progress line.

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Three digits: 842, 12.3k, 0.0312; "-" when unknown. */
export function human(value) {
  if (!isNumber(value)) return "-";
  if (value === 0) return "0";
  const rounded = Number(value.toPrecision(3));
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(rounded) >= size) return `${Number((rounded / size).toPrecision(3))}${letter}`;
  }
  return Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
}

/** One unit is enough: 4 s, 12 min, 3 h, 5 d. */
export function duration(seconds) {
  if (!isNumber(seconds)) return "-";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(Math.max(seconds, 0))} s`;
}

/** A short time: 830 us, 1.52 ms, 2.1 s. */
export function instant(seconds) {
  if (!isNumber(seconds)) return "-";
  if (seconds === 0) return "0";
  if (seconds < 1e-3) return `${Number((seconds * 1e6).toPrecision(3))} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  return `${Number(seconds.toPrecision(3))} s`;
}

export const counted = (value) => (isNumber(value) ? value.toLocaleString("en-US") : "-");

/** The baseline with the least loss, as [name, loss]; null while none has one. */
export function best(baselines) {
  const known = Object.entries(baselines).filter(([, loss]) => isNumber(loss));
  known.sort((a, b) => a[1] - b[1]);
  return known.length ? known[0] : null;
}

/** The loss against the best baseline: `big` in words, whom it is `against`, the `verdict`. */
export function gain(loss, baselines) {
  const least = best(baselines);
  if (!isNumber(loss) || !least) return { big: human(loss), against: "no baseline yet", verdict: "" };
  const [name, theirs] = least;
  const verdict = loss < theirs ? "good" : "bad";
  const against = `${name}: ${human(loss)} against ${human(theirs)}`;
  // a ratio says nothing about losses below zero
  if (!(loss > 0 && theirs > 0)) return { big: human(loss), against, verdict };
  const ratio = loss / theirs;
  const percent = Math.round(100 * (ratio - 1));
  if (percent === 0) return { big: "equal", against, verdict: "" };
  if (ratio >= 2) return { big: `${human(ratio)} times`, against, verdict };
  return { big: `${Math.abs(percent)} % ${percent < 0 ? "below" : "above"}`, against, verdict };
}
