// The drawing area: strokes from mouse, touch, pen or keyboard, and the picture of them that is sent.

const SIDE = 64;
// The demo's training pictures are digits of one height, whose ink covers about the same share of the square whatever
// the digit (0.305 +- 0.034 over scikit-learn's 1797), and which are hardly ever wider than 0.8 of it.
const INK = 0.305;
const WIDEST = 0.8;
const STEP = 0.03;

export class Pad {
  #canvas;
  #strokes = [];
  #active = null;
  #cursor = { x: 0.5, y: 0.5 };
  #penDown = false;
  #showCursor = false;

  constructor(canvas, onChange) {
    this.#canvas = canvas;
    this.onChange = onChange;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => event.isPrimary && this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.#showCursor = false; this.#lift(); this.#paint(); });
    this.#paint();
  }

  get empty() { return this.#strokes.length === 0; }

  clear() { this.#strokes = []; this.#changed(); }

  undo() { this.#strokes.pop(); this.#changed(); }

  // Draws the strokes as a training picture: cropped to the ink, filling the height of a black square, centred, with
  // the pen width that gives the usual share of ink. How large or thick the drawing was does not matter.
  render(target) {
    target.width = target.height = SIDE;
    let thin = 3, thick = 26;
    for (let i = 0; i < 8; i++) {
      const pen = (thin + thick) / 2;
      if (this.#renderWith(target, pen) < INK) thin = pen; else thick = pen;
    }
    return target;
  }

  #renderWith(target, pen) {
    const points = this.#strokes.flat();
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const scale = Math.min(
      (SIDE - pen) / Math.max(bottom - top, 1e-3), (SIDE * WIDEST - pen) / Math.max(right - left, 1e-3));
    const context = target.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.strokeStyle = "#fff";
    context.lineWidth = pen;
    context.lineCap = context.lineJoin = "round";
    const place = (p) => [
      (p.x - (left + right) / 2) * scale + SIDE / 2, (p.y - (top + bottom) / 2) * scale + SIDE / 2];
    for (const stroke of this.#strokes) trace(context, stroke.map(place));
    const pixels = context.getImageData(0, 0, SIDE, SIDE).data;
    let ink = 0;
    for (let i = 0; i < pixels.length; i += 4) ink += pixels[i];
    return ink / 255 / (SIDE * SIDE);
  }

  #start(event) {
    // A palm or a second finger is no pen.
    if (event.button > 0 || !event.isPrimary || this.#active) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#showCursor = false;
    this.#active = [this.#at(event)];
    this.#strokes.push(this.#active);
    this.#paint();
  }

  #move(event) {
    if (!this.#active || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const step of events.length ? events : [event]) this.#active.push(this.#at(step));
    this.#paint();
  }

  #end() {
    if (!this.#active) return;
    this.#active = null;
    this.#changed();
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const inside = (value) => Math.min(1, Math.max(0, value));
    return { x: inside((event.clientX - box.left) / box.width), y: inside((event.clientY - box.top) / box.height) };
  }

  #key(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (move) this.#step(...move);
    else if (event.key === " " || event.key === "Enter") this.#togglePen();
    else if (event.key === "Delete" || event.key === "Escape") { this.#lift(); this.clear(); }
    else if (event.key === "Backspace") { this.#lift(); this.undo(); }
    else return;
    event.preventDefault();
  }

  #step(dx, dy) {
    const inside = (value) => Math.min(0.97, Math.max(0.03, value));
    this.#cursor = { x: inside(this.#cursor.x + dx * STEP), y: inside(this.#cursor.y + dy * STEP) };
    this.#showCursor = true;
    if (this.#penDown) this.#strokes.at(-1)?.push({ ...this.#cursor });
    this.#paint();
  }

  #togglePen() {
    this.#showCursor = true;
    if (this.#penDown) { this.#lift(); return; }
    this.#penDown = true;
    this.#strokes.push([{ ...this.#cursor }]);
    this.#paint();
  }

  #lift() {
    if (!this.#penDown) return;
    this.#penDown = false;
    this.#changed();
  }

  #changed() { this.#paint(); this.onChange(this); }

  #paint() {
    const { width } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, width, width);
    context.strokeStyle = "#fff";
    context.lineWidth = width * 0.065;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of this.#strokes) trace(context, stroke.map((p) => [p.x * width, p.y * width]));
    if (this.#showCursor) this.#paintCursor(context, width);
  }

  #paintCursor(context, width) {
    context.lineWidth = 4;
    context.strokeStyle = this.#penDown ? "#8c9eff" : "#6f788f";
    context.beginPath();
    context.arc(this.#cursor.x * width, this.#cursor.y * width, width * 0.045, 0, 2 * Math.PI);
    context.stroke();
  }
}

function trace(context, points) {
  context.beginPath();
  context.moveTo(...points[0]);
  // Curves through the middles of the segments: a fast stroke has few points, and would look like a polygon.
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i], [nextX, nextY] = points[i + 1];
    context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  const [x, y] = points.at(-1);
  context.lineTo(x + 0.01, y);  // the 0.01 makes a tap a dot
  context.stroke();
}
