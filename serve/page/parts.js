// What the views of answers are made of: bars, a problem in words, figures with their units, a line for the terminal.

import { storedKey } from "/page/key.js";

export const $ = (id) => document.getElementById(id);

export function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

export function showBars(list, predictions) {
  list.replaceChildren(...predictions.map(barOf));
  list.classList.toggle("named", predictions.some(({ label }) => label.length > 3));
}

function barOf({ label, probability }) {
  const row = element("li", "");
  row.dataset.label = label;
  row.dataset.probability = probability;
  const track = element("span", "track");
  const fill = element("span", "fill");
  fill.style.transform = `scaleX(${probability})`;
  track.append(fill);
  const name = element("span", "label", label);
  name.title = label;
  row.append(name, track, element("span", "value", percent(probability)));
  return row;
}

// The box has three lines: what happened, what to do, and by what name the server's log knows it.
export function showProblem(box, problem) {
  const words = inWords(problem);
  [...box.children].forEach((line, i) => { line.textContent = [words.message, words.hint, words.id][i]; });
  box.hidden = false;
}

export function inWords(problem) {
  if (problem instanceof TypeError) return { message: "The server cannot be reached.", hint: "Is it still running?", id: "" };
  const id = problem.code ? [problem.code, problem.status, `request ${problem.id}`].filter(Boolean).join(" · ") : "";
  return { message: sentence(problem.message), hint: sentence(problem.hint ?? ""), id };
}

// The command that sends the same from a terminal, and the file it sends where the page made that.
export function showCurl(lines, made) {
  $("curl").textContent = lines.join("\n");
  URL.revokeObjectURL($("download").href);
  if (made) {
    $("download").href = URL.createObjectURL(made.blob);
    $("download").download = made.name;
    $("download").textContent = `Download ${made.name}`;
  }
  $("download-line").hidden = !made;
}

export function curlLine(name, headers, url, output = null) {
  const globs = /[[\]{}]/.test(name) ? "-g " : "";  // curl would take brackets in a file's name for a pattern
  const all = storedKey() === null ? headers : { ...headers, Authorization: "Bearer YOUR-KEY" };
  const fields = Object.entries(all).map(([key, value]) => ` -H '${key}: ${value}'`).join("");
  const target = output ? ` -o ${quoted(output)}` : "";
  return `curl ${globs}-T ${quoted(name.startsWith("-") ? `./${name}` : name)}${fields} ${quoted(location.origin + url)}${target}`;
}

function quoted(text) { return /^[\w./:@%-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`; }

// A figure and its unit stay on one line.
export function percent(share) { return `${(share * 100).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)}\u00a0%`; }

export function milliseconds(ms) {
  return ms < 1000 ? `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)}\u00a0ms` : `${(ms / 1000).toPrecision(ms < 1e5 ? 3 : 4)}\u00a0s`;
}

export function megapixels(width, height) {
  const count = width * height / 1e6;
  return `${width} × ${height}, ${count < 10 ? Number(count.toPrecision(2)) : count.toFixed(1)} megapixels`;
}

// Says in a box, from a second on, for how long something has been going on.
export class Stopwatch {
  #timer = 0;

  constructor(box) { this.box = box; }

  start(doing) {
    this.stop();
    const started = performance.now();
    this.#timer = setInterval(() => {
      const seconds = (performance.now() - started) / 1000;
      this.box.textContent = seconds < 1 ? "" : `${doing}, ${seconds.toFixed(0)} s`;
    }, 200);
  }

  stop() {
    clearInterval(this.#timer);
    this.box.textContent = "";
  }
}

export function sentence(text) { return text ? text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".") : ""; }
