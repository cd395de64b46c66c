// The server as the page uses it: its models, and what one of them says or makes of a picture or a clip.

import { keyedFetch } from "/page/key.js";

export async function listModels() {
  const response = await keyedFetch("/v1/models");
  if (!response.ok) throw await problemOf(response);
  const { models, groups = [] } = await response.json();
  return [...models, ...groups.map((group) => asModel(group, models))];
}

// A group is asked like a model, and takes and gives what its variants do; which one answered is in the answer.
function asModel({ name, variants }, models) {
  return { ...models.find((model) => variants.includes(model.name)), name, variants };
}

// Without a model the server's first answers, without a topK the five likeliest classes come.
export function classifyUrl({ model, topK }) {
  const query = new URLSearchParams();
  if (model) query.set("model", model);
  if (topK) query.set("top_k", topK);
  const text = query.toString();
  return text ? `/v1/classify?${text}` : "/v1/classify";
}

// One picture's answer, and the milliseconds from sending it to having read the answer.
export async function ask(url, picture, signal) {
  const started = performance.now();
  const response = await keyedFetch(url, {
    method: "POST", body: picture.blob, headers: { "Content-Type": picture.type }, signal });
  const answer = response.ok ? await response.json() : null;
  const roundTrip = performance.now() - started;
  if (!answer) throw await problemOf(response);
  return { answer, roundTrip };
}

export function denoiseUrl({ model }) { return model ? `/v1/denoise?${new URLSearchParams({ model })}` : "/v1/denoise"; }

// The clean picture as a file of the type asked for, the milliseconds of each stage and of the round trip, the number of
// tiles, and what the server changed on purpose.
export async function denoise(url, picture, type, signal) {
  const started = performance.now();
  const response = await keyedFetch(url, {
    method: "POST", body: picture.blob, headers: { "Content-Type": picture.type, Accept: type }, signal });
  if (!response.ok) throw await problemOf(response);
  const blob = await response.blob();
  const roundTrip = performance.now() - started;
  const { headers } = response;
  return {
    blob, roundTrip, times: timesOf(headers.get("Server-Timing")),
    by: headers.get("X-Skipvit-Model")?.split("/")[0],
    tiles: Number(headers.get("X-Skipvit-Tiles")) || null, note: headers.get("X-Skipvit-Note") };
}

// "read;dur=0.3, decode;dur=2.1" as { read: 0.3, decode: 2.1 }
function timesOf(header) {
  const stages = [...(header ?? "").matchAll(/([\w-]+)\s*;\s*dur=([\d.]+)/g)];
  return Object.fromEntries(stages.map(([, stage, ms]) => [stage, Number(ms)]));
}

export function videoUrl({ model, sigma }) {
  const query = new URLSearchParams();
  if (model) query.set("model", model);
  if (sigma) query.set("sigma", sigma);
  const text = query.toString();
  return text ? `/v1/denoise/video?${text}` : "/v1/denoise/video";
}

// Calls onProgress with each line that tells how far the server is; gives the clean clip and the server's times.
export async function denoiseVideo(url, clip, signal, onProgress) {
  const started = performance.now();
  const response = await keyedFetch(url, {
    method: "POST", body: clip.blob, headers: { "Content-Type": clip.type, Accept: "application/x-ndjson" }, signal });
  if (!response.ok) throw await problemOf(response);
  for await (const line of linesOf(response)) {
    const { error, id, clip: base64, type, timing_ms: times, ...progress } = JSON.parse(line);
    if (error) throw { ...error, id };
    if (!base64) { onProgress(progress); continue; }
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return { ...progress, blob: new Blob([bytes], { type }), times, roundTrip: performance.now() - started };
  }
  throw { message: "The server's answer ends before the clip came", hint: "Send it again." };
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const [first, ...others] = value.split("\n");
    parts.push(first);
    for (const next of others) {
      const line = parts.join("");
      if (line) yield line;
      parts = [next];
    }
  }
  if (parts.join("")) yield parts.join("");
}

async function problemOf(response) {
  try {
    const { error, id } = await response.json();
    return { ...error, id, status: response.status };
  } catch {
    return { message: `The server answered ${response.status} ${response.statusText}.`, hint: "" };
  }
}
