// A short noisy clip for who has none at hand: a window slides over a clean photograph, with new noise in each frame.

import { withNoise } from "/page/noise.js";

const FRAMES = 24;
const RATE = 24;  // frames per second
const SHARE = 0.8;  // of the photograph's width and height that the window shows
const BITS_PER_SECOND = 80e6;  // more than noise of this size needs: it is the noise that should survive

// As the browser records it, WebM or MP4; in as much time as the clip plays.
export async function noisyPan(photograph, sigma) {
  const picture = await createImageBitmap(photograph);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height].map((length) => 2 * Math.round(length * SHARE / 2));
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  const stream = canvas.captureStream(0);
  const [track] = stream.getVideoTracks();
  const recorder = new MediaRecorder(stream, { videoBitsPerSecond: BITS_PER_SECOND });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((resolve, reject) => { recorder.onstop = resolve; recorder.onerror = ({ error }) => reject(error); });
  recorder.start();
  const started = performance.now();
  for (let number = 0; number < FRAMES; number++) {
    const share = number / (FRAMES - 1);
    context.drawImage(picture, -share * (picture.width - canvas.width), -share * (picture.height - canvas.height));
    const frame = context.getImageData(0, 0, canvas.width, canvas.height);
    frame.data.set(withNoise(frame.data, sigma, number + 1));
    context.putImageData(frame, 0, 0);
    track.requestFrame();
    await until(started + (number + 1) * 1000 / RATE);
  }
  recorder.stop();
  picture.close();
  await stopped;
  const type = recorder.mimeType.split(";")[0];
  return new File(parts, type === "video/mp4" ? "pan.mp4" : "pan.webm", { type });
}

function until(time) { return new Promise((resolve) => { setTimeout(resolve, time - performance.now()); }); }

export function canRecord() { return Boolean(globalThis.MediaRecorder && HTMLCanvasElement.prototype.captureStream); }
