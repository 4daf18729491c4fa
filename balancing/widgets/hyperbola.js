// The network u v x, fitted to one number: gradient flow keeps u^2 - v^2, descent lets it go.
import { integrate, html, slider, readout, frame, row, plot, shown } from "./common.js";

export const TARGET = 1;
const TIME = 8; // long enough to arrive from nearly everywhere
const SAMPLES = 161;
const RANGE = 2.5;

const gradient = ([u, v]) => [v * (u * v - TARGET), u * (u * v - TARGET)];
const gap = ([u, v]) => u * u - v * v;

/** Gradient flow of (u v - 1)^2 / 2 from [u, v], at each of the times. */
export function flow(start, times) {
  return integrate((at) => gradient(at).map((g) => -g), start, times);
}

/** Gradient descent: the start and each of the steps after it. */
export function descent(start, step, steps) {
  const path = [start];
  for (let k = 0; k < steps; k++) {
    const [u, v] = path[k];
    const [du, dv] = gradient([u, v]);
    path.push([u - step * du, v - step * dv]);
  }
  return path;
}

/** The two branches of u v = value inside the plane. */
function level(value) {
  const points = [];
  for (let i = 0; i <= 120; i++) {
    const u = -RANGE + (2 * RANGE * i) / 120;
    const v = value / u;
    points.push(Math.abs(v) <= 1.2 * RANGE ? [u, v] : [NaN, NaN]);
  }
  return points;
}

function render({ model, el }) {
  const plane = plot({
    label: "",
    x: { label: "u", min: -RANGE, max: RANGE },
    y: { label: "v", min: -RANGE, max: RANGE },
    width: 340,
    height: 328,
  });
  const gaps = plot({
    label: "",
    x: { label: "time", min: 0, max: TIME },
    y: { label: "u² − v²", min: -1, max: 1 },
    width: 340,
    height: 328,
  });
  for (const height of [0.125, 0.5, 1.125, 2, 3.125])
    for (const sign of [-1, 1]) {
      const product = TARGET + sign * Math.sqrt(2 * height);
      if (Math.abs(product) > 1e-12) plane.line(`level ${product}`, level(product), 0, { class: "line contour" });
    }
  plane.line("solutions", level(TARGET), 0, { class: "line solutions" });

  const out = {
    start: readout("start-gap", "u² − v² at the start"),
    flow: readout("flow-gap", "at the end of the flow"),
    descent: readout("descent-gap", "at the end of descent"),
  };
  const times = Array.from({ length: SAMPLES }, (_, i) => (TIME * i) / (SAMPLES - 1));

  function update() {
    const start = [model.get("u"), model.get("v")];
    const step = model.get("step");
    const along = flow(start, times);
    const steps = descent(start, step, Math.round(TIME / step));
    const finite = steps.filter((at) => at.every((w) => Math.abs(w) < 1e6));
    plane.line("flow", along, 1);
    plane.line("descent", finite, 2);
    plane.dot("end", along.at(-1), 1);
    const all = [...along, ...finite].map(gap);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const room = Math.max(0.25, 0.15 * (high - low));
    gaps.limits({ y: [Math.max(-20, low - room), Math.min(20, high + room)] });
    gaps.line("flow", along.map((at, i) => [times[i], gap(at)]), 1);
    gaps.line("descent", finite.map((at, k) => [k * step, gap(at)]), 2);
    out.start.set(gap(start));
    out.flow.set(gap(along.at(-1)));
    out.descent.set(finite.length === steps.length ? gap(steps.at(-1)) : NaN);
    plane.describe(
      `The plane of u and v with contours of the loss. From (${shown(start[0])}, ${shown(start[1])}) gradient ` +
        `flow runs to (${along.at(-1).map(shown).join(", ")}) along its hyperbola; descent takes ${steps.length - 1} steps.`,
    );
    gaps.describe(
      `u² − v² over time: ${shown(gap(start))} all along the flow, ` +
        (finite.length === steps.length ? `${shown(gap(steps.at(-1)))} at the end of descent.` : "descent diverges."),
    );
  }

  const put = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
    update();
  };
  const grip = plane.handle(
    "Start",
    [model.get("u"), model.get("v")],
    ([u, v]) => `u = ${shown(u)}, v = ${shown(v)}`,
    ([u, v]) => put({ u, v }),
  );
  const size = slider("Step of descent", { min: 0.01, max: 0.6, step: 0.01, value: model.get("step") }, (step) =>
    put({ step }),
  );
  model.on("change:u", () => grip.set([model.get("u"), model.get("v")]));
  frame(
    el,
    row("controls", size),
    row("plots", plane, gaps),
    html(
      "p",
      { class: "key" },
      html("span", { class: "swatch series-1" }),
      "gradient flow ",
      html("span", { class: "swatch series-2" }),
      "gradient descent. Drag the start, or move it with the arrow keys.",
    ),
    row("readouts", out.start, out.flow, out.descent),
  );
  update();
}

export default { render };
