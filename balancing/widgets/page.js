// On a page of the book: put the explorers where their stills are, with the state of the notebook.
(() => {
  "use strict";

  /** What anywidget gives to an explorer, without a kernel behind it. */
  class Model {
    constructor(state) {
      this.state = state;
      this.listeners = {};
    }
    get(name) {
      return this.state[name];
    }
    set(name, value) {
      this.state[name] = value;
      for (const listener of this.listeners[`change:${name}`] ?? []) listener();
    }
    save_changes() {}
    on(event, listener) {
      (this.listeners[event] ??= []).push(listener);
    }
    off(event, listener) {
      this.listeners[event] = (this.listeners[event] ?? []).filter((other) => other !== listener);
    }
  }

  function mount(place) {
    const explorer = globalThis.balancingExplorers?.[place.dataset.explorer];
    if (!explorer || place.querySelector(".live")) return;
    const state = JSON.parse(place.querySelector("script[type='application/json']").textContent);
    const live = document.createElement("div");
    live.className = "live";
    explorer.render({ model: new Model(state), el: live });
    place.append(live);
    place.classList.add("is-live"); // the still is for print, and for readers without scripts
  }

  const all = () => document.querySelectorAll(".balancing-explorer").forEach(mount);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
