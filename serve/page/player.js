// Clips that play in step: the first leads, the others follow it.

const APART = 0.06;  // seconds: two frames or so; closer than this, a seek would show more than it mends

export class Player {
  #clips = [];
  #button;
  #seek;

  constructor(button, seek) {
    [this.#button, this.#seek] = [button, seek];
    button.addEventListener("click", () => { if (this.#lead.paused) this.#play(); else this.stop(); });
    seek.addEventListener("input", () => this.#goTo(Number(seek.value) * this.#lead.duration));
  }

  load(clips) {
    this.stop();
    this.#clips = clips;
    this.#button.disabled = this.#seek.disabled = !clips.length;
    if (!clips.length) return;
    this.#goTo(0);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#play();
  }

  stop() {
    for (const clip of this.#clips) clip.pause();
    this.#button.textContent = "Play";
  }

  get #lead() { return this.#clips[0]; }

  #goTo(time) { for (const clip of this.#clips) clip.currentTime = time; }

  #play() {
    // A clip that is taken away before it starts rejects; there is nothing left to tell then.
    for (const clip of this.#clips) clip.play().catch(() => {});
    this.#button.textContent = "Pause";
    const lead = this.#lead;
    const follow = () => {
      if (lead !== this.#lead || lead.paused) return;
      for (const clip of this.#clips.slice(1)) if (Math.abs(clip.currentTime - lead.currentTime) > APART) clip.currentTime = lead.currentTime;
      this.#seek.value = lead.currentTime / lead.duration || 0;
      requestAnimationFrame(follow);
    };
    requestAnimationFrame(follow);
  }
}

// A silent, endless video element whose first frame is there; rejects where the browser cannot play the clip.
export function readyVideo(blob) {
  const video = Object.assign(document.createElement("video"), {
    muted: true, loop: true, playsInline: true, disablePictureInPicture: true, preload: "auto", src: URL.createObjectURL(blob) });
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
