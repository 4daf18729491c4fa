// What the explorers share: numerics of small networks, then a plot and a few controls.
//
// The file is an ES module. In a notebook it is put in front of an explorer's own module, on the
// pages of the book it is a script of its own (see _bundle.py); so it imports nothing.

// --- random numbers -----------------------------------------------------------------------------

/** Uniform numbers in (0, 1) from a seed (mulberry32). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}

/** Standard normal numbers from a seed (Box and Muller). */
export function normal(seed) {
  const next = uniform(seed);
  return () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
}

// --- networks -----------------------------------------------------------------------------------
// A network is a list of matrices, first layer first; weights[h][i][j] leads from unit j to unit i.

/** Output of a ReLU network without biases, shape (outputs,). */
export function forward(weights, x) {
  return weights.reduce((inputs, matrix, layer) => {
    const sums = matrix.map((row) => row.reduce((sum, w, j) => sum + w * inputs[j], 0));
    return layer < weights.length - 1 ? sums.map((z) => Math.max(z, 0)) : sums;
  }, x);
}

/** Shares into and out of each hidden unit: for each hidden layer {into, out} (Saul 2023, eq. 1). */
export function shares(weights, p, q) {
  const power = (w) => Math.abs(w) ** p;
  const rows = weights.map((matrix) => matrix.map((row) => row.reduce((s, w) => s + power(w), 0)));
  return weights.slice(1).map((next, h) => ({
    into: rows[h].map((sum) => sum ** (q / p)),
    out: weights[h].map((_, j) =>
      next.reduce((s, row, i) => s + (power(row[j]) && power(row[j]) * rows[h + 1][i] ** (q / p - 1)), 0),
    ),
  }));
}

/** The norm: (sum_i (sum_j |W_ij|^p)^(q/p))^(1/q). */
export function norm(weights, p, q) {
  let sum = 0;
  for (const matrix of weights)
    for (const row of matrix) sum += row.reduce((s, w) => s + Math.abs(w) ** p, 0) ** (q / p);
  return sum ** (1 / q);
}

/** Relative imbalance (in - out) / (in + out) of each hidden unit; 0 where both are 0. */
export function imbalances(weights, p, q) {
  return shares(weights, p, q).map(({ into, out }) =>
    into.map((a, i) => (a + out[i] ? (a - out[i]) / (a + out[i]) : 0)),
  );
}

/** The largest of them, without sign. */
export function largestImbalance(weights, p, q) {
  return Math.max(0, ...imbalances(weights, p, q).flat().map(Math.abs));
}

/** Weights with each hidden unit rescaled: W_ij a_i / a_j; factors[h][i] for hidden layer h. */
export function rescaled(weights, factors) {
  return weights.map((matrix, h) =>
    matrix.map((row, i) =>
      row.map((w, j) => (w * (factors[h]?.[i] ?? 1)) / (h ? factors[h - 1][j] : 1)),
    ),
  );
}

/** Factors of one update of Algorithm 1: (out / in)^(1 / (4 max(p, q))); 1 for dead units. */
export function multiplicativeFactors(weights, p, q) {
  return shares(weights, p, q).map(({ into, out }) =>
    into.map((a, i) => (a && out[i] ? (out[i] / a) ** (1 / (4 * Math.max(p, q))) : 1)),
  );
}

// --- differential equations ---------------------------------------------------------------------

const STAGES = [
  [],
  [1 / 5],
  [3 / 40, 9 / 40],
  [44 / 45, -56 / 15, 32 / 9],
  [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
  [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

/** Solve y' = f(y) by the method of Dormand and Prince; returns y at each of the rising `times`. */
export function integrate(f, y, times, { rtol = 1e-12, atol = 1e-14, maxSteps = 20000 } = {}) {
  let [t] = times;
  let slope = f(y);
  let step = 1e-3;
  let steps = 0;
  return times.map((end) => {
    while (t < end && steps++ < maxSteps) {
      const size = Math.min(step, end - t);
      const k = [slope];
      let next = y;
      for (const row of STAGES.slice(1)) {
        next = y.map((v, i) => v + size * row.reduce((s, a, n) => s + a * k[n][i], 0));
        k.push(f(next));
      }
      const error = Math.sqrt(
        y.reduce((sum, v, i) => {
          const scale = atol + rtol * Math.max(Math.abs(v), Math.abs(next[i]));
          return sum + ((size * ERROR.reduce((s, e, n) => s + e * k[n][i], 0)) / scale) ** 2;
        }, 0) / y.length,
      );
      if (error <= 1) {
        t = size < step ? end : t + size;
        y = next;
        slope = k[6];
      }
      const change = Math.min(5, Math.max(0.2, 0.9 * (error || 1e-10) ** -0.2));
      if (error > 1 || size === step || change < 1) step = size * change;
    }
    return y;
  });
}

// --- elements -----------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** An HTML element; attributes that begin with "on" are listeners. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A number as one reads it: four digits, a true minus. */
export function shown(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  const text =
    size && (size < 1e-3 || size >= 1e5)
      ? value.toExponential(2).replace(/e\+?(-?)(\d+)/, (_, sign, digits) => ` × 10${raised(sign + digits)}`)
      : `${+value.toPrecision(4)}`;
  return text.replace(/^-/, "−");
}

function raised(text) {
  return [...text].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
}

/** A slider with its name and value; `format` says the value in words. */
export function slider(name, { min, max, step, value, format = shown }, changed) {
  const input = html("input", { type: "range", min, max, step });
  const output = html("output", {});
  const show = () => {
    output.textContent = format(+input.value);
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const set = (next) => {
    input.value = next;
    show();
  };
  input.addEventListener("input", () => {
    show();
    changed(+input.value);
  });
  set(value);
  return { element: html("label", { class: "control" }, html("span", {}, name), input, output), input, set };
}

/** A choice among [value, text] pairs, or among values that are their own text. */
export function choice(name, values, value, changed) {
  const options = values.map((each) => (Array.isArray(each) ? each : [each, `${each}`]));
  const select = html(
    "select",
    { onchange: () => changed(options[select.selectedIndex][0]) },
    ...options.map(([key, text]) => html("option", { selected: key === value }, text)),
  );
  return {
    element: html("label", { class: "control" }, html("span", {}, name), select),
    select,
    set: (next) => (select.selectedIndex = options.findIndex(([key]) => key === next)),
  };
}

/** A button. */
export function button(name, pressed) {
  return html("button", { type: "button", onclick: pressed }, name);
}

/** A number that the explorer reports: `set` shows it; data-value has all its digits. */
export function readout(key, name) {
  const output = html("output", { "data-name": key });
  const set = (value) => {
    output.textContent = shown(value);
    output.dataset.value = value;
  };
  return { element: html("span", { class: "readout" }, html("span", {}, name), output), set };
}

/**
 * Call `update` after each change of the state: by Python, or by the function that is returned,
 * which takes new values and tells Python.
 */
export function bind(model, names, update) {
  let ours = false;
  for (const name of names) model.on(`change:${name}`, () => ours || update());
  return (values) => {
    ours = true;
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    ours = false;
    model.save_changes();
    update();
  };
}

/** The line of a series, and its name. */
export function swatch(series, name) {
  return html("span", {}, html("span", { class: `swatch series-${series}` }), name);
}

/** Put the rows of an explorer into its element. */
export function frame(el, ...rows) {
  el.classList.add("explorer");
  el.replaceChildren(...rows);
}

/** A row of controls, plots or readouts: class "controls", "plots" or "readouts". */
export function row(kind, ...children) {
  return html("div", { class: kind }, ...children.map((child) => child.element ?? child));
}

/**
 * A button that runs `advance` once a frame until it returns false, or is pressed again.
 * Readers who prefer reduced motion get the last frame at once.
 */
export function player(name, advance) {
  let timer = 0;
  const stop = () => {
    cancelAnimationFrame(timer);
    timer = 0;
    element.textContent = name;
  };
  const next = () => {
    if (advance() === false) stop();
    else timer = requestAnimationFrame(next);
  };
  const element = button(name, () => {
    if (timer) return stop();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      for (let i = 0; i < 10000 && advance() !== false; i++);
      return undefined;
    }
    element.textContent = "Pause";
    timer = requestAnimationFrame(next);
    return undefined;
  });
  return { element, stop };
}

// --- plots --------------------------------------------------------------------------------------

const MARGIN = { left: 52, right: 10, top: 10, bottom: 40 };

/**
 * A plot with two axes, {label, min, max, log, whole}: `whole` for ticks at whole numbers only. Marks
 * are kept by key: drawing one again moves it.
 *
 * `series` 1 to 4 choose a colour and a dash; 0 is the text's colour.
 */
export function plot({ label, x, y, width = 380, height = 270 }) {
  const axes = { x: { ...x }, y: { ...y } };
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const scales = svg("g", { class: "axes", "aria-hidden": "true" });
  const clip = `clip-${Math.random().toString(36).slice(2)}`;
  const marks = svg("g", { "clip-path": `url(#${clip})` });
  const title = svg("title", {}, label);
  const element = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", class: "plot", "aria-label": label },
    title,
    svg("clipPath", { id: clip }, svg("rect", { x: MARGIN.left, y: MARGIN.top, ...inner })),
    scales,
    marks,
  );
  const kept = new Map();

  const along = ({ min, max, log }, value) =>
    log ? Math.log(value / min) / Math.log(max / min) : (value - min) / (max - min);
  const px = (value) => MARGIN.left + along(axes.x, value) * inner.width;
  const py = (value) => MARGIN.top + (1 - along(axes.y, value)) * inner.height;

  function drawAxes() {
    scales.replaceChildren(
      ...ticks(axes.x).flatMap(([value, text]) => [
        svg("line", { class: "grid", x1: px(value), x2: px(value), y1: MARGIN.top, y2: height - MARGIN.bottom }),
        svg("text", { x: px(value), y: height - MARGIN.bottom + 15, "text-anchor": "middle" }, text),
      ]),
      ...ticks(axes.y).flatMap(([value, text]) => [
        svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: py(value), y2: py(value) }),
        svg("text", { x: MARGIN.left - 6, y: py(value) + 4, "text-anchor": "end" }, text),
      ]),
      svg("text", { x: MARGIN.left + inner.width / 2, y: height - 5, "text-anchor": "middle" }, axes.x.label),
      svg(
        "text",
        { transform: `translate(12 ${MARGIN.top + inner.height / 2}) rotate(-90)`, "text-anchor": "middle" },
        axes.y.label,
      ),
    );
  }

  function mark(key, tag, attributes, on = marks) {
    let found = kept.get(key);
    if (!found) {
      found = svg(tag);
      kept.set(key, found);
      on.append(found);
    }
    for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
    return found;
  }

  const draw = {
    element,
    /** Change the limits of the axes; marks have to be drawn again. */
    limits({ x: [left, right] = [axes.x.min, axes.x.max], y: [low, high] = [axes.y.min, axes.y.max] }) {
      Object.assign(axes.x, { min: left, max: right });
      Object.assign(axes.y, { min: low, max: high });
      drawAxes();
    },
    /** Change what the axes are called. */
    label({ x: below = axes.x.label, y: beside = axes.y.label }) {
      axes.x.label = below;
      axes.y.label = beside;
      drawAxes();
    },
    /** A line through [x, y] points; a point that is not finite interrupts it. */
    line(key, points, series = 1, more = {}) {
      let pen = "M";
      const d = points.map(([a, b]) => {
        const [u, v] = [px(a), py(b)];
        if (!Number.isFinite(u + v)) {
          pen = "M";
          return "";
        }
        const part = `${pen}${u.toFixed(1)} ${v.toFixed(1)}`;
        pen = "L";
        return part;
      });
      return mark(key, "path", { d: d.join(""), class: `line series-${series}`, ...more });
    },
    /** A dot. */
    dot(key, [a, b], series = 1, r = 4, more = {}) {
      return mark(key, "circle", { cx: px(a), cy: py(b), r, class: `dot series-${series}`, ...more });
    },
    /** A bar from 0 (or the axis' lower end) up to a value. */
    bar(key, centre, value, breadth, series = 1) {
      const [top, base] = [py(value), py(axes.y.log ? axes.y.min : Math.max(axes.y.min, 0))];
      const left = px(centre - breadth / 2);
      return mark(key, "rect", {
        x: left,
        y: Math.min(top, base),
        width: px(centre + breadth / 2) - left,
        height: Math.abs(base - top),
        class: `bar series-${series}`,
      });
    },
    /** Words in the plot. */
    text(key, [a, b], words, more = {}) {
      mark(key, "text", { x: px(a), y: py(b), ...more }).textContent = words;
    },
    remove(key) {
      kept.get(key)?.remove();
      kept.delete(key);
    },
    /** Describe anew what one sees. */
    describe(words) {
      element.setAttribute("aria-label", words);
      title.textContent = words;
    },
    /** Where in the data a pointer is. */
    at(event) {
      const box = element.getBoundingClientRect();
      const u = ((event.clientX - box.left) / box.width) * width;
      const v = ((event.clientY - box.top) / box.height) * height;
      const back = ({ min, max, log }, part) =>
        log ? min * (max / min) ** part : min + part * (max - min);
      return [
        back(axes.x, (u - MARGIN.left) / inner.width),
        back(axes.y, 1 - (v - MARGIN.top) / inner.height),
      ];
    },
    /**
     * A handle that can be dragged by mouse or finger, and moved by the arrow keys.
     * `say` gives its value in words; `moved` gets the new [x, y].
     */
    handle(name, start, say, moved, step = 0.05) {
      let place = start;
      element.setAttribute("role", "group"); // an image may hold no control
      const group = svg("g", { class: "handle", tabindex: 0, role: "slider", "aria-label": name });
      group.append(svg("circle", { r: 14, class: "target" }), svg("circle", { r: 6, class: "grip" }));
      element.append(group);
      const set = (next) => {
        place = next;
        group.setAttribute("transform", `translate(${px(next[0])} ${py(next[1])})`);
        group.setAttribute("aria-valuemin", axes.x.min);
        group.setAttribute("aria-valuemax", axes.x.max);
        group.setAttribute("aria-valuenow", next[0].toFixed(3));
        group.setAttribute("aria-valuetext", say(next));
      };
      const go = ([a, b]) => {
        const within = (v, { min, max }) => Math.min(max, Math.max(min, v));
        set([within(a, axes.x), within(b, axes.y)]);
        moved(place);
      };
      let offset = null;
      group.addEventListener("pointerdown", (event) => {
        const [a, b] = draw.at(event);
        offset = [place[0] - a, place[1] - b];
        group.setPointerCapture(event.pointerId);
        group.focus({ preventScroll: true });
        event.preventDefault();
      });
      group.addEventListener("pointermove", (event) => {
        if (!offset) return;
        const [a, b] = draw.at(event);
        go([a + offset[0], b + offset[1]]);
      });
      for (const end of ["pointerup", "pointercancel"]) group.addEventListener(end, () => (offset = null));
      group.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
        if (!move) return;
        const by = event.shiftKey ? 5 * step : step;
        go([place[0] + by * move[0], place[1] + by * move[1]]);
        event.preventDefault();
      });
      set(start);
      return { element: group, set };
    },
  };
  drawAxes();
  return draw;
}

/** [value, text] of the ticks of an axis. */
function ticks({ min, max, log, whole }) {
  if (log) {
    const [low, high] = [Math.ceil(Math.log10(min) - 1e-9), Math.floor(Math.log10(max) + 1e-9)];
    const skip = Math.max(1, Math.ceil((high - low) / 5));
    const powers = [];
    for (let n = low; n <= high; n += skip) powers.push([10 ** n, n === 0 ? "1" : n === 1 ? "10" : `10${raised(`${n}`)}`]);
    return powers;
  }
  const rough = (max - min) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(whole ? 1 : 0, unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough));
  const found = [];
  for (let n = Math.ceil(min / step - 1e-9); n * step <= max + 1e-9 * step; n++) found.push([n * step, shown(+(n * step).toPrecision(6))]);
  return found;
}
