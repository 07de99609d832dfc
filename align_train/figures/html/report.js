"use strict";
// Draws the panels of #charts. A zoom of one is the zoom of all.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.getElementById("panels");
  const HEIGHT = 210; // pixels
  const FEW = 20; // so many points are marked one by one

  const ends = charts.flatMap((chart) => [chart.steps[0], chart.steps[chart.steps.length - 1]]);
  const first = Math.min(...ends);
  const last = Math.max(...ends);
  let shown = { min: first, max: last }; // the steps that all panels show
  const drawn = [];

  const spell = (value) => {
    if (value == null) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en-US");
    return Math.abs(value) >= 0.001 ? value.toFixed(4) : value.toPrecision(3);
  };
  const tick = (value) => (value == null ? "" : String(Number(value.toPrecision(4))));
  const element = (name, properties) => Object.assign(document.createElement(name), properties);

  // Every panel has the ends of the whole run, so that all of them show the same steps.
  const padded = (chart) => {
    const before = chart.steps[0] > first ? [first] : [];
    const after = chart.steps[chart.steps.length - 1] < last ? [last] : [];
    const pad = (column) => [...before.map(() => null), ...column, ...after.map(() => null)];
    return [[...before, ...chart.steps, ...after], ...chart.columns.map(pad)];
  };

  const follow = (plot) => {
    const { min, max } = plot.scales.x;
    if (min == null || (min === shown.min && max === shown.max)) return;
    shown = { min, max };
    for (const { plot: other } of drawn) {
      if (other && other !== plot) other.setScale("x", shown);
    }
  };

  // The cursor is shared. Zooms are too, but by `follow`.
  const moves = (kind) => kind === "mousemove" || kind === "mouseleave";

  const options = (chart, width, log) => ({
    width,
    height: HEIGHT,
    cursor: { sync: { key: "steps", setSeries: false, scales: ["x", null], filters: { pub: moves, sub: moves } } },
    scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { distr: log ? 3 : 1 } },
    axes: [
      { size: 34, font: "11px sans-serif", values: (_, ticks) => ticks.map(tick) },
      { size: 62, font: "11px sans-serif", values: (_, ticks) => ticks.map(tick) },
    ],
    // The first series is the step.
    legend: { markers: { dash: (_, index) => (chart.dashes[index - 1] || []).length ? "dashed" : "solid" } },
    series: [
      { label: "step", value: (_, value) => spell(value) },
      ...chart.labels.map((label, index) => ({
        label,
        stroke: chart.colours[index],
        dash: chart.dashes[index],
        width: 1.6,
        spanGaps: true,
        points: { show: chart.columns[index].filter((value) => value != null).length < FEW, size: 5 },
        value: (_, value) => spell(value),
      })),
    ],
    hooks: { setScale: [(plot, scale) => { if (scale === "x") follow(plot); }] },
  });

  const draw = (entry) => {
    const { chart, box, log } = entry;
    if (entry.plot) entry.plot.destroy();
    entry.plot = null; // a new plot first shows all steps: nobody is to follow
    const before = shown;
    shown = { min: first, max: last };
    const positive = (column) => column.map((value) => (value > 0 ? value : null));
    const [steps, ...columns] = padded(chart);
    const data = [steps, ...(log.checked ? columns.map(positive) : columns)];
    const plot = new uPlot(options(chart, box.clientWidth - 18, log.checked), data, box);
    entry.plot = plot;
    shown = before;
    plot.setScale("x", shown);
  };

  let group = null;
  for (const chart of charts) {
    if (chart.group !== group) {
      group = chart.group;
      root.append(element("h3", { textContent: group }));
    }
    const box = element("div", { className: "panel" });
    const top = element("div", { className: "top" });
    const log = element("input", { type: "checkbox", checked: chart.log });
    const label = element("label", {});
    label.append(log, " log");
    top.append(element("strong", { textContent: chart.title }), label);
    box.append(top);
    root.append(box);
    const entry = { chart, box, log, plot: null };
    log.addEventListener("change", () => draw(entry));
    drawn.push(entry);
  }
  drawn.forEach(draw);

  window.addEventListener("resize", () => {
    for (const { plot, box } of drawn) plot.setSize({ width: box.clientWidth - 18, height: HEIGHT });
  });
  // For tests: the steps that each panel shows.
  window.shownSteps = () => drawn.map(({ plot }) => [plot.scales.x.min, plot.scales.x.max]);
})();
