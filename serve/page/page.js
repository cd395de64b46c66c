// The page: which model, and by its task which view; every picture or clip that is chosen, pasted or dropped goes there.

import { showError } from "/page/answer.js";
import { listModels } from "/page/ask.js";
import { watchServer } from "/page/live.js";
import { ClassifyView } from "/page/classify.js";
import { DenoiseView } from "/page/denoise.js";
import { $, percent } from "/page/parts.js";
import { VideoView } from "/page/video.js";

const TASKS = {
  "classification": { name: "Classification", title: "Show it something", files: "image/*", file: "picture", view: new ClassifyView() },
  "denoising": { name: "Denoising", title: "Denoise", files: "image/*", file: "photograph", view: new DenoiseView() },
  "video-denoising": { name: "Denoising of video", title: "Denoise", files: "video/*", file: "clip", view: new VideoView() },
};
const state = { models: [], model: null, other: null };

watchServer($("live"));
start();

async function start() {
  try {
    state.models = await listModels();
  } catch (problem) {
    document.body.dataset.state = "error";
    showError(problem);
    return;
  }
  $("model").replaceChildren(...menu());
  $("model").addEventListener("change", () => changeTo($("model").value, state.other?.name));
  $("with").addEventListener("change", () => changeTo(state.model.name, $("with").value));
  followLink();
}

// All models; under headings where they do not all do the same.
function menu() {
  const tasks = Object.keys(TASKS).filter((task) => state.models.some((model) => model.task === task));
  const options = (models) => models.map(({ name, variants }) => new Option(variants ? `${name} (group)` : name, name));
  if (tasks.length < 2) return options(state.models);
  return tasks.map((task) => {
    const group = document.createElement("optgroup");
    group.label = TASKS[task].name;
    group.append(...options(state.models.filter((model) => model.task === task)));
    return group;
  });
}

// A link names the models: /?model=digits_vit&with=digits_fast
function followLink() {
  const link = new URLSearchParams(location.search);
  const asked = ["model", "with"].map((key) => link.get(key));
  const missing = asked.filter((name) => name && !find(name));
  choose(...asked);
  if (missing.length) $("status").textContent = `The link asks for ${missing.join(" and ")}, not served here.`;
}

function changeTo(name, other) {
  // The two change places where the first becomes what it is compared with.
  choose(name, name === other ? state.model.name : other);
  const link = new URLSearchParams({ model: state.model.name });
  if (state.other) link.set("with", state.other.name);
  history.replaceState(null, "", `?${link}`);
}

function find(name) { return state.models.find((model) => model.name === name); }

function choose(name, otherName) {
  const former = state.model?.task;
  state.model = find(name) ?? state.models[0];
  const { task } = state.model;
  const others = state.models.filter((model) => model !== state.model && model.task === task && task !== "video-denoising");
  state.other = others.find((model) => model.name === otherName) ?? null;
  $("model").value = state.model.name;
  $("with").replaceChildren(new Option("none", ""), ...others.map((model) => new Option(model.name, model.name)));
  $("with").value = state.other?.name ?? "";
  $("with-row").hidden = !others.length;
  $("facts").textContent = factsOf(state.model);
  $("with-facts").textContent = state.other ? factsOf(state.other) : "";
  $("with-facts").hidden = !state.other;
  if (former !== task) showTask(former, task);
  // A server of one model needs no name.
  TASKS[task].view.choose(state.model, state.other, state.models.length > 1, samplesFor(state.model));
}

// Clean photographs: the model's own, or another's where it has none.
function samplesFor(model) {
  return [model, ...state.models].find(({ samples }) => samples?.length)?.samples ?? [];
}

function showTask(former, task) {
  if (former) TASKS[former].view.leave();
  document.body.dataset.task = task;
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(task);
  const { title, files, file } = TASKS[task];
  $("input-title").textContent = title;
  $("file").accept = files;
  $("choose").textContent = `Choose a ${file}`;
  $("drop-title").textContent = `Drop a ${file} here`;
  $("drop-help").textContent = `A ${file} can be chosen, pasted, or dropped anywhere.`;
}

const ENGINES = {
  "onnx-cpu": "ONNX Runtime", "onnx-cuda": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX",
};

function factsOf(model) {
  if (model.variants) return `${model.variants.join(", ")}: the most exact that the load allows`;
  const facts = [`${model.architecture}, version ${model.version}`];
  if (model.params) facts.push(`${short(model.params)} parameters`);
  if (model.macs) facts.push(`${short(model.macs)} MACs`);
  if (model.classes) facts.push(`${model.classes} classes`);
  const { top1, psnr } = model.evaluation?.metrics ?? {};
  if (top1 !== undefined) facts.push(`${percent(top1)} right on ${model.evaluation.dataset}`);
  if (psnr !== undefined) facts.push(`${psnr.toFixed(2)}\u00a0dB on ${model.evaluation.dataset}`);
  if (model.engine) facts.push(`${ENGINES[model.engine.kind]} on ${model.engine.device}`);
  return facts.join(" · ");
}

function short(count) {
  const unit = [[1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => count >= size);
  return unit ? `${Number((count / unit[0]).toPrecision(3))}${unit[1]}` : String(count);
}

// --- controls ---

function take(file) { if (file) TASKS[state.model.task].view.take(file); }

$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
$("copy").addEventListener("click", async () => {
  await copyText($("curl"));
  $("copy").textContent = "Copied";
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files[0]);
});

// The clipboard API exists on https and localhost only; elsewhere the text is selected for Ctrl+C.
async function copyText(node) {
  if (navigator.clipboard) return navigator.clipboard.writeText(node.textContent).catch(() => getSelection().selectAllChildren(node));
  return getSelection().selectAllChildren(node);
}
