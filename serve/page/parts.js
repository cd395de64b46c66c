// What both views of an answer are made of: bars, a problem in words, figures with their units.

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
  const id = problem.code ? `${problem.code} · ${problem.status} · request ${problem.id}` : "";
  return { message: capital(problem.message), hint: capital(problem.hint ?? ""), id };
}

// A figure and its unit stay on one line.
export function percent(share) { return `${(share * 100).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)}\u00a0%`; }

export function milliseconds(ms) { return `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)}\u00a0ms`; }

function capital(text) { return text ? text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".") : ""; }
