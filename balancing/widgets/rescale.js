// A ReLU network whose hidden units one rescales: its function stays, its weights and its norm do not.
import { button, choice, frame, html, largestImbalance, multiplicativeFactors, norm, player, plot, readout, rescaled, row, shares, shown, svg, uniform } from "./common.js";

const LIMIT = 3; // a unit's factor is dragged between 2^-3 and 2^3
const TOLERANCE = 1e-10;
const SAMPLES = 161;
const RANGE = 2;
const [WIDTH, HEIGHT] = [340, 288];
const EXPONENTS = [1, 1.5, 2, 3].map((value) => [value, `${value}`]);

/** The output for one number as input; hidden units have biases. */
export function output(weights, biases, x) {
  return weights.reduce(
    (inputs, matrix, h) =>
      matrix.map((incoming, i) => {
        const sum = incoming.reduce((s, w, j) => s + w * inputs[j], biases[h][i]);
        return h < weights.length - 1 ? Math.max(sum, 0) : sum;
      }),
    [x],
  )[0];
}

/** Biases with each hidden unit rescaled: a unit's bias is an incoming weight. */
export function rescaledBiases(biases, factors) {
  return biases.map((layer, h) => layer.map((b, i) => b * (factors[h]?.[i] ?? 1)));
}

/** Factors after one more update of Algorithm 1. */
export function updated(weights, factors, p, q) {
  const more = multiplicativeFactors(rescaled(weights, factors), p, q);
  return factors.map((layer, h) => layer.map((a, i) => a * more[h][i]));
}

/** The factors at which the norm is smallest, by updates of those given. */
export function balanced(weights, factors, p, q) {
  const unfinished = () => largestImbalance(rescaled(weights, factors), p, q) > TOLERANCE;
  for (let k = 0; k < 5000 && unfinished(); k++) factors = updated(weights, factors, p, q);
  return factors;
}

/** The network: lines for weights, and on a track each unit, as high as its factor is large. */
function drawing(weights, moved) {
  const sizes = [weights[0][0].length, ...weights.map((matrix) => matrix.length)];
  const reach = HEIGHT / Math.max(...sizes) / 2 - 16;
  const x = (layer) => 24 + (layer * (WIDTH - 48)) / weights.length;
  const y = (layer, i) => (HEIGHT * (i + 0.5)) / sizes[layer];
  const within = (exponent) => Math.max(-LIMIT, Math.min(LIMIT, exponent));
  const height = (a) => (-reach * within(Math.log2(a))) / LIMIT;
  const lines = svg("g", { "aria-hidden": "true" });
  const goals = svg("g", { "aria-hidden": "true" });
  const label = "The network. Each hidden unit has a factor.";
  const element = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot network", role: "group", "aria-label": label }, lines, goals);
  const text = (words, more) => svg("text", { "text-anchor": "middle", y: 4, "aria-hidden": "true", ...more }, words);
  for (const [layer, name] of [[0, "x"], [weights.length, "f(x)"]])
    for (let i = 0; i < sizes[layer]; i++)
      element.append(svg("g", { transform: `translate(${x(layer)} ${y(layer, i)})` }, svg("circle", { class: "end", r: 15 }), text(name)));

  const units = weights.slice(0, -1).flatMap((matrix, h) => matrix.map((_, i) => [h, i]));
  const handles = units.map(([h, i], n) => {
    const [left, middle] = [x(h + 1), y(h + 1, i)];
    const value = text("", { x: left + 16, "text-anchor": "start", class: "halo" });
    const group = svg(
      "g",
      { class: "handle", tabindex: 0, role: "slider", "aria-label": `Factor of unit ${n + 1}`, "aria-orientation": "vertical", "aria-valuemin": -LIMIT, "aria-valuemax": LIMIT },
      svg("circle", { r: 17, class: "target" }),
      svg("circle", { r: 12, class: "grip" }),
      text(n + 1),
    );
    element.append(value, group);
    let factor = 1;
    let offset = null; // while it is held: from the pointer to its middle
    const go = (exponent) => moved(h, i, 2 ** within(exponent));
    const pointer = (event) => (event.clientY * HEIGHT) / element.getBoundingClientRect().height;
    group.addEventListener("pointerdown", (event) => {
      offset = height(factor) - pointer(event);
      group.setPointerCapture(event.pointerId);
      group.focus({ preventScroll: true });
      event.preventDefault();
    });
    group.addEventListener("pointermove", (event) => {
      if (offset !== null) go((-LIMIT * (pointer(event) + offset)) / reach);
    });
    for (const end of ["pointerup", "pointercancel"]) group.addEventListener(end, () => (offset = null));
    group.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      go(Math.log2(factor) + by * (event.shiftKey ? 1 : 0.125));
      event.preventDefault();
    });
    return (a) => {
      factor = a;
      value.textContent = `×${a.toPrecision(2)}`;
      value.setAttribute("y", middle + height(a) - 11);
      group.setAttribute("transform", `translate(${left} ${middle + height(a)})`);
      group.setAttribute("aria-valuenow", Math.log2(a).toFixed(2));
      group.setAttribute("aria-valuetext", shown(a));
    };
  });
  return {
    element,
    /** Draw the tracks, with marks at the factors at which the norm is smallest. */
    aim(factors) {
      const d = units.map(([h, i]) => {
        const [left, middle] = [x(h + 1), y(h + 1, i)];
        const mark = `M${left - 26} ${middle + height(factors[h][i]) - 6}l10 6l-10 6z`;
        return `M${left} ${middle - reach}v${2 * reach}m-5 ${-reach}h10${mark}`;
      });
      goals.replaceChildren(svg("path", { class: "goals", d: d.join("") }));
    },
    /** Show the rescaled weights and the factors. */
    set(now, factors) {
      factors.flat().forEach((a, n) => handles[n](a));
      const at = (layer, i) => y(layer, i) + height(factors[layer - 1]?.[i] ?? 1);
      const all = now.flatMap((matrix, h) =>
        matrix.flatMap((incoming, i) =>
          incoming.map((w, j) =>
            svg("line", {
              x1: x(h),
              y1: at(h, j),
              x2: x(h + 1),
              y2: at(h + 1, i),
              class: `line series-${w < 0 ? 2 : 1}`,
              style: `stroke-width: ${(2.5 * Math.sqrt(Math.abs(w))).toFixed(2)}px`,
            }),
          ),
        ),
      );
      lines.replaceChildren(...all);
    },
  };
}

function render({ model, el }) {
  const [weights, biases] = [model.get("weights"), model.get("biases")];
  const ones = () => weights.slice(0, -1).map((matrix) => matrix.map(() => 1));
  const inputs = Array.from({ length: SAMPLES }, (_, i) => RANGE * ((2 * i) / (SAMPLES - 1) - 1));
  const original = inputs.map((x) => output(weights, biases, x));
  const [low, high] = [Math.min(...original), Math.max(...original)];
  const room = 0.1 * (high - low || 1);
  const box = { label: "", width: WIDTH, height: HEIGHT / 2 };
  const graph = plot({ ...box, x: { label: "x", min: -RANGE, max: RANGE }, y: { label: "f(x)", min: low - room, max: high + room } });
  graph.line("original", inputs.map((x, i) => [x, original[i]]), 0, { class: "line original" });
  const bars = plot({ ...box, x: { label: "hidden unit", min: 0.5, max: ones().flat().length + 0.49 }, y: { label: "shares", min: 0, max: 1 } });
  const out = {
    norm: readout("norm", "norm"),
    minimum: readout("minimum", "minimum"),
    imbalance: readout("imbalance", "largest imbalance"),
    change: readout("change", "change of f"),
  };
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes(); // its listeners draw
  };
  let frames = []; // what is left of the way to the next update
  const halt = () => {
    balance.stop();
    frames = [];
  };
  const network = drawing(weights, (h, i, a) => {
    halt();
    put("factors", model.get("factors").map((layer, k) => layer.map((old, j) => (k === h && j === i ? a : old))));
  });
  let top = 0;

  function update() {
    const [p, q, factors] = ["p", "q", "factors"].map((name) => model.get(name));
    const now = rescaled(weights, factors);
    const nowBiases = rescaledBiases(biases, factors);
    const values = inputs.map((x) => output(now, nowBiases, x));
    graph.line("present", inputs.map((x, i) => [x, values[i]]), 1);
    const sums = shares(now, p, q).flatMap(({ into, out: outgoing }) => into.map((a, i) => [a, outgoing[i]]));
    const next = 2 ** Math.ceil(Math.log2(Math.max(...sums.flat())));
    if (next !== top) bars.limits({ y: [0, (top = next)] });
    sums.forEach(([into, outgoing], n) => {
      bars.bar(`in ${n}`, n + 0.84, into, 0.28, 3);
      bars.bar(`out ${n}`, n + 1.16, outgoing, 0.28, 4);
    });
    network.set(now, factors);
    const size = Math.max(...original.map(Math.abs));
    const change = Math.max(...values.map((y, i) => Math.abs(y - original[i]))) / (size || 1);
    out.norm.set(norm(now, p, q));
    out.imbalance.set(largestImbalance(now, p, q));
    out.change.set(change);
    graph.describe(`The function as given and as it is now; the largest change is ${shown(change)}.`);
    bars.describe(`Shares into and out of the hidden units: ${sums.map((both) => both.map(shown).join(" and ")).join(", ")}.`);
  }

  function aim() {
    const [p, q] = [model.get("p"), model.get("q")];
    const goal = balanced(weights, ones(), p, q);
    network.aim(goal);
    out.minimum.set(norm(rescaled(weights, goal), p, q));
    update();
  }

  const balance = player("Balance", () => {
    if (!frames.length) {
      const [p, q, from] = ["p", "q", "factors"].map((name) => model.get(name));
      const left = largestImbalance(rescaled(weights, from), p, q);
      if (left <= TOLERANCE) return false;
      // slow at first, and what the eye cannot see at once
      const parts = left > 0.1 ? 6 : left > 0.01 ? 2 : 1;
      const to = left > 1e-3 ? updated(weights, from, p, q) : balanced(weights, from, p, q);
      const way = (part) => to.map((layer, h) => layer.map((a, i) => from[h][i] * (a / from[h][i]) ** part));
      frames = Array.from({ length: parts }, (_, k) => (k + 1 < parts ? way((k + 1) / parts) : to));
    }
    put("factors", frames.shift());
    return true;
  });
  const jump = (name, factors) =>
    button(name, () => {
      halt();
      put("factors", factors());
    });
  let seed = 0;
  const scrambled = () => {
    const next = uniform(++seed);
    return ones().map((layer) => layer.map(() => 2 ** (5 * next() - 2.5)));
  };
  const exponents = ["p", "q"].map((name) => {
    const chosen = choice(name, EXPONENTS, model.get(name), (value) => put(name, value));
    model.on(`change:${name}`, () => {
      chosen.set(model.get(name));
      frames = [];
      aim();
    });
    return chosen;
  });
  model.on("change:factors", update);
  const key = (kind, words) => html("span", {}, html("span", { class: `swatch ${kind}` }), words);
  frame(
    el,
    row("controls", balance, jump("One step", () => updated(weights, ...["factors", "p", "q"].map((name) => model.get(name)))), jump("Scramble", scrambled), jump("Reset", ones), ...exponents),
    row("plots", network, row("stack", graph, bars)),
    html("p", {}, "Drag a unit up or down, or use the arrow keys; ▸ is where the norm is smallest."),
    row("keys", key("series-1", "weight above 0"), key("series-2", "below 0"), key("block series-3", "share in"), key("block series-4", "share out")),
    row("readouts", out.norm, out.minimum, out.imbalance, out.change),
  );
  aim();
}

export default { render };
