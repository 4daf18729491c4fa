// The recorded runs of Du, Hu and Lee's Figure 2: gaps between layers stay while their norms grow.
import { choice, frame, html, player, plot, readout, row, shown, slider } from "./common.js";

const PICTURES = [
  ["norms", "squared norms", ["norm1", "norm2", "norm3"]],
  ["gaps", "gaps", ["gap12", "gap23"]],
  ["ratios", "ratios", ["ratio12", "ratio23"]],
  ["losses", "loss", ["loss"]],
];
const NAMES = {
  loss: "loss",
  norm1: "‖W⁽¹⁾‖²",
  norm2: "‖W⁽²⁾‖²",
  norm3: "‖W⁽³⁾‖²",
  gap12: "gap 1, 2",
  gap23: "gap 2, 3",
  ratio12: "ratio 1, 2",
  ratio23: "ratio 2, 3",
};
const FRAMES = 3; // a recorded row is shown for so long when it plays
const counted = (value) => value.toLocaleString("en");

/** Index of the last row that was recorded at or before an iteration. */
export function rowAt(run, iteration) {
  return Math.max(0, run.iteration.findLastIndex((recorded) => recorded <= iteration));
}

/** Limits of the vertical axis of a picture. */
export function limits(kind, run, names) {
  const values = names.flatMap((name) => run[name]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (kind === "losses") return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high))];
  if (kind === "ratios") return [Math.min(low, 1) - 0.01, high > 2 ? 1.05 * high : Math.max(high, 1) + 0.01];
  // a gap is small or large beside the norms only, so both have one scale
  const largest = Math.max(...run.norm1);
  return [Math.min(0, kind === "gaps" ? Math.min(low, -0.1 * largest) : 0), 1.05 * largest];
}

function render({ model, el }) {
  const runs = model.get("runs");
  const current = () => runs[Math.min(model.get("run"), runs.length - 1)];
  const plots = PICTURES.map(([kind, label]) =>
    plot({ label: "", x: { label: "iteration", min: 0, max: 1 }, y: { label, min: 1e-9, max: 1, log: kind === "losses" }, width: 340, height: 170 }),
  );
  const out = Object.fromEntries(Object.entries(NAMES).map(([key, name]) => [key, readout(key, name)]));
  out.iteration = readout("iteration", "iteration");
  out.change12 = readout("change12", "change of gap 1, 2 since the start");
  const put = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes(); // its listeners draw
  };
  const go = (iteration) => {
    play.stop();
    put({ iteration });
  };

  /** Move the cursor. */
  function show() {
    const run = current();
    const at = rowAt(run, model.get("iteration"));
    const iteration = run.iteration[at];
    const words = (names) => names.map((name) => `${NAMES[name]} is ${shown(run[name][at])}`).join(", ");
    PICTURES.forEach(([kind, , names], n) => {
      plots[n].line("cursor", limits(kind, run, names).map((y) => [iteration, y]), 0, { class: "line contour" });
      names.forEach((name, k) => plots[n].dot(`${name} now`, [iteration, run[name][at]], k + 1));
      plots[n].describe(`At iteration ${counted(iteration)}: ${words(names)}.`);
    });
    for (const name of Object.keys(NAMES)) out[name].set(run[name][at]);
    out.iteration.set(iteration);
    out.change12.set(run.gap12[at] - run.gap12[0]);
    scrubber.set(iteration);
  }

  /** Draw the curves of another run. */
  function change() {
    const run = current();
    const last = run.iteration.at(-1);
    chosen.set(runs.indexOf(run));
    Object.assign(scrubber.input, { max: last, step: run.iteration[1] - run.iteration[0] });
    PICTURES.forEach(([kind, , names], n) => {
      const [low, high] = limits(kind, run, names);
      plots[n].limits({ x: [0, last], y: [low, high] });
      if (kind === "ratios") plots[n].line("one", [[0, 1], [last, 1]], 0, { class: "line contour" });
      names.forEach((name, k) => plots[n].line(name, run.iteration.map((t, i) => [t, run[name][i]]), k + 1));
    });
    show();
  }

  const scrubber = slider("Iteration", { min: 0, max: 1, step: 1, value: 0, format: counted }, go);
  const chosen = choice(
    "Run",
    runs.map(({ init, step }, n) => [n, `${init}, step ${step}`]),
    0,
    (run) => {
      play.stop();
      put({ run });
    },
  );
  let frames = 0;
  const play = player("Play", () => {
    frames = (frames + 1) % FRAMES;
    if (frames) return true;
    const { iteration } = current();
    const next = rowAt(current(), model.get("iteration")) + 1;
    put({ iteration: iteration[next % iteration.length] });
    return (next + 1) % iteration.length > 0; // after the end it begins anew
  });
  for (const { element, at } of plots) {
    const scrub = (event) => {
      const run = current();
      if (event.buttons) go(run.iteration[rowAt(run, at(event)[0] + run.iteration[1] / 2)]);
    };
    element.classList.add("scrubbed");
    element.addEventListener("pointerdown", scrub);
    element.addEventListener("pointermove", scrub);
  }
  model.on("change:run", change);
  model.on("change:iteration", show);
  const key = (series, words) => html("span", {}, html("span", { class: `swatch series-${series}` }), words);
  frame(
    el,
    row("controls", chosen, scrubber, play),
    row("plots", ...plots),
    row("keys", key(1, "layer 1; gap and ratio of layers 1 and 2"), key(2, "layer 2; of layers 2 and 3"), key(3, "layer 3")),
    row("readouts", out.iteration, ...Object.keys(NAMES).map((name) => out[name]), out.change12),
  );
  change();
}

export default { render };
