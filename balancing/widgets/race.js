// Two methods that balance one network: Algorithm 1 of Saul 2023, and the two-level method.
import { bind, button, choice, frame, html, normal, player, plot, readout, rescaled, row, shown, slider, swatch } from "./common.js";

const TOLERANCE = 1e-8; // of the largest imbalance; the norm is then smallest but for rounding
const MOST = 20000;
const FLOOR = 1e-14;
const LOWEST = 1e-10;

/** Gaussian weights of variance 2 / fan-in; then each hidden unit has a log-normal factor. */
export function network({ depth, width, spread, seed }) {
  const draw = normal(seed);
  const widths = [...Array(depth + 1).fill(width), Math.ceil(width / 4)];
  const matrix = (units, inputs) =>
    Array.from({ length: units }, () => Array.from({ length: inputs }, () => Math.sqrt(2 / inputs) * draw()));
  const weights = widths.slice(1).map((units, h) => matrix(units, widths[h]));
  return rescaled(weights, weights.slice(0, -1).map((units) => units.map(() => Math.exp(spread * draw()))));
}

/**
 * A function of theta, the logarithms of the hidden units' factors: the logarithms of the shares
 * into and out of each unit, the sums of the layers, and the norm. |W|^p is computed once.
 */
export function orbit(weights, p, q) {
  const powers = weights.map((matrix) => matrix.map((w) => Float64Array.from(w, (each) => Math.abs(each) ** p)));
  return (theta) => {
    const [into, out] = [[], []];
    const sums = powers.map((matrix, h) => {
      const x = Array.from(matrix[0], (_, j) => (h ? Math.exp(-p * theta[h - 1][j]) : 1));
      const columns = new Float64Array(x.length);
      const totals = matrix.map((each, i) => {
        let inner = 0;
        for (let j = 0; j < x.length; j++) inner += each[j] * x[j];
        const total = (Math.exp(p * (theta[h]?.[i] ?? 0)) * inner) ** (q / p);
        const part = total / inner;
        for (let j = 0; j < x.length; j++) columns[j] += each[j] * part;
        return total;
      });
      if (h) out.push(x.map((each, j) => Math.log(each * columns[j])));
      if (h < theta.length) into.push(totals.map(Math.log));
      return add(totals);
    });
    return { into, out, sums, norm: add(sums) ** (1 / q) };
  };
}

const add = (values) => values.reduce((a, b) => a + b);

const moved = (theta, { into, out }, exponent, moves) =>
  theta.map((units, h) => units.map((each, i) => each + (moves(h) ? exponent * (out[h][i] - into[h][i]) : 0)));

/** Theta after an update of Algorithm 1: all units at once. */
export function multiplicative(at, theta, p, q) {
  return moved(theta, at(theta), 1 / (4 * Math.max(p, q)), () => true);
}

/** Theta after a sweep: units of alternate layers, and after either a step of whole layers. */
export function twoLevel(at, theta, p, q) {
  for (const colour of [0, 1]) {
    theta = moved(theta, at(theta), 1 / (p + q), (h) => h % 2 === colour);
    const logs = at(theta).sums.map(Math.log);
    const mean = add(logs) / logs.length; // at the minimum all are equal
    let step = 0;
    theta = theta.map((units, h) => {
      step += (mean - logs[h]) / q;
      return units.map((each) => each + step);
    });
  }
  return theta;
}

/** Passes over |W|^p, if no sum is computed again of which nothing has changed: [start, each step]. */
export function passes(weights, p, q) {
  const size = weights.map((matrix) => matrix.length * matrix[0].length);
  const all = add(size);
  const rows = all - size[0]; // those of the first layer never change
  if (p === q) {
    const last = size.at(-1); // its columns neither
    return { multiplicative: [2, (rows + all - last) / all], twoLevel: [2, (2 * (rows - last)) / all] };
  }
  // sums over columns change with both ends; between an even layer and an odd one, twice a sweep
  const columns = add(size.map((each, h) => (!h ? 0 : h % 2 || h === size.length - 1 ? 1 : 2) * each));
  return { multiplicative: [3, (rows + all) / all], twoLevel: [2 + rows / all, (rows + columns) / all] };
}

/** Add the points that a method visits to `list`, up to number `last` or to the tolerance. */
export function visit(list, at, advance, theta, last, tolerance) {
  while (list.length <= last && !(list.at(-1)?.largest <= tolerance)) {
    if (list.length) theta = advance(list.at(-1).theta);
    const { into, out, norm } = at(theta);
    const imbalances = into.map((units, h) => units.map((each, i) => Math.tanh((each - out[h][i]) / 2)));
    list.push({ theta, norm, imbalances, largest: Math.max(...imbalances.flat().map(Math.abs)) });
  }
  return list;
}

function render({ model, el }) {
  const size = { label: "", width: 400, height: 290 };
  const excess = plot({
    ...size,
    x: { label: "", min: 0, max: 40 },
    y: { label: "norm / smallest norm − 1", min: FLOOR, max: 10, log: true },
  });
  const units = plot({
    ...size,
    x: { label: "hidden layer", min: 0.5, max: 6.5, whole: true },
    y: { label: "imbalance of each unit", min: LOWEST, max: 2, log: true },
  });
  const methods = [
    { key: "multiplicative", name: "Algorithm 1", steps: "updates", step: multiplicative },
    { key: "twoLevel", name: "two-level", steps: "sweeps", step: twoLevel },
  ];
  for (const method of methods) {
    const words = { steps: method.steps, passes: "passes", ratio: "norm / first norm", imbalance: "imbalance" };
    method.out = Object.entries(words).map(([key, name]) => readout(`${method.key}-${key}`, name));
  }
  const settings = ["depth", "width", "spread", "seed", "p", "q"];
  let known = "";
  let least;

  function prepare() {
    const [depth, width, spread, seed, p, q] = settings.map((name) => model.get(name));
    const weights = network({ depth, width, spread, seed });
    const at = orbit(weights, p, q);
    const start = weights.slice(1).map((matrix) => matrix[0].map(() => 0));
    for (const method of methods) {
      const list = (method.list = []);
      const advance = (theta) => method.step(at, theta, p, q);
      method.to = (last, tolerance) => visit(list, at, advance, start, last, tolerance);
      [method.first, method.each] = passes(weights, p, q)[method.key];
    }
    least = methods[1].to(2000, 1e-11).at(-1).norm;
    units.limits({ x: [0.5, depth + 0.5] });
  }

  function update() {
    const now = settings.map((name) => model.get(name)).join();
    if (now !== known) prepare();
    known = now;
    for (const [name, control] of Object.entries(controls)) control.set(model.get(name));
    const byPass = model.get("count") === "passes";
    for (const method of methods) {
      const list = method.to(model.get("steps"), TOLERANCE);
      const end = list.findIndex(({ largest }) => largest <= TOLERANCE);
      method.done = end >= 0 && end <= model.get("steps");
      method.last = method.done ? end : model.get("steps");
      method.place = (k) => (byPass ? method.first + k * method.each : k);
    }
    const start = methods[0].list[0].norm;
    const end = Math.max(...methods.map(({ place, last }) => place(last)));
    excess.limits({
      x: [0, 40 * 2 ** Math.max(0, Math.ceil(Math.log2(end / 40)))],
      y: [FLOOR, 10 ** Math.max(0, Math.ceil(Math.log10(start / least - 1)))],
    });
    excess.label({ x: byPass ? "passes over the weights" : "updates or sweeps" });
    const words = methods.map(({ key, name, steps, list, last, first, each, place, out }, m) => {
      const { norm, largest, imbalances } = list[last];
      const line = list.slice(0, last + 1).map((point, k) => [place(k), Math.max(point.norm / least - 1, FLOOR)]);
      excess.line(key, line, m + 1);
      excess.dot(`${key} now`, line.at(-1), m + 1);
      const spots = imbalances.flatMap((layer, h) =>
        layer.flatMap((imbalance, i) => {
          const x = h + 0.8 + 0.4 * m + 0.24 * ((i + 0.5) / layer.length - 0.5);
          const spot = [x, Math.max(Math.abs(imbalance), LOWEST)];
          return [spot, spot, [NaN, NaN]]; // a line without length, which shows as a dot
        }),
      );
      const style = `stroke-width:4;stroke-dasharray:none;stroke-linecap:${m ? "square" : "round"}`;
      units.line(key, spots, m + 1, { style });
      [last, first + last * each, norm / start, largest].forEach((value, n) => out[n].set(value));
      return ` ${name} after ${last} ${steps}: largest imbalance ${shown(largest)}.`;
    });
    excess.describe(`Norm over the smallest norm, less 1.${words.join("")}`);
    units.describe(`Imbalances of all units, layer by layer.${words.join("")}`);
    step.disabled = finished();
  }

  const finished = () => methods.every(({ done }) => done) || model.get("steps") >= MOST;
  const put = bind(model, [...settings, "steps", "count"], update);
  const restart = (values) => {
    run.stop();
    put({ ...values, steps: 0 });
  };
  const forward = (by) => {
    if (!finished()) put({ steps: Math.min(MOST, model.get("steps") + by) });
    return !finished();
  };
  const exponents = [1, 1.5, 2, 3];
  const controls = {
    depth: slider("Hidden layers", { min: 1, max: 8, step: 1 }, (depth) => restart({ depth })),
    width: slider("Units in each", { min: 5, max: 40, step: 1 }, (width) => restart({ width })),
    spread: slider("Spread of the units", { min: 0, max: 2, step: 0.1 }, (spread) => restart({ spread })),
    p: choice("p", exponents, 2, (p) => restart({ p })),
    q: choice("q", exponents, 2, (q) => restart({ q })),
    count: choice("Count", ["passes", "updates"], "passes", (count) => put({ count })),
  };
  const step = button("Step", () => {
    run.stop();
    forward(1);
  });
  let frames = 0; // a step in every sixth at first, then ever more steps in each
  const run = player("Run", () => {
    const done = model.get("steps");
    return (done < 20 && frames++ % 6 > 0) || forward(1 + Math.floor(done / 40));
  });
  const { count, ...others } = controls;
  const reset = button("Reset", () => restart({}));
  const renew = button("New weights", () => restart({ seed: model.get("seed") + 1 }));
  frame(
    el,
    row("controls", ...Object.values(others)),
    row("controls", step, run, reset, renew, count),
    row("plots", excess, units),
    ...methods.map(({ name, out }, m) => row("readouts", swatch(m + 1, name), ...out)),
    html(
      "p",
      {},
      "A step is an update of Algorithm 1, and a sweep with its layer steps, not extrapolated, of the two-level method. ",
      "Each stops once no imbalance is above 10⁻⁸.",
    ),
  );
  update();
}

export default { render };
