// The server as the page uses it: its models, and what one of them says of a picture.

export async function listModels() {
  const response = await fetch("/v1/models");
  if (!response.ok) throw await problemOf(response);
  return (await response.json()).models;
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
  const response = await fetch(url, {
    method: "POST", body: picture.blob, headers: { "Content-Type": picture.type }, signal });
  const answer = response.ok ? await response.json() : null;
  const roundTrip = performance.now() - started;
  if (!answer) throw await problemOf(response);
  return { answer, roundTrip };
}

async function problemOf(response) {
  try {
    const { error, id } = await response.json();
    return { ...error, id, status: response.status };
  } catch {
    return { message: `The server answered ${response.status} ${response.statusText}.`, hint: "" };
  }
}
