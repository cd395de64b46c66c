// The worker of pixels.js: keeps one clean picture, adds noise to it, and measures others against it.

import { psnr, withNoise } from "/page/noise.js";
import { pngOf } from "/page/png.js";

const SEED = 2026;  // the same noise every time, so that only its strength changes
let clean = null;
let before = Promise.resolve();

onmessage = ({ data }) => { before = before.then(() => answer(data)); };

async function answer({ id, clean: blob, noisy: sigma, measure }) {
  try {
    if (blob) clean = await pixelsOf(blob);
    postMessage({ id, ...(sigma === undefined ? {} : await noisy(sigma)), ...(measure ? await measured(measure) : {}) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
}

async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}

async function noisy(sigma) {
  const { width, height, data } = clean;
  const pixels = withNoise(data, sigma, SEED);
  return { blob: await pngOf({ width, height, data: pixels }), psnr: psnr(data, pixels) };
}

async function measured(blob) {
  const { width, height, data } = await pixelsOf(blob);
  if (width !== clean.width || height !== clean.height) return { psnr: null };
  return { psnr: psnr(clean.data, data) };
}
