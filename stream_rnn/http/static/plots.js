// The four plots. Colors come from the style sheet, so that both schemes are kept in one place.

import { human, instant, isNumber } from "./words.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const WHOLE_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

/**
 * One plot in a figure: keys with the newest values (or those under the pointer), and a canvas.
 *
 * series: [{ label, color, width, dash, points }], without x; format: a value in words;
 * axis: x in words.
 */
export class Plot {
  constructor(figure, { series, format = human, axis = clock, floor = 0, summary }) {
    Object.assign(this, { figure, series, format, axis, floor, summary, data: [[], ...series.map(() => [])] });
    this.keys = document.createElement("ul");
    this.keys.className = "keys";
    this.values = series.map((each) => this.key(each));
    figure.querySelector("figcaption").append(this.keys);
    this.place = document.createElement("div");
    this.place.className = "canvas";
    this.place.setAttribute("role", "img");
    figure.append(this.place);
    this.build();
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.place);
  }

  key({ label, color: name, dash }) {
    const item = document.createElement("li");
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({ x1: 0, x2: 18, y1: 3, y2: 3, "stroke-width": 2.5 })) {
      line.setAttribute(key, value);
    }
    line.style.stroke = `var(--${name})`;
    if (dash) line.setAttribute("stroke-dasharray", dash.join(" "));
    mark.setAttribute("aria-hidden", "true");
    mark.append(line);
    const value = document.createElement("b");
    item.append(mark, `${label} `, value);
    this.keys.append(item);
    return value;
  }

  size() {
    return { width: Math.max(this.place.clientWidth, 80), height: this.place.clientHeight };
  }

  /** Made again where the color scheme changes. */
  build() {
    this.plot?.destroy();
    const ink = { stroke: color("muted"), grid: { stroke: color("grid"), width: 1 }, ticks: { show: false } };
    const font = "11.5px system-ui, sans-serif";
    this.plot = new uPlot({
      ...this.size(),
      padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false }, y: { range: (plot, low, high) => this.range(low, high) } },
      axes: [
        { ...ink, font, size: 28, space: 76, incrs: this.axis === clock ? WHOLE_S : undefined, values: (plot, at) => at.map(this.axis) },
        { ...ink, font, size: 54, space: 32, values: (plot, values) => values.map((value) => this.format(value)) },
      ],
      series: [{}, ...this.series.map((each) => ({
        stroke: color(each.color), width: each.width ?? 1.5, dash: each.dash,
        paths: each.points ? () => null : undefined,
        points: { show: Boolean(each.points), size: 4, fill: color(each.color) },
      }))],
      hooks: { setCursor: [(plot) => this.say(plot.cursor.idx)] },
    }, this.data, this.place);
  }

  range(low, high) {
    if (!isNumber(low) || !isNumber(high)) return [0, 1];
    const from = this.floor === null ? low : Math.min(low, this.floor);
    const room = (high - from || Math.abs(high) || 1) * 0.06;
    return [from === this.floor ? from : from - room, high + room];
  }

  draw(data, from, until) {
    this.data = data;
    this.plot.batch(() => {
      this.plot.setData(data, false);
      this.plot.setScale("x", { min: from, max: until });
    });
    this.say(this.plot.cursor.idx);
  }

  say(index) {
    const at = index ?? this.data[0].length - 1;
    this.values.forEach((value, i) => { value.textContent = this.format(this.data[i + 1][at]); });
  }

  /** For those who hear the page; not at every frame. */
  describe() {
    this.place.setAttribute("aria-label", this.summary());
  }
}

export const milliseconds = instant;
