// The page: takes a drawing or a picture, posts its bytes, and shows what came back.

import { Pad } from "/page/draw.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], model: null, picture: null, sent: null, running: null };
const pad = new Pad($("pad"), () => onDrawing());

start();

async function start() {
  try {
    const response = await fetch("/v1/models");
    if (!response.ok) throw await problemOf(response);
    state.models = (await response.json()).models;
  } catch (problem) {
    showError(problem);
    return;
  }
  $("model").replaceChildren(...state.models.map((model) => new Option(model.name, model.name)));
  $("model").addEventListener("change", () => { choose($("model").value); resend(); });
  choose(state.models[0].name);
}

function choose(name) {
  state.model = state.models.find((model) => model.name === name);
  $("facts").textContent = factsOf(state.model);
  const draws = takesDrawings(state.model);
  $("pad-hint").textContent = readsDigits(state.model) ? "Draw a digit" : "Draw here";
  $("pad-help").textContent = draws
    ? "Draw with mouse, pen or finger. By keyboard, arrows move, Space sets and lifts the pen, Delete clears. " : "";
  $("drop-help").textContent = "A picture can be chosen, pasted, or dropped anywhere.";
  showInput();
}

function readsDigits(model) {
  return model.labels.length === 10 && model.labels.every((label, i) => label === String(i));
}

// What a model of digits is shown is drawn; so is anything for a model whose pictures are small.
function takesDrawings(model) {
  return readsDigits(model) || Math.max(model.input.height, model.input.width) <= 64;
}

function factsOf(model) {
  const facts = [`${model.architecture}, version ${model.version}`];
  if (model.params) facts.push(`${short(model.params)} parameters`);
  if (model.macs) facts.push(`${short(model.macs)} MACs`);
  facts.push(`${model.classes} classes`);
  const top1 = model.evaluation?.metrics.top1;
  if (top1 !== undefined) facts.push(`${percent(top1)} right on ${model.evaluation.dataset}`);
  return facts.join(" · ");
}

function short(count) {
  const unit = [[1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => count >= size);
  return unit ? `${Number((count / unit[0]).toPrecision(3))}${unit[1]}` : String(count);
}

// --- what is sent ---

async function onDrawing() {
  state.picture = null;
  showInput();
  if (pad.empty) { reset(); return; }
  const blob = await new Promise((done) => pad.render($("sent")).toBlob(done, "image/png"));
  $("sent-box").hidden = false;
  send({ blob, name: "digit.png", type: "image/png", drawn: true });
}

function onFile(file) {
  if (!file) return;
  state.picture = file;
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(file);
  showInput();
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  send({ blob: file, name: file.name || "picture.png", type, drawn: false });
}

// A picture where there is one, else the canvas for what can be drawn, else a place to drop a picture.
function showInput() {
  const draws = takesDrawings(state.model);
  $("preview").hidden = !state.picture;
  $("draw").hidden = Boolean(state.picture) || !draws;
  $("drop").hidden = Boolean(state.picture) || draws;
  $("undo").hidden = !draws;
  $("undo").disabled = pad.empty || Boolean(state.picture);
  $("pad-hint").classList.toggle("gone", !pad.empty);
}

function resend() { if (state.sent) send(state.sent); }

async function send(picture) {
  state.running?.abort();
  const running = state.running = new AbortController();
  state.sent = picture;
  document.body.dataset.state = "busy";
  const started = performance.now();
  try {
    const response = await fetch(urlOf(), {
      method: "POST", body: picture.blob, headers: { "Content-Type": picture.type }, signal: running.signal });
    const answer = response.ok ? await response.json() : null;
    const roundTrip = performance.now() - started;
    if (!answer) throw await problemOf(response);
    if (running === state.running) showAnswer(answer, roundTrip, picture);
  } catch (problem) {
    if (running === state.running && problem.name !== "AbortError") showError(problem);
  }
}

function urlOf() {
  const query = state.models.length > 1 ? `?model=${encodeURIComponent(state.model.name)}` : "";
  return `/v1/classify${query}`;
}

async function problemOf(response) {
  try {
    const { error, id } = await response.json();
    return { ...error, id, status: response.status };
  } catch {
    return { message: `The server answered ${response.status} ${response.statusText}.`, hint: "" };
  }
}

// --- what came back ---

function showAnswer(answer, roundTrip, picture) {
  const [result] = answer.results;
  const best = result.predictions[0];
  document.body.dataset.state = "done";
  $("error").hidden = true;
  $("status").textContent = `${best.label}, ${percent(best.probability)} sure, says ${answer.model.name}.`;
  $("bars").replaceChildren(...result.predictions.map(barOf));
  $("bars").classList.toggle("named", result.predictions.some(({ label }) => label.length > 3));
  showTimes({ ...result.timing_ms, ...answer.timing_ms }, roundTrip);
  $("batch").hidden = false;
  $("batch").textContent = result.batch_size === 1 ? "ran alone" : `rode in a batch of ${result.batch_size}`;
  $("batch").dataset.size = result.batch_size;
  showCurl(picture);
}

function barOf({ label, probability }) {
  const row = element("li", "");
  row.dataset.label = label;
  row.dataset.probability = probability;
  const track = element("span", "track");
  const fill = element("span", "fill");
  fill.style.transform = `scaleX(${probability})`;
  track.append(fill);
  const name = element("span", "label", label);
  name.title = label;
  row.append(name, track, element("span", "value", percent(probability)));
  return row;
}

function showTimes(times, roundTrip) {
  const stages = ["read", "decode", "queue", "infer"];
  const rest = Math.max(0, times.total - stages.reduce((sum, stage) => sum + times[stage], 0));
  const parts = [...stages.map((stage) => [stage, times[stage]]), ["other", rest]];
  $("split").replaceChildren(...parts.map(([stage, ms]) => {
    const part = element("span", stage);
    part.style.flexGrow = ms;
    return part;
  }));
  const rows = parts.map(([stage, ms]) => timeRow(stage, stage, ms));
  rows.push(timeRow("sum", "server", times.total), timeRow("sum", "round trip", roundTrip));
  $("times").replaceChildren(...rows);
  $("timing").hidden = false;
}

function timeRow(kind, name, ms) {
  const row = element("div", kind);
  row.dataset.stage = name;
  row.append(element("dt", "", name), element("dd", "", `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`));
  return row;
}

function showCurl({ blob, name, type, drawn }) {
  const quote = (text) => (/^[\w./:@%-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const globs = /[[\]{}]/.test(name) ? "-g " : "";  // curl would take brackets in a file's name for a pattern
  const file = quote(name.startsWith("-") ? `./${name}` : name);
  $("curl").textContent = `curl ${globs}-T ${file} -H 'Content-Type: ${type}' ${quote(location.origin + urlOf())}`;
  URL.revokeObjectURL($("download").href);
  if (drawn) $("download").href = URL.createObjectURL(blob);
  $("download-line").hidden = !drawn;
  $("again").hidden = false;
}

function showError(problem) {
  document.body.dataset.state = "error";
  $("bars").replaceChildren();
  for (const id of ["timing", "again", "batch"]) $(id).hidden = true;
  $("status").textContent = "";
  $("error").hidden = false;
  const unreachable = problem instanceof TypeError;
  $("error-message").textContent = unreachable ? "The server cannot be reached." : capital(problem.message);
  $("error-hint").textContent = unreachable ? "Is it still running?" : capital(problem.hint ?? "");
  $("error-id").textContent = problem.code ? `${problem.code} · ${problem.status} · request ${problem.id}` : "";
}

function reset() {
  state.running?.abort();
  state.sent = null;
  document.body.dataset.state = "idle";
  $("bars").replaceChildren();
  for (const id of ["error", "timing", "again", "batch", "sent-box"]) $(id).hidden = true;
  $("status").textContent = "The answer appears here.";
}

// --- controls ---

$("clear").addEventListener("click", () => pad.clear());
$("preview").addEventListener("error", () => { state.picture = null; showInput(); });
$("undo").addEventListener("click", () => pad.undo());
$("file").addEventListener("change", () => { onFile($("file").files[0]); $("file").value = ""; });
$("copy").addEventListener("click", async () => {
  await copyText($("curl"));
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
document.addEventListener("paste", (event) => onFile(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  onFile(event.dataTransfer.files[0]);
});

// The clipboard API exists on https and localhost only; elsewhere the text is selected for Ctrl+C.
async function copyText(node) {
  if (navigator.clipboard) return navigator.clipboard.writeText(node.textContent).catch(() => getSelection().selectAllChildren(node));
  return getSelection().selectAllChildren(node);
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function percent(share) { return `${(share * 100).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`; }

function capital(text) { return text ? text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".") : ""; }
