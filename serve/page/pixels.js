// One picture whose clean pixels are known, in a worker of its own: 24 megapixels take seconds, and the page stays free.

export class Pixels {
  #worker = new Worker("/page/pixels_worker.js", { type: "module" });
  #waiting = new Map();
  #count = 0;
  #newest = 0;
  #drawing;
  #sigma = null;  // of what is drawn

  constructor(clean) {
    this.#worker.onmessage = ({ data: { id, error, ...result } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject({ message: "This browser cannot read the picture's pixels", hint: error }); else resolve(result);
    };
    this.#worker.onerror = ({ message }) => {
      for (const { reject } of this.#waiting.values()) reject({ message: "The page's worker failed", hint: message ?? "" });
    };
    this.#drawing = this.#ask({ clean });
    this.#drawing.catch(() => {});  // told to who asks for noise
  }

  // { blob, psnr } of the picture with noise of standard deviation sigma, as a PNG file. Of several that wait for the
  // worker only the newest is made; the others give null.
  async noisy(sigma) {
    const turn = ++this.#newest;
    if (sigma !== this.#sigma) {
      await this.#drawing;
      if (turn !== this.#newest) return null;
      this.#sigma = sigma;
      this.#drawing = this.#ask({ noisy: sigma });
    }
    return this.#drawing;
  }

  // In dB against the clean picture; null where the sizes differ.
  async psnrOf(blob) { return (await this.#ask({ measure: blob })).psnr; }

  close() { this.#worker.terminate(); }

  #ask(question) {
    const id = this.#count++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...question });
    });
  }
}
