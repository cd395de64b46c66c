// The line of figures under the page's head: the server's last ten seconds, every other second while somebody looks.

import { fetchQuietly } from "/page/key.js";
import { milliseconds } from "/page/parts.js";

const EVERY_MS = 2000;
const SAY = {
  state: ({ status }) => status,
  ready: ({ ready, models }) => `${ready} of ${models}`,
  waiting: ({ waiting }) => count(waiting),
  rate: ({ images_per_s: rate }) => rate < 10 ? rate.toFixed(1) : count(Math.round(rate)),
  batch: ({ mean_batch: size }) => size === null ? "–" : size.toFixed(1),
  p50: ({ p50_ms: ms }) => time(ms),
  p99: ({ p99_ms: ms }) => time(ms),
  refused: ({ rejected, failed }) => count(rejected + failed),
};

export function watchServer(box) {
  let timer = 0;
  let looking = false;

  async function look() {
    clearTimeout(timer);
    if (document.hidden || looking) return;
    looking = true;
    const there = await ask(box);
    looking = false;
    if (there) timer = setTimeout(look, EVERY_MS);
  }

  document.addEventListener("visibilitychange", look);
  look();
}

// False where the server has no such figures, and asking again is of no use.
async function ask(box) {
  try {
    const response = await fetchQuietly("/v1/status", { signal: AbortSignal.timeout(5000) });
    if (response.status === 404) { box.hidden = true; return false; }
    if (response.ok) show(box, await response.json());
    else fade(box, response.status === 401 ? "key needed" : `error ${response.status}`);
  } catch {
    fade(box, "no answer");
  }
  return true;
}

function show(box, figures) {
  box.dataset.state = figures.status;
  for (const [name, say] of Object.entries(SAY)) write(box, name, say(figures));
}

function fade(box, why) {
  box.dataset.state = "unknown";
  for (const name of Object.keys(SAY)) write(box, name, name === "state" ? why : "–");
}

function write(box, name, text) {
  const place = box.querySelector(`[data-live="${name}"]`);
  if (place.textContent !== text) place.textContent = text;
}

function count(number) { return number < 10000 ? String(number) : `${(number / 1000).toFixed(0)}k`; }

function time(ms) { return ms === null ? "–" : milliseconds(ms); }
