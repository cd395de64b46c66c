// The page: takes a drawing or a picture, and has one model answer it, or two side by side.

import { answerAlone, clearAnswer, showError } from "/page/answer.js";
import { classifyUrl, listModels } from "/page/ask.js";
import { Comparison } from "/page/compare.js";
import { Pad } from "/page/draw.js";
import { $, percent } from "/page/parts.js";

const state = { models: [], model: null, other: null, picture: null, sent: null, running: new AbortController() };
const pad = new Pad($("pad"), () => onDrawing());
const comparison = new Comparison();

start();

async function start() {
  try {
    state.models = await listModels();
  } catch (problem) {
    document.body.dataset.state = "error";
    showError(problem);
    return;
  }
  $("model").replaceChildren(...state.models.map(({ name }) => new Option(name, name)));
  $("with-row").hidden = state.models.length < 2;
  $("model").addEventListener("change", () => changeTo($("model").value, state.other?.name));
  $("with").addEventListener("change", () => changeTo(state.model.name, $("with").value));
  followLink();
}

// A link names the models: /?model=digits_vit&with=digits_fast
function followLink() {
  const link = new URLSearchParams(location.search);
  const asked = ["model", "with"].map((key) => link.get(key));
  choose(...asked);
  const missing = asked.filter((name) => name && !find(name));
  $("status").textContent = missing.length ? `The link asks for ${missing.join(" and ")}, not served here.` : invitation();
}

function changeTo(name, other) {
  // The two change places where the first becomes what it is compared with.
  choose(name, name === other ? state.model.name : other);
  const link = new URLSearchParams({ model: state.model.name });
  if (state.other) link.set("with", state.other.name);
  history.replaceState(null, "", `?${link}`);
  if (state.sent) send(state.sent); else reset();
}

function find(name) { return state.models.find((model) => model.name === name); }

function choose(name, otherName) {
  state.model = find(name) ?? state.models[0];
  state.other = otherName === state.model.name ? null : find(otherName) ?? null;
  $("model").value = state.model.name;
  const others = state.models.filter((model) => model !== state.model);
  $("with").replaceChildren(new Option("none", ""), ...others.map(({ name }) => new Option(name, name)));
  $("with").value = state.other?.name ?? "";
  if (state.other) comparison.choose([state.model, state.other]);
  showChoice();
  showInput();
}

function showChoice() {
  $("facts").textContent = factsOf(state.model);
  $("with-facts").textContent = state.other ? factsOf(state.other) : "";
  $("with-facts").hidden = $("compare").hidden = !state.other;
  $("single").hidden = Boolean(state.other);
  if (state.other) $("batch").hidden = true;
  const draws = takesDrawings(state.model);
  $("pad-hint").textContent = readsDigits(state.model) ? "Draw a digit" : "Draw here";
  $("pad-help").textContent = draws
    ? "Draw with mouse, pen or finger. By keyboard, arrows move, Space sets and lifts the pen, Delete clears. " : "";
  $("drop-help").textContent = "A picture can be chosen, pasted, or dropped anywhere.";
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
  const signal = begin();
  const blob = await new Promise((done) => pad.render($("sent")).toBlob(done, "image/png"));
  if (signal.aborted) return;
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

// What is begun ends what runs: an answer to an older question must not overwrite a newer one.
function begin() {
  state.running.abort();
  state.running = new AbortController();
  return state.running.signal;
}

async function send(picture) {
  const signal = begin();
  state.sent = picture;
  document.body.dataset.state = "busy";
  const answered = state.other ? await comparison.answer(picture, signal)
    : await answerAlone(classifyUrl({ model: nameInUrl() }), picture, signal);
  if (signal.aborted) return;
  document.body.dataset.state = answered ? "done" : "error";
  $("again").hidden = !answered;
  if (answered) showCurl(picture);
}

// A server of one model needs no name.
function nameInUrl() { return state.models.length > 1 ? state.model.name : undefined; }

function reset() {
  begin();
  state.sent = null;
  document.body.dataset.state = "idle";
  clearAnswer();
  if (state.other) comparison.clear();
  for (const id of ["again", "sent-box"]) $(id).hidden = true;
  $("status").textContent = invitation();
}

function invitation() { return state.other ? "The answers appear here." : "The answer appears here."; }

function showCurl({ blob, name, type, drawn }) {
  const quote = (text) => (/^[\w./:@%-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const globs = /[[\]{}]/.test(name) ? "-g " : "";  // curl would take brackets in a file's name for a pattern
  const file = quote(name.startsWith("-") ? `./${name}` : name);
  const models = state.other ? [state.model.name, state.other.name] : [nameInUrl()];
  $("curl").textContent = models.map((model) =>
    `curl ${globs}-T ${file} -H 'Content-Type: ${type}' ${quote(location.origin + classifyUrl({ model }))}`).join("\n");
  URL.revokeObjectURL($("download").href);
  if (drawn) $("download").href = URL.createObjectURL(blob);
  $("download-line").hidden = !drawn;
}

// --- controls ---

$("clear").addEventListener("click", () => pad.clear());
$("preview").addEventListener("error", () => { state.picture = null; showInput(); });
$("undo").addEventListener("click", () => pad.undo());
$("file").addEventListener("change", () => { onFile($("file").files[0]); $("file").value = ""; });
$("time-both").addEventListener("click", () => {
  if (comparison.timing) comparison.stop(begin()); else comparison.time(state.sent, begin());
});
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
