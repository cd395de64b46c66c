// The API reference, rendered from openapi.json: small enough to be served from here, so it works without a network.

import { keyedFetch } from "/page/key.js";

const main = document.getElementById("operations");

try {
  const spec = await (await fetch("/openapi.json")).json();
  main.replaceChildren(...operationsOf(spec).map((operation) => card(spec, operation)));
} catch (error) {
  main.replaceChildren(make("p", { className: "card", textContent: `openapi.json cannot be read: ${error.message}` }));
}

function operationsOf(spec) {
  return Object.entries(spec.paths).map(([path, methods]) => {
    const [method, operation] = Object.entries(methods)[0];
    return { path, verbs: Object.keys(methods), method, ...operation };
  });
}

function card(spec, operation) {
  const { path, verbs, summary, description, parameters = [], requestBody, responses } = operation;
  const heading = make("h2", { className: "path" },
    ...verbs.map((verb) => make("span", { className: `verb ${verb}`, textContent: verb.toUpperCase() })), make("span", { textContent: path }));
  const parts = [heading, make("p", { textContent: summary }), make("p", { className: "quiet", textContent: description ?? "" })];
  if (parameters.length) parts.push(parameterTable(parameters));
  for (const sample of operation["x-codeSamples"] ?? []) parts.push(make("pre", { textContent: sample.source }));
  if (requestBody) parts.push(fold("Body", ...bodyParts(spec, requestBody)));
  parts.push(fold("Answers", ...Object.entries(responses).map(([status, response]) => answer(spec, status, response))));
  if (verbs.includes("get") && !parameters.length) parts.push(tryButton(path));
  return make("section", { className: "card", id: operation.operationId }, ...parts);
}

function parameterTable(parameters) {
  const rows = parameters.map(({ name, in: place, schema }) => make("tr", {},
    make("td", {}, make("code", { textContent: name })), make("td", { textContent: place }),
    make("td", { textContent: typeName(schema) }), make("td", { textContent: schema.description ?? "" })));
  return make("table", {}, make("tbody", {}, ...rows));
}

function bodyParts(spec, { description, content }) {
  const kinds = Object.entries(content).map(([type, { schema, example }]) => make("div", { className: "stack" },
    make("p", {}, make("code", { textContent: type })), make("pre", { textContent: outline(spec, schema) }),
    ...(example ? [make("pre", { textContent: JSON.stringify(example, null, 2) })] : [])));
  return [make("p", { className: "quiet", textContent: description ?? "" }), ...kinds];
}

function answer(spec, status, { description, content = {} }) {
  const [json = {}] = Object.values(content);
  const parts = [make("p", {}, make("code", { textContent: status }), ` ${description}`)];
  if (status === "200" && json.schema) parts.push(make("pre", { textContent: outline(spec, json.schema) }));
  if (json.example && ["200", "400"].includes(status)) parts.push(make("pre", { textContent: JSON.stringify(json.example, null, 2) }));
  return make("div", { className: "stack" }, ...parts);
}

function tryButton(path) {
  const output = make("pre", { hidden: true });
  const button = make("button", { type: "button", textContent: `Send GET ${path}` });
  button.addEventListener("click", async () => {
    const response = await keyedFetch(path);
    const text = await response.text();
    output.hidden = false;
    output.textContent = `${response.status}\n${pretty(text)}`;
  });
  return make("div", { className: "stack" }, make("div", { className: "row" }, button), output);
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

// A schema as indented lines: name: type, description.
function outline(spec, schema, indent = "", seen = []) {
  const ref = schema.$ref?.split("/").at(-1);
  if (ref && seen.includes(ref)) return ref;
  const known = ref ? spec.components.schemas[ref] : schema;
  const path = ref ? [...seen, ref] : seen;
  if (known.anyOf) return known.anyOf.map((option) => outline(spec, option, indent, path)).join(" or ");
  if (known.type === "array") return `list of ${outline(spec, known.items, indent, path)}`;
  if (!known.properties) return typeName(known);
  const inner = `${indent}  `;
  const lines = Object.entries(known.properties).map(([name, property]) => {
    const optional = known.required?.includes(name) ? "" : "?";
    const note = property.description ? `   ${property.description}` : "";
    return `${inner}${name}${optional}: ${outline(spec, property, inner, path)}${note}`;
  });
  return `{\n${lines.join("\n")}\n${indent}}`;
}

function typeName(schema) {
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.format === "binary") return "file";
  if (schema.format === "byte") return "base64";
  return [schema.type].flat().join(" or ") || "anything";
}

function fold(title, ...children) {
  return make("details", {}, make("summary", { textContent: title }), make("div", { className: "stack" }, ...children));
}

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
