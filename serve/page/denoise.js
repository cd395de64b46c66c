// The view of a denoiser: a bundled photograph with noise added here, or one's own picture; before and after.

import { clearAnswer, showError } from "/page/answer.js";
import { denoise, denoiseUrl } from "/page/ask.js";
import { BeforeAfter, readyImage } from "/page/beforeafter.js";
import { clearDenoised, showDenoised } from "/page/denoised.js";
import { $, Stopwatch } from "/page/parts.js";
import { Pixels } from "/page/pixels.js";
import { fetchSample, markSample, showSamples, stemOf } from "/page/samples.js";

const SETTLED = 150;  // milliseconds in which another step of the noise slider may follow
const KEPT_TYPES = ["image/jpeg", "image/webp"];  // one's own picture comes back as what it was

export class DenoiseView {
  #models = [];
  #named = false;
  #source = null;
  #pixels = null;  // of the source, where noise is added to it
  #sent = null;
  #outcomes = [];
  #turn = 0;
  #settling = 0;
  #running = new AbortController();
  #stage = new BeforeAfter($("photo"));
  #watch = new Stopwatch(this.#stage.veil);

  constructor() {
    $("sigma").addEventListener("input", () => this.#redraw());
    $("sigma").addEventListener("change", () => this.#settle());
    $("own-noise").addEventListener("change", () => this.#open(this.#source));
    $("format").addEventListener("change", () => this.#run());
    $("pair").addEventListener("change", () => this.#showPair());
    $("zoom").addEventListener("click", () => { this.#stage.zoomed = !this.#stage.zoomed; this.#showZoom(); });
    this.#stage.root.addEventListener("zoom", () => this.#showZoom());
  }

  // The picture of before is sent to the models chosen now; without one, the first bundled photograph.
  choose(model, other, named, samples) {
    this.#keep([]);
    this.#models = [model, other].filter(Boolean);
    this.#named = named;
    $("answer-title").textContent = "Before and after";
    $("pair-row").hidden = !other;
    const pairs = ["before | after", `before | ${model.name}`, `before | ${other?.name}`, `${model.name} | ${other?.name}`];
    $("pair").replaceChildren(...(other ? pairs.slice(1) : pairs.slice(0, 1)).map((pair, i) => new Option(pair, i)));
    this.#showSamples(samples);
    if (this.#source) this.#run();
    else if (samples.length) this.#openSample(samples[0]);
    else this.#reset();
  }

  leave() {
    this.#begin();
    clearAnswer();
    $("again").hidden = true;
  }

  take(file) { this.#open({ blob: file, name: file.name || "picture.png", type: typeOf(file), sample: null }); }

  // --- what is sent ---

  #showSamples(urls) {
    if (this.#source?.sample && !urls.includes(this.#source.sample)) this.#source = null;
    $("drop").hidden = urls.length > 0 || Boolean(this.#source);
    showSamples(urls, "", (url) => this.#openSample(url));
    markSample(this.#source?.sample);
  }

  async #openSample(url) {
    const signal = this.#begin();
    try {
      const blob = await fetchSample(url, signal);
      if (!signal.aborted) this.#open({ blob, name: `${stemOf(url)}.png`, type: "image/png", sample: url });
    } catch (problem) {
      if (!signal.aborted) this.#fail(problem);
    }
  }

  #open(source) {
    if (source !== this.#source) {
      $("own-noise").checked = false;
      this.#keep([]);  // what was made of another picture has nothing to do with this one
    }
    this.#source = source;
    this.#pixels?.close();
    const noisy = Boolean(source.sample) || $("own-noise").checked;
    this.#pixels = noisy ? new Pixels(source.blob) : null;
    $("noise-row").hidden = !noisy;
    $("own-row").hidden = Boolean(source.sample);
    $("drop").hidden = true;
    $("photo-tools").hidden = false;
    $("format").value = !noisy && KEPT_TYPES.includes(source.type) ? source.type : "image/png";
    markSample(source.sample);
    this.#run();
  }

  // The picture to be cleaned, shown; null where something newer was begun meanwhile.
  async #prepare(signal) {
    const source = this.#source;
    const sigma = Number($("sigma").value);
    $("sigma-value").textContent = sigma;
    this.#stage.stale = true;
    document.body.dataset.state = "busy";
    let sent = { blob: source.blob, name: source.name, type: source.type, psnr: null, made: false };
    if (this.#pixels) {
      this.#watch.start("adding noise");
      const noisy = await this.#pixels.noisy(sigma);
      if (signal.aborted || !noisy) return null;
      sent = { ...noisy, name: "noisy.png", type: "image/png", made: true };
    }
    sent.image = await readyImage(sent.blob, `${stemOf(source.name)} before`).catch(() => null);
    if (signal.aborted) return null;
    if (this.#sent?.image) URL.revokeObjectURL(this.#sent.image.src);
    this.#sent = sent;
    this.#showPair();
    return sent;
  }

  async #redraw() {
    if (!this.#source) return;
    clearTimeout(this.#settling);
    const signal = this.#begin();
    try {
      await this.#prepare(signal);
    } catch (problem) {
      if (!signal.aborted) this.#fail(problem);
    }
  }

  #settle() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#run(), SETTLED);
  }

  // --- asking and showing ---

  // What is begun ends what runs: an answer to an older question must not overwrite a newer one.
  #begin() {
    this.#running.abort();
    this.#running = new AbortController();
    this.#watch.stop();
    return this.#running.signal;
  }

  async #run() {
    if (!this.#source) return;
    const signal = this.#begin();
    $("status").textContent = "Denoising.";
    try {
      const sent = await this.#prepare(signal);
      if (!sent) return;
      const outcomes = await this.#askAll(sent, signal);
      if (!signal.aborted) this.#show(sent, outcomes);
    } catch (problem) {
      if (!signal.aborted) this.#fail(problem);
    }
  }

  // One after the other, as two at once would share the server's cores; who goes first alternates.
  async #askAll(sent, signal) {
    const outcomes = [];
    const sides = this.#models.map((_, side) => side);
    for (const side of this.#turn++ % 2 ? sides.reverse() : sides) {
      this.#watch.start(this.#models.length > 1 ? `${this.#models[side].name} is denoising` : "denoising");
      outcomes[side] = await this.#ask(this.#models[side], sent, signal);
      if (signal.aborted) return null;
    }
    this.#watch.stop();
    return outcomes;
  }

  async #ask(model, sent, signal) {
    try {
      const answer = await denoise(denoiseUrl({ model: model.name }), sent, $("format").value, signal);
      const image = await readyImage(answer.blob, `${stemOf(this.#source.name)} denoised by ${model.name}`);
      const psnr = this.#pixels ? await this.#pixels.psnrOf(answer.blob) : null;
      return { ...answer, image, psnr };
    } catch (problem) {
      return { problem };
    }
  }

  #show(sent, outcomes) {
    this.#keep(outcomes);
    const failed = outcomes.find(({ problem }) => problem);
    if (failed) showError(failed.problem); else $("error").hidden = true;
    const worked = outcomes.some(({ problem }) => !problem);
    document.body.dataset.state = worked ? "done" : "error";
    this.#stage.stale = false;
    this.#showPair();
    if (worked) showDenoised({ models: this.#models, named: this.#named, source: this.#source, sent, outcomes, type: $("format").value });
    else clearDenoised();
  }

  #keep(outcomes) {
    for (const { image } of this.#outcomes) if (image) URL.revokeObjectURL(image.src);
    this.#outcomes = outcomes;
  }

  // Which two of the pictures the divider stands between.
  #showPair() {
    const pictures = [this.#sent?.image, ...this.#outcomes.map(({ image }) => image)];
    const pair = this.#models.length > 1 ? [[0, 1], [0, 2], [1, 2]][$("pair").value] : [0, 1];
    const names = ["before", ...this.#models.map(({ name }) => (this.#models.length > 1 ? name : "after"))];
    this.#stage.name(...pair.map((index) => names[index]));
    this.#stage.show({ before: pictures[pair[0]], after: pictures[pair[1]] });
  }

  #showZoom() {
    $("zoom").setAttribute("aria-pressed", this.#stage.zoomed);
  }

  #fail(problem) {
    this.#watch.stop();
    document.body.dataset.state = "error";
    this.#keep([]);
    this.#showPair();
    clearDenoised();
    showError(problem);
  }

  #reset() {
    this.#begin();
    document.body.dataset.state = "idle";
    clearAnswer();
    clearDenoised();
    this.#stage.show({});
    for (const id of ["photo-tools", "noise-row", "own-row"]) $(id).hidden = true;
    $("status").textContent = "The clean picture appears here.";
  }
}

function typeOf(file) { return file.type.startsWith("image/") ? file.type : "application/octet-stream"; }
