/* What style sheets cannot do for readers with a keyboard. */
"use strict";

(() => {
  // A box that scrolls takes the focus, so that the arrow keys scroll it. (The theme looks after
  // code, outputs and tables only.)
  const BOXES = "div.math, mjx-container[display], .balancing-figure, .bd-article p, .bd-article dl";

  function scrolls(box) {
    return box.scrollWidth > box.clientWidth && /auto|scroll/.test(getComputedStyle(box).overflowX);
  }

  function update(box) {
    if (scrolls(box)) {
      box.tabIndex = 0;
      box.dataset.scrolls = "";
    } else if ("scrolls" in box.dataset) {
      box.removeAttribute("tabindex");
      delete box.dataset.scrolls;
    }
  }

  function watch() {
    const sizes = new ResizeObserver((entries) => entries.forEach((each) => update(each.target)));
    document.querySelectorAll(BOXES).forEach((box) => sizes.observe(box));
  }

  // The theme takes the focus from a button that was pressed: good for a mouse, but the keyboard
  // would have to find its way back.
  function keepFocus(event) {
    const button = event.target.closest("button");
    if (button && event.detail === 0) {
      setTimeout(() => document.activeElement === document.body && button.focus());
    }
  }

  document.addEventListener("click", keepFocus, true);
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise; // formulas are boxes, too
    watch();
  });
})();
