// Two models side by side: the same picture, both answers, both times, and in one line what differs.

import { ask, classifyUrl } from "/page/ask.js";
import { $, inWords, milliseconds, percent, showBars, showProblem } from "/page/parts.js";

const SHOWN = 5;
const ROUNDS = 20;  // as many engine times are kept of each model: one alone is noise, their median is shown
const START = `Time both ${ROUNDS} times`;

export class Comparison {
  #columns = [new Column(), new Column()];
  #models = [];
  #outcomes = [];
  #turn = 0;
  #timing = false;

  constructor() {
    $("columns").replaceChildren(...this.#columns.map((column) => column.root));
    $("rounds").max = ROUNDS;
    this.#idle();
  }

  // Another pair starts with no times: medians are only comparable where both were taken in turns.
  choose(models) {
    this.#models = models;
    this.#columns.forEach((column, side) => column.stand(models[side]));
    this.clear();
  }

  clear() {
    this.#outcomes = [];
    for (const column of this.#columns) column.clear();
    $("verdict").textContent = "";
    this.#idle();
  }

  // Asks both and shows both; false where neither answered, or somebody took the question back.
  async answer(picture, signal) {
    this.#outcomes = [];
    this.#idle();
    const outcomes = [];
    // The difference is taken over all classes, where both have the same.
    const topK = this.#sameClasses ? Math.max(SHOWN, this.#models[0].classes) : SHOWN;
    for (const side of this.#order()) {
      outcomes[side] = await this.#ask(side, picture, topK, signal);
      if (signal.aborted) return false;
      this.#columns[side].show(outcomes[side]);
    }
    this.#outcomes = outcomes;
    $("status").textContent = outcomes.map((outcome, side) => `${this.#models[side].name} ${saying(outcome)}`).join(" ");
    $("verdict").textContent = this.#verdict();
    this.#idle();
    return outcomes.some(({ problem }) => !problem);
  }

  // Sends the picture to both, ROUNDS times each, unless the signal or a problem ends it earlier.
  async time(picture, signal) {
    this.#timing = true;
    $("time-both").textContent = "Stop";
    $("rounds-note").textContent = "";
    $("rounds").hidden = false;
    for (let round = 0; round < ROUNDS; round++) {
      $("rounds").value = round;
      for (const side of this.#order()) {
        const { problem } = await this.#ask(side, picture, 1, signal);
        if (signal.aborted) return;
        if (problem) { this.#timed(`Stopped in round ${round + 1}: ${inWords(problem).message}`); return; }
      }
    }
    this.#timed("Done.");
  }

  get timing() { return this.#timing; }

  // Ends a run of time(), whose signal has been aborted by then.
  stop() { this.#timed(`Stopped after ${$("rounds").value} of ${ROUNDS}.`); }

  #timed(note) {
    for (const column of this.#columns) column.showMedian();
    $("verdict").textContent = this.#verdict();
    this.#idle();
    $("rounds-note").textContent = note;
  }

  #idle() {
    this.#timing = false;
    $("time-both").textContent = START;
    $("time-both").disabled = this.#outcomes.length < 2 || this.#outcomes.some(({ problem }) => problem);
    $("rounds").hidden = true;
    $("rounds-note").textContent = "";
  }

  // One after the other, as two at once would share the server's cores and show each other's load as their own time.
  // Who goes first alternates: the second finds caches warm, the connection open and the processor awake.
  #order() { return this.#turn++ % 2 ? [1, 0] : [0, 1]; }

  async #ask(side, picture, topK, signal) {
    try {
      const { answer, roundTrip } = await ask(classifyUrl({ model: this.#models[side].name, topK }), picture, signal);
      const [{ predictions, timing_ms: times, batch_size: batch }] = answer.results;
      // In a batch with other people's pictures the time is that of all of them.
      if (!signal.aborted && batch === 1) this.#columns[side].keep(times.infer);
      return { predictions, engine: times.infer, batch, roundTrip };
    } catch (problem) {
      return { problem };
    }
  }

  get #sameClasses() {
    const [one, two] = this.#models;
    return one.classes === two.classes && one.labels.every((label, i) => label === two.labels[i]);
  }

  #verdict() {
    const answered = this.#models.filter((_, side) => !this.#outcomes[side].problem);
    if (!answered.length) return "Neither model answered.";
    if (answered.length === 1) return `Only ${answered[0].name} answered, so there is nothing to compare.`;
    return `${this.#agreement()} ${this.#speed()}`.trim();
  }

  #agreement() {
    if (!this.#sameClasses) return "They know different classes, so their answers cannot be compared.";
    const [one, two] = this.#outcomes.map(({ predictions }) => predictions);
    const agree = one[0].index === two[0].index;
    return `They ${agree ? "agree" : "disagree"} on the top class. ${largestDifference(one, two)}`;
  }

  #speed() {
    const medians = this.#columns.map((column) => column.median);
    if (medians.includes(null)) return "";
    const fast = medians[0] <= medians[1] ? 0 : 1;
    const ratio = (medians[1 - fast] / medians[fast]).toFixed(2);
    const counts = this.#columns.map((column) => column.count);
    const basis = Math.max(...counts) === 1 ? "one run each" : `medians of ${[...new Set(counts)].join(" and ")}`;
    return ratio === "1.00" ? `Both models took the same time (${basis}).`
      : `${this.#models[fast].name} was ${ratio} times as fast (time of the model, ${basis}).`;
  }
}

// One model's side: who it is, its bars or its problem, its times.
class Column {
  #times = [];

  constructor() {
    this.root = $("column").content.firstElementChild.cloneNode(true);
    this.bars = this.root.querySelector(".bars");
    this.failure = this.root.querySelector(".failure");
  }

  stand(model) {
    this.#times = [];
    this.root.setAttribute("aria-label", `Answer of ${model.name}`);
    // A long name breaks after its underscores.
    const words = model.name.split("_").flatMap((word) => ["_", document.createElement("wbr"), word]);
    this.root.querySelector(".name").replaceChildren(...words.slice(2));
    this.root.querySelector(".version").textContent = `version ${model.version}`;
  }

  clear() {
    this.bars.replaceChildren();
    this.bars.hidden = false;
    this.failure.hidden = true;
    this.#figure("engine", "–");
    this.#figure("trip", "–");
    this.showMedian();
  }

  show({ predictions, engine, batch, roundTrip, problem }) {
    this.clear();
    if (problem) {
      this.bars.hidden = true;
      showProblem(this.failure, problem);
      return;
    }
    showBars(this.bars, predictions.slice(0, SHOWN));
    this.#figure("engine", milliseconds(engine) + (batch > 1 ? `, batch of ${batch}` : ""));
    this.#figure("trip", milliseconds(roundTrip));
  }

  showMedian() {
    this.root.querySelector(".count").textContent = this.count ? `median of ${this.count}` : "median";
    this.#figure("median", this.count ? milliseconds(this.median) : "–");
  }

  keep(ms) { this.#times = [...this.#times, ms].slice(-ROUNDS); }

  get count() { return this.#times.length; }

  get median() {
    const sorted = [...this.#times].sort((a, b) => a - b);
    const half = sorted.length >> 1;
    if (!sorted.length) return null;
    return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }

  #figure(name, text) { this.root.querySelector(`[data-figure="${name}"]`).textContent = text; }
}

function saying({ predictions, problem }) {
  if (problem) return `did not answer: ${inWords(problem).message}`;
  return `says ${predictions[0].label}, ${percent(predictions[0].probability)} sure.`;
}

function largestDifference(one, two) {
  const other = new Map(two.map(({ index, probability }) => [index, probability]));
  const gaps = one.map(({ index, label, probability }) => ({ label, gap: Math.abs(probability - other.get(index)) }));
  const { label, gap } = gaps.reduce((most, next) => (next.gap > most.gap ? next : most));
  // The server rounds probabilities to six digits.
  if (gap < 1e-6) return "Their probabilities are the same to six digits.";
  return `The largest difference of a probability is ${Number((gap * 100).toPrecision(2))} percentage points (for ${label}).`;
}
