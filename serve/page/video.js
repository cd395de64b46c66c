// The view of a video denoiser: a clip goes up, its windows are counted as they are done, and both clips play in step.

import { clearAnswer, showError, showTimes } from "/page/answer.js";
import { denoiseVideo, videoUrl } from "/page/ask.js";
import { BeforeAfter } from "/page/beforeafter.js";
import { canRecord, noisyPan } from "/page/pan.js";
import { $, Stopwatch, curlLine, megapixels, sentence, showCurl } from "/page/parts.js";
import { Player, readyVideo } from "/page/player.js";
import { fetchSample, markSample, showSamples } from "/page/samples.js";

const USUAL_SIGMA = 25;  // of the noise in a clip made here, where none is given

export class VideoView {
  #model = null;
  #named = false;
  #clip = null;
  #before = null;
  #running = new AbortController();
  #stage = new BeforeAfter($("clip"));
  #player = new Player($("play"), $("seek"));
  #watch = new Stopwatch($("clip-elapsed"));

  constructor() {
    $("clip-sigma").addEventListener("change", () => this.#send());
    $("clip-zoom").addEventListener("click", () => { this.#stage.zoomed = !this.#stage.zoomed; this.#showZoom(); });
    this.#stage.root.addEventListener("zoom", () => this.#showZoom());
  }

  choose(model, other, named, samples) {
    [this.#model, this.#named] = [model, named];
    $("answer-title").textContent = "Before and after";
    showSamples(canRecord() ? samples : [], "A clip made of a photograph, with noise:", (url) => this.#makePan(url));
    $("drop").hidden = Boolean(this.#clip);
    if (this.#clip) this.#send(); else this.#reset();
  }

  leave() {
    this.#begin();
    this.#player.stop();
    clearAnswer();
    $("again").hidden = true;
  }

  async #makePan(url) {
    const signal = this.#begin();
    document.body.dataset.state = "busy";
    $("status").textContent = "Making a clip.";
    try {
      const clip = await noisyPan(await fetchSample(url, signal), Number(this.#sigma || USUAL_SIGMA));
      if (signal.aborted) return;
      this.take(clip, true);
      markSample(url);
    } catch (problem) {
      if (signal.aborted) return;
      document.body.dataset.state = "error";
      showError(problem);
    }
  }

  async take(file, made = false) {
    this.#begin();
    markSample(null);
    const type = file.type.startsWith("video/") ? file.type : "application/octet-stream";
    this.#clip = { blob: file, name: file.name || "clip.mp4", type, made };
    $("drop").hidden = true;
    if (this.#before) URL.revokeObjectURL(this.#before.src);
    this.#before = null;
    this.#show(null);
    const { signal } = this.#running;
    const before = await readyVideo(file).catch(() => null);
    if (signal.aborted) return;
    this.#before = before;
    this.#send();
  }

  #begin() {
    this.#running.abort();
    this.#running = new AbortController();
    this.#watch.stop();
    $("windows").hidden = true;
    return this.#running.signal;
  }

  async #send() {
    if (!this.#clip) return;
    if (!$("clip-sigma").reportValidity()) return;
    const signal = this.#begin();
    this.#clear();
    this.#show(null);
    document.body.dataset.state = "busy";
    $("status").textContent = "Denoising.";
    $("windows").removeAttribute("value");
    $("windows").hidden = false;
    this.#watch.start("denoising");
    try {
      const answer = await denoiseVideo(videoUrl({ model: this.#model.name, sigma: this.#sigma }), this.#clip, signal, progress);
      const after = await readyVideo(answer.blob).catch(() => null);
      if (signal.aborted) { URL.revokeObjectURL(after?.src); return; }
      this.#finish(answer, after);
    } catch (problem) {
      if (signal.aborted) return;
      this.#begin();
      document.body.dataset.state = "error";
      $("status").textContent = "";
      showError(problem);
    }
  }

  get #sigma() { return $("clip-sigma").value; }

  #finish({ blob, times, frames, notes, roundTrip }, after) {
    this.#begin();
    document.body.dataset.state = "done";
    this.#show(after);
    if (after) $("batch").textContent = `${megapixels(after.videoWidth, after.videoHeight)}, ${after.duration.toFixed(1)} s`;
    $("batch").hidden = !after;
    $("status").textContent = `${this.#model.name} cleaned ${frames} frames.${unplayable(this.#before, after)}`;
    $("clip-note").textContent = notes.map(sentence).join(" ");
    $("clip-note").hidden = !notes.length;
    const { total, ...stages } = times;
    showTimes(Object.keys(stages), { ...stages, total }, roundTrip);
    URL.revokeObjectURL($("clean-clip").href);
    $("clean-clip").href = URL.createObjectURL(blob);
    $("clean-clip").download = `${this.#clip.name.replace(/\.\w+$/, "")}_clean.${blob.type.includes("matroska") ? "mkv" : "mp4"}`;
    $("clean-clip").hidden = false;
    const url = videoUrl({ model: this.#named ? this.#model.name : undefined, sigma: this.#sigma });
    showCurl([curlLine(this.#clip.name, { "Content-Type": this.#clip.type, Accept: "video/mp4" }, url, "clean.mp4")], this.#clip.made ? this.#clip : null);
    $("again").hidden = false;
  }

  #show(after) {
    const former = $("clip").querySelector(".pane.after video");
    if (former && former !== after) URL.revokeObjectURL(former.src);
    this.#stage.name("before", "after");
    this.#stage.show({ before: this.#before, after });
    this.#player.load([after, this.#before].filter(Boolean));
    $("clip-players").hidden = !this.#before && !after;
  }

  #showZoom() { $("clip-zoom").setAttribute("aria-pressed", this.#stage.zoomed); }

  #clear() {
    clearAnswer();
    for (const id of ["again", "clean-clip", "clip-note"]) $(id).hidden = true;
  }

  #reset() {
    this.#begin();
    this.#clear();
    this.#show(null);
    document.body.dataset.state = "idle";
    $("status").textContent = "The clean clip appears here.";
  }
}

function unplayable(before, after) {
  if (!after) return " This browser cannot play it, but it can be downloaded.";
  return before ? "" : " This browser cannot play it as it came.";
}

// Not every file says how many frames it has.
function progress({ done, frames }) {
  $("status").textContent = `Denoising: ${done}${frames ? ` of ${frames}` : ""} frames done.`;
  if (!frames) return;
  $("windows").max = frames;
  $("windows").value = done;
}
