/* A deck of slides: typeset the formulas, fit every slide, then start reveal.js. */
"use strict";

(async () => {
  // Of the letters of a text, and of the pictures of an explorer, whose letters stay.
  const SMALLEST = 0.64;
  const SMALLEST_PICTURES = 0.4;

  // A formula's hidden copy for screen readers may hang out by a few pixels.
  const tooHigh = (box) => box.scrollHeight > box.clientHeight + 6;
  const tooWide = (box) => box.scrollWidth > box.clientWidth + 1;

  /** Make the text of a slide smaller until everything stands on it. */
  function fit(frame) {
    const boxes = [frame, ...frame.querySelectorAll(".body")];
    const columns = [...boxes, ...frame.querySelectorAll(".words, .shown")];
    const least = frame.querySelector(".explorer") ? SMALLEST_PICTURES : SMALLEST;
    for (let size = 1; size >= least; size -= 0.03) {
      frame.style.setProperty("--fit", size.toFixed(2));
      if (!boxes.some(tooHigh) && !columns.some(tooWide)) return;
    }
  }

  await window.MathJax.startup.promise;
  await document.fonts.ready;
  document.querySelectorAll(".frame").forEach(fit);
  document.documentElement.classList.remove("typesetting");

  const explorers = document.querySelectorAll(".balancing-explorer");
  explorers.forEach((explorer) => {
    explorer.dataset.preventSwipe = ""; // a finger moves what it touches, not the slides
    explorer.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      document.activeElement.blur();
      event.stopPropagation(); // else it opens the overview
    });
  });
  Reveal.on("pdf-ready", () => {
    document.documentElement.dataset.printable = "";
  });
  await Reveal.initialize({
    width: 1280,
    height: 720,
    margin: 0,
    center: false,
    hash: true,
    slideNumber: "c/t",
    transition: "none",
    pdfMaxPagesPerSlide: 1,
    // The keys of an explorer are its own while it has the focus; a presenter's remote still works.
    keyboardCondition: (event) =>
      /^Page(Up|Down)$/.test(event.key) || !document.activeElement?.closest(".balancing-explorer"),
    plugins: [RevealNotes],
  });
  document.documentElement.dataset.ready = "";
})();
