// Classifies an image in the browser: it does not leave this device.
import * as ort from "./onnxruntime.js";
import { decode, networkInput } from "./pixels.js";

const TOP_K = 5;
let description;
let session;

async function get(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded: the web server answers ${response.status}.`);
  return response;
}

export async function start() {
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;  // more need headers that web servers for files do not send
  ort.env.wasm.wasmBinary = await (await get("onnxruntime.wasm")).arrayBuffer();
  description = await (await get("model.json")).json();
  const model = await (await get(description.file)).arrayBuffer();
  session = await ort.InferenceSession.create(model);
  return description;
}

export async function classify(file) {
  if (!session) throw new Error("The model is not loaded yet.");
  const begin = performance.now();
  const image = await decode(file).catch(() => {
    throw new Error("This file is no image, or your browser does not read its format.");
  });
  const { input: { name }, output, preprocessing } = description;
  const size = preprocessing.centre_crop;
  const pixels = new ort.Tensor("float32", networkInput(image, preprocessing), [1, 3, size, size]);
  const decoded = performance.now();
  const found = await session.run({ [name]: pixels });
  const end = performance.now();
  const scores = [...found[output.name].data];
  const logits = output.meaning === "probabilities" ? scores.map(Math.log) : scores;
  const { temperature = 1, unsure_below: least = null } = output.confidence ?? {};
  const classes = likeliest(softmax(logits.map((logit) => logit / temperature)));
  return {
    classes,
    unsure: least === null ? null : !(classes[0].probability >= least),  // NaN is unsure
    activation_map: asRows(found.activation_map),
    milliseconds: { decode: decoded - begin, network: end - decoded },
  };
}

function softmax(logits) {
  const most = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - most));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map((value) => value / sum);
}

function likeliest(probabilities) {
  const names = description.classes ?? probabilities.map((_, index) => String(index));
  return probabilities.map((probability, index) => ({ class: names[index], probability }))
    .sort((a, b) => b.probability - a.probability).slice(0, TOP_K);
}

function asRows({ data, dims: [, side] }) {
  return Array.from({ length: side }, (_, row) => [...data.slice(row * side, (row + 1) * side)]);
}
