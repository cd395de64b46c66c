// Clips that play in step, over and over: the first leads, the others follow it.

const APART = 0.25;  // seconds; what is less is made good by playing a little faster or slower, as a seek can be seen

export class Player {
  #clips = [];
  #playing = false;
  #button;
  #seek;

  constructor(button, seek) {
    [this.#button, this.#seek] = [button, seek];
    button.addEventListener("click", () => { if (this.#playing) this.stop(); else this.#play(); });
    seek.addEventListener("input", () => this.#goTo(Number(seek.value) * this.#lead.duration));
  }

  load(clips) {
    this.stop();
    this.#clips = clips;
    this.#button.disabled = this.#seek.disabled = !clips.length;
    if (!clips.length) return;
    for (const clip of clips) clip.onended = clip === this.#lead ? () => this.#again() : null;
    this.#goTo(0);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#play();
  }

  stop() {
    this.#playing = false;
    this.#button.textContent = "Play";
    for (const clip of this.#clips) clip.pause();
    if (this.#clips.length) this.#goTo(this.#lead.currentTime);  // the same frame of each
  }

  get #lead() { return this.#clips[0]; }

  #goTo(time) {
    for (const clip of this.#clips) clip.currentTime = time;
    this.#seek.value = time / this.#lead.duration || 0;
  }

  // From the start, when all are there.
  async #again() {
    const clips = this.#clips;
    const there = clips.map((clip) => new Promise((resolve) => { clip.addEventListener("seeked", resolve, { once: true }); }));
    for (const clip of clips) clip.pause();
    this.#goTo(0);
    await Promise.all(there);
    if (clips === this.#clips && this.#playing) this.#play();
  }

  #play() {
    this.#playing = true;
    this.#button.textContent = "Pause";
    // A clip that is taken away before it starts rejects; there is nothing left to tell then.
    for (const clip of this.#clips) clip.play().catch(() => {});
    const lead = this.#lead;
    const follow = () => {
      if (lead !== this.#lead || lead.paused) return;
      for (const clip of this.#clips.slice(1)) fall(clip, lead);
      this.#seek.value = lead.currentTime / lead.duration || 0;
      requestAnimationFrame(follow);
    };
    requestAnimationFrame(follow);
  }
}

// Into step.
function fall(clip, lead) {
  const behind = lead.currentTime - clip.currentTime;
  if (Math.abs(behind) > APART) clip.currentTime = lead.currentTime;
  else clip.playbackRate = 1 + 2 * behind;
}

// A silent video element whose first frame is there; rejects where the browser cannot play the clip.
export function readyVideo(blob) {
  const video = Object.assign(document.createElement("video"), {
    muted: true, playsInline: true, disablePictureInPicture: true, preload: "auto", src: URL.createObjectURL(blob) });
  return new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", () => {
      // A browser that knows the sound but not the pictures of a clip has nothing to show.
      if (video.videoWidth) resolve(video); else fail();
    }, { once: true });
    video.addEventListener("error", fail, { once: true });
    function fail() {
      URL.revokeObjectURL(video.src);
      reject(new Error("this browser cannot play the clip"));
    }
  });
}
