/* Keeps the dashboard fresh: fetches the same fragment the server rendered and replaces the parts
   that changed, so that nothing flickers and nobody loses their place. Rests while the tab is
   hidden. Without it the page is whole, and as old as its load. */
"use strict";

(() => {
  const root = document.getElementById("pf-report");
  if (!root) {
    return;
  }
  const state = document.querySelector("[data-state]");
  const pause = document.querySelector("[data-pause]");
  const everyMs = Number(root.dataset.refreshS) * 1000;
  let shownAt = root.querySelector(".pf-report").dataset.at;
  let askedAt = Date.now();
  let isPaused = false;
  let isAsking = false;
  let isOver = false;
  // What the server last said of each part; what others did to the page does not count.
  const said = new Map();
  for (const part of root.querySelectorAll("[data-part]")) {
    said.set(part.dataset.part, part.innerHTML);
  }

  function tell(word, isStale) {
    state.textContent = `${word} ${shownAt}`;
    state.classList.toggle("stale", Boolean(isStale));
  }

  function replaceParts(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = page.querySelector(".pf-report");
    if (!fresh) {
      throw new Error("no report");
    }
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const shown = root.querySelector(`[data-part="${part.dataset.part}"]`);
      if (shown && said.get(part.dataset.part) !== part.innerHTML) {
        said.set(part.dataset.part, part.innerHTML);
        shown.replaceChildren(...document.importNode(part, true).childNodes);
      }
    }
    shownAt = fresh.dataset.at;
  }

  async function refresh() {
    if (isAsking || isOver) {
      return;
    }
    isAsking = true;
    askedAt = Date.now();
    try {
      const answer = await fetch(root.dataset.url, {
        credentials: "same-origin",
        redirect: "manual",
        signal: AbortSignal.timeout(30000),
      });
      if (answer.type === "opaqueredirect") {
        isOver = true;
        state.textContent = root.dataset.left;
        state.classList.add("stale");
        return;
      }
      if (!answer.ok) {
        throw new Error(String(answer.status));
      }
      replaceParts(await answer.text());
      tell(root.dataset.updated, false);
    } catch {
      tell(root.dataset.stale, true);
    } finally {
      isAsking = false;
    }
  }

  function look() {
    if (!isPaused && !document.hidden && Date.now() - askedAt >= everyMs) {
      refresh();
    }
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? pause.dataset.go : pause.dataset.stop;
    if (isPaused) {
      tell(root.dataset.paused, false);
    } else {
      refresh();
    }
  });
  document.addEventListener("visibilitychange", look);
  setInterval(look, 1000);
  tell(root.dataset.updated, false);
})();
