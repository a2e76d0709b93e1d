// What the page shows: frames in, text and plots out. Everything that came goes in as text.

import { Plot, milliseconds } from "./plots.js";
import { follow, forget, hasToken, remember } from "./stream.js";
import { counted, duration, gain, human, isNumber } from "./words.js";

const KEPT_S = 1800;
const KEPT_PAIRS = 256;
const SILENT_MS = 3000;
const DESCRIBE_MS = 5000;
const LEAST_S = 15;  // of time shown at the beginning
const CALM_MS = 2000;  // between two drawings where less motion is asked for
const BASELINE_COLORS = ["one", "two", "three"];
const PROMISES = {
  "replayable": "every event affects the model once, across crashes",
  "ackable": "what was not acknowledged comes again",
  "fire-and-forget": "a crash loses what came since the last snapshot",
};
const WHY = {
  unsound: "the credit was unsound", noise: "the credit was too noisy",
  slow: "ticks took longer than their budget", lag: "too far behind the source",
};

const byId = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let about = null;
let frames = [];  // the newest KEPT_S seconds, oldest first
let pairs = { until: 0, values: [] };  // scored predictions in a row, the newest last
let plots = null;
let heardAt = performance.now();
let isLive = false;
let drawnAt = 0;
let describedAt = 0;

function say(id, words) {
  const place = byId(id);
  if (place.textContent !== words) place.textContent = words;
}

function state(kind, words) {
  isLive = kind === "live";
  byId("state").dataset.state = kind;
  say("state", words);
}

function showReady(reasons) {
  byId("unready").hidden = !reasons.length;
  const shown = [...byId("reasons").children].map((each) => each.textContent);
  if (JSON.stringify(shown) !== JSON.stringify(reasons)) byId("reasons").replaceChildren(...reasons.map(item));
  document.title = `${reasons.length ? "not ready: " : ""}${about ? about.task : "stream-rnn"}`;
}

function item(words) {
  const made = document.createElement("li");
  made.textContent = words;
  return made;
}

function showLetters(letters) {
  byId("letters").hidden = !letters.length;
  byId("no-letters").hidden = letters.length > 0;
  const rows = letters.toReversed().map((letter) => {
    const row = document.createElement("tr");
    for (const words of [letter.id, letter.stage, letter.reason]) {
      const cell = document.createElement("td");
      cell.textContent = words;
      row.append(cell);
    }
    return row;
  });
  byId("letters").tBodies[0].replaceChildren(...rows);
}

const figure = () => (about.figure === "loss" ? "Loss" : about.figure);

function showNumbers(frame) {
  const { big, against, verdict } = gain(frame.loss, frame.baselines);
  say("gain", big);
  byId("gain").className = `big ${verdict}`;
  say("loss", against);
  say("rate", human(frame.events_per_s));
  say("events", `${counted(frame.events)} since the start`);
  const [events, seconds] = [frame.lag_events, frame.lag_seconds];
  const inTime = isNumber(seconds) ? `${duration(seconds)} behind` : "";
  say("lag", isNumber(events) ? `${human(events)} event${events === 1 ? "" : "s"}` : inTime || "unknown");
  say("behind", isNumber(events) ? inTime || "waiting at the source" : "the source does not say");
  say("rule", frame.rule);
  const why = WHY[frame.fallback_reason] ?? frame.fallback_reason;
  say("level", frame.fallback_level ? `fallback level ${frame.fallback_level}: ${why}` : "level 0, as configured");
  say("saved", isNumber(frame.snapshot_age_s) ? `${duration(frame.snapshot_age_s)} ago` : "none yet");
  say("step", `step ${counted(frame.step)}`);
}

function makePlots() {
  const names = Object.keys(frames[0].baselines);
  const now = () => frames[frames.length - 1];
  const isClass = ["cross_entropy", "bernoulli"].includes(about.kind);
  const loose = about.streams > 1 || isClass;  // neighbors belong to different streams: no line
  byId("figure").textContent = `${figure()}, beside the best baseline`;
  byId("plot-loss").querySelector("h2").textContent = `${figure()}, beside the baselines`;
  if (isClass) byId("plot-scored").querySelector("h2").textContent = "Probability of what came";
  const scored = [{ label: isClass ? "probability" : "prediction", color: "model", width: 1.75, points: loose }];
  if (!isClass) scored.unshift({ label: "truth", color: "truth", width: 1.25, points: loose });
  const event = (n) => counted(Math.round(n));
  plots = {
    loss: new Plot(byId("plot-loss"), {
      series: [
        ...names.map((label, i) => ({ label, color: BASELINE_COLORS[i] ?? "more", width: 1.25, dash: [5, 4] })),
        { label: "model", color: "model", width: 2.25 },
      ],
      summary: () => {
        const { big, against } = gain(now().loss, now().baselines);
        return `${figure()}: ${big}, ${against}`;
      },
    }),
    scored: new Plot(byId("plot-scored"), {
      series: scored, axis: event, floor: isClass ? 0 : null,
      summary: () => `The newest ${pairs.values.length} predictions that were compared with the truth`,
    }),
    rate: new Plot(byId("plot-rate"), {
      series: [{ label: "events", color: "model", width: 1.75 }],
      summary: () => `${human(now().events_per_s)} events per second`,
    }),
    tick: new Plot(byId("plot-tick"), {
      series: [
        { label: "p99", color: "one", width: 1.25 },
        { label: "p50", color: "model", width: 1.75 },
      ],
      format: milliseconds,
      summary: () => `Half of the ticks take ${milliseconds(now().tick_p50_s)}, 99 of 100 at most ${milliseconds(now().tick_p99_s)}`,
    }),
  };
}

function draw() {
  if (!plots) makePlots();
  const until = frames[frames.length - 1].at;
  const wanted = until - Number(document.querySelector("input[name=window]:checked").value);
  const from = Math.max(wanted, Math.min(frames[0].at, until - LEAST_S));
  let first = frames.findIndex((frame) => frame.at >= from);
  first = Math.max(0, first - 1);  // one beyond the edge, so that the line comes from there
  const shown = withGaps(frames.slice(first));
  const column = (value) => shown.map((frame) => (frame.gap ? null : value(frame)));
  const at = shown.map((frame) => frame.at);
  const names = Object.keys(frames[0].baselines);
  plots.loss.draw([at, ...names.map((name) => column((frame) => frame.baselines[name] ?? null)), column((frame) => frame.loss)], from, until);
  plots.rate.draw([at, column((frame) => frame.events_per_s)], from, until);
  plots.tick.draw([at, column((frame) => frame.tick_p99_s), column((frame) => frame.tick_p50_s)], from, until);
  const n = pairs.values.length;
  const xs = pairs.values.map((pair, i) => pairs.until - n + 1 + i);
  const predictions = pairs.values.map((pair) => pair[0]);
  const truths = pairs.values.map((pair) => pair[1]);
  const columns = plots.scored.series.length > 1 ? [truths, predictions] : [predictions];
  byId("no-scored").hidden = n > 0;
  plots.scored.place.hidden = !n;
  if (n) plots.scored.draw([xs, ...columns], xs[0], xs[n - 1]);
  if (performance.now() - describedAt > DESCRIBE_MS) {
    describedAt = performance.now();
    for (const plot of Object.values(plots)) plot.describe();
  }
}

/** Where nothing came for a while, nothing is drawn. */
function withGaps(list) {
  const out = [];
  list.forEach((frame, i) => {
    if (i && frame.at - list[i - 1].at > 5) out.push({ at: (frame.at + list[i - 1].at) / 2, gap: true });
    out.push(frame);
  });
  return out;
}

function render() {
  if (!frames.length || byId("pause").ariaPressed === "true") return;
  if (calm.matches && performance.now() - drawnAt < CALM_MS) return;
  drawnAt = performance.now();
  const newest = frames[frames.length - 1];
  showNumbers(newest);
  showLetters(newest.letters);
  draw();
}

let isAsked = false;
function renderSoon() {  // a tab in the background is not drawn, and many frames at once are once
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    render();
  });
}

const on = {
  about(told) {
    about = told;
    say("task", told.task);
    say("guarantee", told.guarantee);
    say("promise", PROMISES[told.guarantee] ?? "");
    say("about", `${told.source} · ${counted(told.parameters)} parameters · stream-rnn ${told.version}`);
    state("live", "live");
    heardAt = performance.now();
  },
  frame(frame) {
    heardAt = performance.now();
    if (frames.length && frame.at <= frames[frames.length - 1].at) return;  // told again
    frames.push(frame);
    while (frames[0].at < frame.at - KEPT_S) frames.shift();
    const { until, pairs: newer } = frame.scored;
    const isNext = until - newer.length === pairs.until;
    pairs = { until, values: [...(isNext ? pairs.values : []), ...newer].slice(-KEPT_PAIRS) };
    state("live", "live");
    showReady(frame.ready);
    renderSoon();
  },
  ready(reasons) {
    showReady(reasons);
  },
  state,
  async refused() {
    state("trouble", "token needed");
    byId("refused").hidden = !hasToken();
    forget();
    byId("ask").hidden = false;
    byId("token").focus();
    await new Promise((done) => byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      remember(byId("token").value.trim());
      byId("token").value = "";
      byId("ask").hidden = true;
      done();
    }, { once: true }));
  },
};

byId("pause").addEventListener("click", () => {
  const pauses = byId("pause").ariaPressed !== "true";
  byId("pause").ariaPressed = String(pauses);
  say("pause", pauses ? "Go on" : "Pause");
  renderSoon();
});
byId("window").addEventListener("change", () => frames.length && plots && draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of Object.values(plots ?? {})) plot.build();
  renderSoon();
});
setInterval(() => {
  const silentMs = performance.now() - heardAt;
  if (isLive || byId("state").dataset.state === "silent") {
    if (silentMs > SILENT_MS) {
      state("silent", `silent for ${duration(silentMs / 1000)}`);
      isLive = false;
    }
  }
}, 500);
follow(on);
