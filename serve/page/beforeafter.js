// Two pictures or clips of one size, one over the other, with a divider to drag; fitted to the box or 1:1 with panning.

const KEYS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 64;  // pixels that a key pans

export class BeforeAfter {
  #width = 4;
  #height = 3;
  #share = 0.5;
  #zoomed = false;
  #centre = { x: 0.5, y: 0.5 };  // what stands in the middle of the box, as shares of the picture
  #drag = null;

  constructor(host) {
    this.root = document.getElementById("stage").content.firstElementChild.cloneNode(true);
    this.divider = this.root.querySelector(".divider");
    this.veil = this.root.querySelector(".veil");
    host.replaceChildren(this.root);
    this.root.addEventListener("pointerdown", (event) => this.#press(event));
    this.root.addEventListener("pointermove", (event) => this.#move(event));
    this.root.addEventListener("pointerup", (event) => this.#release(event));
    this.root.addEventListener("pointercancel", () => { this.#drag = null; });
    this.root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.root.addEventListener("dblclick", (event) => this.#zoomAt(event));
    this.root.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#layout()).observe(this.root);
    this.#place(0.5);
  }

  // Elements that are ready to be seen, or null: one alone is shown whole.
  show({ before = null, after = null }) {
    this.#fill("before", before);
    this.#fill("after", after);
    const shown = before ?? after;
    this.root.hidden = !shown;
    if (!shown) return;
    this.#width = shown.naturalWidth || shown.videoWidth || 1;
    this.#height = shown.naturalHeight || shown.videoHeight || 1;
    this.root.style.setProperty("--ratio", this.#width / this.#height);
    this.#layout();
  }

  name(before, after) {
    this.root.querySelector(".tag.before").textContent = before;
    this.root.querySelector(".tag.after").textContent = after;
    this.divider.setAttribute("aria-label", `Divider between ${before} and ${after}`);
  }

  // What is seen of "after" belongs to an older "before".
  set stale(stale) { this.root.classList.toggle("stale", stale); }

  get zoomed() { return this.#zoomed; }

  set zoomed(zoomed) {
    this.#zoomed = zoomed;
    this.root.classList.toggle("zoomed", zoomed);
    this.root.tabIndex = zoomed ? 0 : -1;
    this.#layout();
  }

  #fill(side, node) {
    const pane = this.root.querySelector(`.pane.${side}`);
    if (pane.firstElementChild !== node) pane.replaceChildren(...(node ? [node] : []));
    this.root.classList.toggle(`without-${side}`, !node);
  }

  #layout() {
    const { width, height } = this.root.getBoundingClientRect();  // not in whole pixels, or a seam would show at an edge
    if (!width || !height) return;
    const scale = this.#zoomed ? 1 : Math.min(width / this.#width, height / this.#height);
    const wide = this.#width * scale, high = this.#height * scale;
    this.#centre = { x: centred(width, wide, this.#centre.x), y: centred(height, high, this.#centre.y) };
    const { style } = this.root;
    style.setProperty("--width", `${wide}px`);
    style.setProperty("--height", `${high}px`);
    style.setProperty("--x", `${width / 2 - this.#centre.x * wide}px`);
    style.setProperty("--y", `${height / 2 - this.#centre.y * high}px`);
  }

  #place(share) {
    this.#share = Math.min(1, Math.max(0, share));
    const percent = Math.round(this.#share * 100);
    this.root.style.setProperty("--share", this.#share);
    this.root.classList.toggle("leftmost", percent < 12);
    this.root.classList.toggle("rightmost", percent > 88);
    this.divider.setAttribute("aria-valuenow", percent);
    this.divider.setAttribute("aria-valuetext", `${percent} percent of the width before, the rest after`);
  }

  // --- pointer: drags the divider, or pans what is 1:1 ---

  #press(event) {
    if (event.button > 0 || !event.isPrimary) return;
    const pans = this.#zoomed && event.target !== this.divider;
    this.#drag = { pans, x: event.clientX, y: event.clientY };
    this.root.setPointerCapture(event.pointerId);
    if (pans) return;
    this.divider.focus({ preventScroll: true });
    event.preventDefault();  // or the press would take the focus away again
    // A finger may have come down to scroll the page.
    if (event.pointerType === "mouse" && event.target !== this.divider) this.#follow(event);
  }

  #move(event) {
    if (!this.#drag || !event.isPrimary) return;
    if (!this.#drag.pans) { this.#follow(event); return; }
    this.#pan(this.#drag.x - event.clientX, this.#drag.y - event.clientY);
    this.#drag = { pans: true, x: event.clientX, y: event.clientY };
  }

  #release(event) {
    if (this.#drag && !this.#drag.pans && event.pointerType !== "mouse") this.#follow(event);
    this.#drag = null;
  }

  #follow(event) {
    const box = this.root.getBoundingClientRect();
    this.#place((event.clientX - box.left) / box.width);
  }

  #pan(x, y) {
    this.#centre = { x: this.#centre.x + x / this.#width, y: this.#centre.y + y / this.#height };
    this.#layout();
  }

  #wheel(event) {
    if (!this.#zoomed || event.ctrlKey) return;
    event.preventDefault();
    const unit = event.deltaMode ? 24 : 1;
    this.#pan(event.deltaX * unit, event.deltaY * unit);
  }

  #zoomAt(event) {
    if (event.target === this.divider) return;
    const box = this.root.getBoundingClientRect();
    const wide = parseFloat(this.root.style.getPropertyValue("--width")), high = parseFloat(this.root.style.getPropertyValue("--height"));
    this.#centre = {
      x: this.#centre.x + (event.clientX - box.left - box.width / 2) / wide,
      y: this.#centre.y + (event.clientY - box.top - box.height / 2) / high,
    };
    this.zoomed = !this.#zoomed;
    this.root.dispatchEvent(new Event("zoom"));
  }

  // --- keyboard ---

  #key(event) {
    if (event.target === this.divider && event.key in KEYS) this.#place(this.#share + KEYS[event.key] * (event.shiftKey ? 10 : 1));
    else if (event.target === this.root && event.key in PANS) this.#pan(...PANS[event.key].map((way) => way * STEP));
    else return;
    event.preventDefault();
  }
}

// The nearest centre with no gap at an edge, for a picture of this length in a box; what fits stands in the middle.
function centred(box, length, share) {
  if (length <= box) return 0.5;
  const half = box / 2 / length;
  return Math.min(1 - half, Math.max(half, share));
}

// An image element that can be shown at once, with no blank moment; rejects where the browser cannot read the picture.
export async function readyImage(blob, alt) {
  const image = new Image();
  image.alt = alt;
  image.draggable = false;
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error;
  }
  return image;
}
