// One model's answer: its bars, and, for every task, where the time went or what went wrong.

import { ask } from "/page/ask.js";
import { $, element, milliseconds, percent, showBars, showProblem } from "/page/parts.js";

// Asks and shows; false where there is a problem to see instead of an answer, or somebody took the question back.
export async function answerAlone(url, picture, signal) {
  try {
    const { answer, roundTrip } = await ask(url, picture, signal);
    if (!signal.aborted) showAnswer(answer, roundTrip);
    return !signal.aborted;
  } catch (problem) {
    if (!signal.aborted) showError(problem);
    return false;
  }
}

function showAnswer(answer, roundTrip) {
  const [result] = answer.results;
  const best = result.predictions[0];
  $("error").hidden = true;
  $("status").textContent = `${best.label}, ${percent(best.probability)} sure, says ${answer.model.name}.`;
  showBars($("bars"), result.predictions);
  showTimes(["read", "decode", "queue", "infer"], { ...result.timing_ms, ...answer.timing_ms }, roundTrip);
  $("batch").hidden = false;
  $("batch").textContent = result.batch_size === 1 ? "ran alone" : `rode in a batch of ${result.batch_size}`;
  $("batch").dataset.size = result.batch_size;
}

// How the server's total splits into its stages; the page and the network are in the round trip only.
export function showTimes(stages, times, roundTrip) {
  const rest = Math.max(0, times.total - stages.reduce((sum, stage) => sum + times[stage], 0));
  const parts = [...stages.map((stage) => [stage, times[stage]]), ["other", rest]];
  $("split").replaceChildren(...parts.map(([stage, ms]) => {
    const part = element("span", stage);
    part.style.flexGrow = ms;
    return part;
  }));
  const rows = parts.map(([stage, ms]) => timeRow(stage, stage, ms));
  rows.push(timeRow("sum", "server", times.total), timeRow("sum", "round trip", roundTrip));
  $("times").replaceChildren(...rows);
  $("timing").hidden = false;
}

function timeRow(kind, name, ms) {
  const row = element("div", kind);
  row.dataset.stage = name;
  row.append(element("dt", "", name), element("dd", "", milliseconds(ms)));
  return row;
}

export function showError(problem) {
  clearAnswer();
  showProblem($("error"), problem);
}

export function clearAnswer() {
  $("bars").replaceChildren();
  for (const id of ["error", "timing", "batch"]) $(id).hidden = true;
  $("status").textContent = "";
}
