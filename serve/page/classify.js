// The view of a classifier: takes a drawing or a picture, and has one model answer it, or two side by side.

import { answerAlone, clearAnswer } from "/page/answer.js";
import { classifyUrl } from "/page/ask.js";
import { Comparison } from "/page/compare.js";
import { Pad } from "/page/draw.js";
import { $, curlLine, showCurl } from "/page/parts.js";

export class ClassifyView {
  #model = null;
  #other = null;
  #named = false;
  #picture = null;
  #sent = null;
  #running = new AbortController();
  #pad = new Pad($("pad"), () => this.#onDrawing());
  #comparison = new Comparison();

  constructor() {
    $("clear").addEventListener("click", () => this.#pad.clear());
    $("preview").addEventListener("error", () => { this.#picture = null; this.#showInput(); });
    $("undo").addEventListener("click", () => this.#pad.undo());
    $("time-both").addEventListener("click", () => {
      if (this.#comparison.timing) this.#comparison.stop(this.#begin());
      else this.#comparison.time(this.#sent, this.#begin());
    });
  }

  // What was sent before is asked again of the models chosen now.
  choose(model, other, named) {
    [this.#model, this.#other, this.#named] = [model, other, named];
    $("answer-title").textContent = "Answer";
    if (other) this.#comparison.choose([model, other]);
    $("compare").hidden = !other;
    $("single").hidden = Boolean(other);
    if (other) for (const id of ["error", "timing", "batch"]) $(id).hidden = true;
    $("pad-hint").textContent = readsDigits(model) ? "Draw a digit" : "Draw here";
    $("pad-help").textContent = takesDrawings(model)
      ? "Draw with mouse, pen or finger. By keyboard, arrows move, Space sets and lifts the pen, Delete clears. " : "";
    this.#showInput();
    if (this.#sent) this.#send(this.#sent); else this.#reset();
  }

  leave() {
    this.#begin();
    clearAnswer();
    $("again").hidden = true;
  }

  take(file) {
    this.#picture = file;
    URL.revokeObjectURL($("preview").src);
    $("preview").src = URL.createObjectURL(file);
    this.#showInput();
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    this.#send({ blob: file, name: file.name || "picture.png", type, drawn: false });
  }

  async #onDrawing() {
    this.#picture = null;
    this.#showInput();
    if (this.#pad.empty) { this.#reset(); return; }
    const signal = this.#begin();
    const blob = await new Promise((done) => this.#pad.render($("sent")).toBlob(done, "image/png"));
    if (signal.aborted) return;
    $("sent-box").hidden = false;
    this.#send({ blob, name: "digit.png", type: "image/png", drawn: true });
  }

  // A picture where there is one, else the canvas for what can be drawn, else a place to drop a picture.
  #showInput() {
    const draws = takesDrawings(this.#model);
    $("preview").hidden = !this.#picture;
    $("draw").hidden = Boolean(this.#picture) || !draws;
    $("drop").hidden = Boolean(this.#picture) || draws;
    $("undo").hidden = !draws;
    $("undo").disabled = this.#pad.empty || Boolean(this.#picture);
    $("pad-hint").classList.toggle("gone", !this.#pad.empty);
  }

  // What is begun ends what runs: an answer to an older question must not overwrite a newer one.
  #begin() {
    this.#running.abort();
    this.#running = new AbortController();
    return this.#running.signal;
  }

  async #send(picture) {
    const signal = this.#begin();
    this.#sent = picture;
    document.body.dataset.state = "busy";
    const answered = this.#other ? await this.#comparison.answer(picture, signal)
      : await answerAlone(classifyUrl({ model: this.#nameInUrl }), picture, signal);
    if (signal.aborted) return;
    document.body.dataset.state = answered ? "done" : "error";
    $("again").hidden = !answered;
    if (answered) this.#showCurl(picture);
  }

  get #nameInUrl() { return this.#named ? this.#model.name : undefined; }

  #reset() {
    this.#begin();
    this.#sent = null;
    document.body.dataset.state = "idle";
    clearAnswer();
    if (this.#other) this.#comparison.clear();
    for (const id of ["again", "sent-box"]) $(id).hidden = true;
    $("status").textContent = this.#other ? "The answers appear here." : "The answer appears here.";
  }

  #showCurl({ blob, name, type, drawn }) {
    const models = this.#other ? [this.#model.name, this.#other.name] : [this.#nameInUrl];
    const lines = models.map((model) => curlLine(name, { "Content-Type": type }, classifyUrl({ model })));
    showCurl(lines, drawn ? { blob, name } : null);
  }
}

function readsDigits(model) {
  return model.labels.length === 10 && model.labels.every((label, i) => label === String(i));
}

// What a model of digits is shown is drawn; so is anything for a model whose pictures are small.
function takesDrawings(model) {
  return readsDigits(model) || Math.max(model.input.height, model.input.width) <= 64;
}
