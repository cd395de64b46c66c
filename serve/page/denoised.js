// What denoisers made of one picture, in figures: quality, time, size; and the files and commands that go with it.

import { showTimes } from "/page/answer.js";
import { denoiseUrl } from "/page/ask.js";
import { $, curlLine, element, megapixels, milliseconds, sentence, showCurl } from "/page/parts.js";

const STAGES = ["read", "decode", "queue", "denoise", "encode"];
const EXTENSIONS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp" };
const NONE = "–";

export function showDenoised({ models, named, source, sent, outcomes, type }) {
  const good = outcomes.find(({ problem }) => !problem);
  const { naturalWidth: width, naturalHeight: height } = good.image;
  $("batch").hidden = false;
  $("batch").textContent = megapixels(width, height);
  $("status").textContent = saying(models, sent, outcomes);
  const names = models.length > 1 ? models.map(({ name }) => name) : ["after"];
  showTable(["", "before", ...names], rowsOf(sent, outcomes, width * height / 1e6));
  $("note").textContent = sentence(good.note ?? "");
  $("note").hidden = !good.note;
  if (outcomes.length === 1) showTimes(STAGES, timesOf(good), good.roundTrip); else $("timing").hidden = true;
  showFiles({ models, named, source, sent, good, type });
}

export function clearDenoised() {
  $("figures").replaceChildren();
  for (const id of ["figures-box", "timing", "batch", "again", "note", "clean"]) $(id).hidden = true;
}

// A server that tells no times leaves the round trip.
function timesOf({ times, roundTrip }) {
  return { ...Object.fromEntries(STAGES.map((stage) => [stage, 0])), total: roundTrip, ...times };
}

function saying(models, sent, outcomes) {
  const worked = models.map((model, side) => ({ ...model, ...outcomes[side] })).filter(({ problem }) => !problem);
  if (worked.length < 2) return `${worked[0].by ?? worked[0].name} ${gaining(sent, worked[0])}.`;
  const [one, two] = worked;
  const better = sent.psnr === null ? "" : differing(one, two, (a) => a.psnr, (high, low) => `${(high - low).toFixed(2)} dB better`);
  const faster = differing(one, two, (a) => -a.times.denoise, (high, low) => `${(low / high).toFixed(2)} times as fast (one run each)`);
  return [better, faster].filter(Boolean).map((text) => `${text}.`).join(" ");
}

function gaining(sent, { psnr, tiles }) {
  if (![sent.psnr, psnr].every(Number.isFinite)) return `cleaned it${tiles > 1 ? ` in ${tiles} tiles` : ""}`;
  return `takes the PSNR from ${decibels(sent.psnr)} to ${decibels(psnr)} dB`;
}

function differing(one, two, measure, words) {
  const [a, b] = [measure(one), measure(two)];
  if (!Number.isFinite(a) || !Number.isFinite(b) || a === b) return "";
  return `${a > b ? one.name : two.name} is ${words(Math.max(a, b), Math.min(a, b))}`;
}

function rowsOf(sent, outcomes, size) {
  const each = (figure) => outcomes.map((outcome) => (outcome.problem ? NONE : figure(outcome)));
  const rows = [
    ["megapixels/s", "", ...each(({ times, roundTrip }) => threeDigits(size / (times.total ?? roundTrip) * 1000))],
    ["tiles", "", ...each(({ tiles }) => tiles ?? NONE)],
  ];
  if (outcomes.length > 1) {
    rows.push(["model", "", ...each(({ times }) => (times.denoise === undefined ? NONE : milliseconds(times.denoise)))]);
    rows.push(["round trip", "", ...each(({ roundTrip }) => milliseconds(roundTrip))]);
  }
  if (sent.psnr !== null) {
    rows.unshift(
      ["PSNR, dB", decibels(sent.psnr), ...each(({ psnr }) => decibels(psnr))],
      ["gain, dB", "", ...each(({ psnr }) => gain(psnr, sent.psnr))]);
  }
  return rows;
}

function threeDigits(value) { return value < 100 ? value.toPrecision(3) : value.toFixed(0); }

function decibels(psnr) {
  if (psnr === null) return NONE;
  return psnr === Infinity ? "equal" : psnr.toFixed(2);
}

function gain(after, before) {
  if (after === null || !Number.isFinite(after - before)) return NONE;
  return `${after >= before ? "+" : "−"}${Math.abs(after - before).toFixed(2)}`;
}

function showTable(head, rows) {
  const line = (tag, cells) => {
    const row = element("tr", "");
    row.append(...cells.map((text, i) => Object.assign(element(i ? tag : "th", "", text), { scope: i && tag === "td" ? "" : i ? "col" : "row" })));
    return row;
  };
  const [top, body] = [element("thead", ""), element("tbody", "")];
  top.append(line("th", head));
  body.append(...rows.map((cells) => {
    const row = line("td", cells);
    row.dataset.figure = cells[0];
    return row;
  }));
  $("figures").replaceChildren(top, body);
  $("figures-box").hidden = false;
}

function showFiles({ models, named, source, sent, good, type }) {
  const extension = EXTENSIONS[type];
  const stem = source.name.replace(/\.\w+$/, "");
  $("clean").href = good.image.src;
  $("clean").download = `${stem}_clean.${extension}`;
  $("clean").hidden = false;
  const lines = models.map(({ name }) => curlLine(
    sent.name, { "Content-Type": sent.type, Accept: type }, denoiseUrl({ model: named ? name : undefined }),
    models.length > 1 ? `clean_${name}.${extension}` : `clean.${extension}`));
  showCurl(lines, sent.made ? { blob: sent.blob, name: sent.name } : null);
  $("again").hidden = false;
}
