// The bundled clean photographs of a denoiser, as buttons.

import { $, element } from "/page/parts.js";

export function showSamples(urls, title, onChoice) {
  $("samples-box").hidden = !urls.length;
  $("samples-title").textContent = title;
  $("samples").replaceChildren(...urls.map((url) => {
    const button = element("button", "sample");
    button.type = "button";
    button.dataset.url = url;
    button.append(Object.assign(new Image(), { src: url, alt: "", loading: "lazy" }), element("span", "", stemOf(url)));
    button.addEventListener("click", () => onChoice(url));
    return button;
  }));
}

export function markSample(chosen) {
  for (const button of $("samples").children) button.setAttribute("aria-pressed", button.dataset.url === chosen);
}

export async function fetchSample(url, signal) {
  const response = await fetch(url, { signal });
  if (!response.ok) throw { message: `The server has no ${url}`, hint: "Choose another picture." };
  return response.blob();
}

export function stemOf(path) { return path.split("/").at(-1).replace(/\.\w+$/, "").replace(/^sample-/, ""); }
