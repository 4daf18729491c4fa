// Gradient flow and the weight-balancing flow of an l_pq norm, for a linear network 2-2-1.
import { bind, button, choice, frame, html, integrate, player, plot, readout, row, shares, shown, slider, swatch } from "./common.js";

const TARGET = [2, 1];
const TIME = 6;
const STEP = 0.05;
const RANGE = 3;
const LEAST = 0.02;
const FIRST = [1, 0.25]; // the incoming weights of unit 1 have this direction

/** The rows of the network: incoming weights of unit 1 and of unit 2, and of the output. */
export function network(into, out) {
  return [FIRST.map((w) => into * w), [-0.2, 0.7], [out, 1]];
}

/** Residuals of the fit to f(x) = 2 x_1 + x_2, at the two unit vectors. */
const residuals = ([one, two, last]) => TARGET.map((goal, k) => last[0] * one[k] + last[1] * two[k] - goal);

export const loss = (rows) => residuals(rows).reduce((sum, r) => sum + (r * r) / 2, 0);

/** Gradient of the loss, row by row. */
export function gradient(rows) {
  const r = residuals(rows);
  const [one, two, last] = rows;
  return [...last.map((w) => r.map((each) => w * each)), [one, two].map((row) => row[0] * r[0] + row[1] * r[1])];
}

const sizes = (row, p) => row.reduce((sum, w) => sum + Math.abs(w) ** p, 0) ** (1 / p);

/** Coordinates of a row in which its flow has no pole: sign(W) pi^((p-1)/p); for p = 1, log |W|. */
function coordinates(start, p, q) {
  const signs = start.map((row) => row.map(Math.sign));
  const signed = (x, exponent) => Math.sign(x) * Math.abs(x) ** exponent;
  if (p === 1)
    return {
      of: (row) => row.map((w) => Math.log(Math.abs(w))),
      row: (x, i) => x.map((each, j) => signs[i][j] * Math.exp(each)),
      speed(w, g, i) {
        const n = sizes(w, 1);
        const along = w.reduce((sum, each, j) => sum + each * g[j], 0) / n;
        return g.map((each, j) => -(n ** (1 - q)) * (signs[i][j] * each + (1 / q - 1) * along));
      },
    };
  return {
    of: (row) => row.map((w) => signed(w, p - 1) * sizes(row, p) ** ((q - p) * (1 - 1 / p))),
    row(x) {
      const w = x.map((each) => signed(each, 1 / (p - 1)));
      const n = sizes(w, p);
      return w.map((each) => n && each * n ** (p / q - 1));
    },
    speed: (w, g) => g.map((each) => -(1 - 1 / p) * sizes(w, p) ** (1 - q / p) * each),
  };
}

/** Rows at each of the times along the weight-balancing flow, or without p along gradient flow. */
export function flow(start, times, p, q, options) {
  const pair = ([a, b, c, d, e, f]) => [[a, b], [c, d], [e, f]];
  if (!p) return integrate((y) => gradient(pair(y)).flat().map((g) => -g), start.flat(), times, options).map(pair);
  const { of, row, speed } = coordinates(start, p, q);
  const rows = (y) => pair(y).map(row);
  const velocity = (y) => {
    const w = rows(y);
    return gradient(w).flatMap((g, i) => speed(w[i], g, i));
  };
  return integrate(velocity, start.flatMap(of), times, options).map(rows);
}

/** Shares into and out of both units. */
function balance([one, two, last], p, q) {
  const [{ into, out }] = shares([[one, two], [last]], p, q);
  return into.map((each, i) => [each, out[i]]);
}

/** The factors of unit 1's weights for which these are its shares. */
export function weightsFor([into, out], p, q) {
  const share = (v) => balance(network(1, v), p, q)[0][1];
  let low = 0;
  for (let step = 64; step > 1e-16; step /= 2) if (share(low + step) < out) low += step;
  return { into: into ** (1 / q) / sizes(FIRST, p), out: low };
}

function render({ model, el }) {
  const size = { label: "", width: 340, height: 328 };
  const plane = plot({
    ...size,
    x: { label: "into the unit", min: 0, max: RANGE },
    y: { label: "out of the unit", min: 0, max: RANGE },
  });
  const gaps = plot({ ...size, x: { label: "time", min: 0, max: TIME }, y: { label: "in − out", min: -1, max: 1 } });
  for (let c = -2.5; c < 3; c += 0.5)
    plane.line(`level ${c}`, [[0, -c], [RANGE + 3, RANGE + 3 - c]], 0, { class: c ? "line contour" : "line solutions" });
  const times = Array.from({ length: TIME / STEP + 1 }, (_, k) => k * STEP);
  const names = ["weight-balancing flow", "gradient flow"];
  const out = names.map((name, f) =>
    [["own", "(p, q)"], ["square", "(2, 2)"], ["loss", "loss"]].map(([key, text]) => readout(`${f ? "gradient" : "balancing"}-${key}`, text)),
  );
  const settings = ["into", "out", "p", "q"];
  let known = "";
  let paths;

  const norm = () => (model.get("measured") === "square" ? [2, 2] : ["p", "q"].map((name) => model.get(name)));

  function update() {
    const [into, outgoing, p, q] = settings.map((name) => model.get(name));
    const start = network(into, outgoing);
    const key = [into, outgoing, p, q].join();
    const options = { rtol: 1e-8, atol: 1e-10 };
    if (key !== known) paths = [p, 0].map((own) => flow(start, times, own, q, options));
    known = key;
    for (const [name, control] of Object.entries(controls)) control.set(model.get(name));
    const [a, b] = norm();
    const title = `(${a}, ${b})`;
    const at = Math.round(model.get("time") / STEP);
    const gap = (rows, ...pair) => balance(rows, ...pair).map(([x, y]) => x - y);
    const moved = (path, ...pair) => {
      const first = gap(start, ...pair);
      return Math.max(...path.slice(0, at + 1).flatMap((rows) => gap(rows, ...pair).map((each, i) => Math.abs(each - first[i]))));
    };
    const lines = paths.map((path) => path.map((rows) => balance(rows, a, b)));
    const all = lines.flat(2).map(([x, y]) => x - y);
    gaps.limits({ y: [Math.min(...all) - 0.2, Math.max(...all) + 0.2] });
    gaps.label({ y: `in − out, ${title}` });
    plane.label({ x: `into the unit, ${title}`, y: `out of the unit, ${title}` });
    gaps.line("now", [[times[at], -99], [times[at], 99]], 0, { class: "line contour" });
    for (const unit of [0, 1])
      lines.forEach((line, f) => {
        const series = f + 1;
        plane.line(`${f} ${unit}`, line.map((both) => both[unit]), series);
        plane.dot(`${f} ${unit} now`, line[at][unit], series);
        gaps.line(`${f} ${unit}`, line.map((both, k) => [times[k], both[unit][0] - both[unit][1]]), series);
        gaps.dot(`${f} ${unit} now`, [times[at], line[at][unit][0] - line[at][unit][1]], series);
      });
    plane.dot("two", lines[0][0][1], 0, 3);
    plane.text("name one", lines[0][0][0], "unit 1", { dx: -12, dy: 5, "text-anchor": "end" });
    plane.text("name two", lines[0][0][1], "unit 2", { dx: -8, dy: -10, "text-anchor": "end" });
    grip.set(lines[0][0][0]);
    paths.forEach((path, f) => {
      [moved(path, p, q), moved(path, 2, 2), loss(path[at])].forEach((value, n) => out[f][n].set(value));
    });
    const words = paths.map((path, f) => `${names[f]} ${shown(moved(path, a, b))}`).join(", ");
    const what = `Until time ${shown(times[at])} the ${title} imbalances have moved by at most: ${words}.`;
    plane.describe(`Shares into and out of both units, with diagonals of equal imbalance. ${what}`);
    gaps.describe(`Imbalances of both units over time. ${what}`);
  }

  const put = bind(model, [...settings, "time", "measured"], update);
  const exponents = [1, 1.5, 2, 3];
  const norms = [["own", "(p, q)"], ["square", "(2, 2)"]];
  const controls = {
    p: choice("p", exponents, 1, (p) => put({ p })),
    q: choice("q", exponents, 1, (q) => put({ q })),
    measured: choice("Show imbalances in", norms, "own", (measured) => put({ measured })),
    time: slider("Time", { min: 0, max: TIME, step: STEP }, (time) => put({ time })),
  };
  const grip = plane.handle(
    "Start of unit 1",
    [1, 1],
    ([x, y]) => `into ${shown(x)}, out ${shown(y)}`,
    (shares) => put(weightsFor(shares.map((each) => Math.max(each, LEAST)), ...norm())),
  );
  const play = player("Play", () => {
    const time = model.get("time") >= TIME ? 0 : Math.min(model.get("time") + STEP, TIME);
    put({ time });
    return time < TIME - STEP / 2;
  });
  frame(
    el,
    row("controls", controls.p, controls.q, controls.measured),
    row("controls", controls.time, play),
    row("plots", plane, gaps),
    html("p", {}, "Drag the start of unit 1, or move it with the arrow keys. How far imbalances have moved by then:"),
    ...names.map((name, f) => row("readouts", swatch(f + 1, name), ...out[f])),
  );
  update();
}

export default { render };
