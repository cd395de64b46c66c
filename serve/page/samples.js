// The bundled clean photographs of a denoiser, as buttons.

import { keyedFetch, storedKey } from "/page/key.js";
import { $, element } from "/page/parts.js";

export function showSamples(urls, title, onChoice) {
  $("samples-box").hidden = !urls.length;
  $("samples-title").textContent = title;
  $("samples").replaceChildren(...urls.map((url) => {
    const button = element("button", "sample");
    button.type = "button";
    button.dataset.url = url;
    button.append(thumbnail(url), element("span", "", stemOf(url)));
    button.addEventListener("click", () => onChoice(url));
    return button;
  }));
}

// An <img> sends no key, so where one is needed the picture is fetched.
function thumbnail(url) {
  const image = Object.assign(new Image(), { alt: "", loading: "lazy" });
  if (storedKey() === null) return Object.assign(image, { src: url });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  fetchSample(url).then((blob) => { image.src = URL.createObjectURL(blob); }, () => {});
  return image;
}

export function markSample(chosen) {
  for (const button of $("samples").children) button.setAttribute("aria-pressed", button.dataset.url === chosen);
}

export async function fetchSample(url, signal) {
  const response = await keyedFetch(url, { signal });
  if (!response.ok) throw { message: `The server has no ${url}`, hint: "Choose another picture." };
  return response.blob();
}

export function stemOf(path) { return path.split("/").at(-1).replace(/\.\w+$/, "").replace(/^sample-/, ""); }
