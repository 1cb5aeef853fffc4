// The thread of the page that captions in the browser. One captioner is open at a time, and pictures come one by one.
//
//   in     {id, task: {model, picture, file, settings}}   caption a picture; without a file, only open the captioner
//          {id, cancel: true}                             leave out what has not begun
//   out    {id, answer} or {id, problem: {code, message}}
//          {loaded, total}                                bytes of the captioner that have come

import { Captioner } from "./captioner.js";
import { pixelsOf } from "./pixels.js";

const KEPT = 64;           // pictures whose features are kept, so that other settings need no encoder
const FILES = ["export.json", "vocabulary.json", "encoder.onnx", "search.onnx"];

const at = (path) => new URL(path, import.meta.url).href;
const waiting = [];
const features = new Map();  // by model and picture
let open;                  // {model, captioner}: the captioner of which model, as a promise
let busy = false;

self.onmessage = async ({ data: { id, cancel, task } }) => {
  if (cancel) {
    const place = waiting.findIndex((each) => each.id === id);
    if (place >= 0) waiting.splice(place, 1);
    return;
  }
  waiting.push({ id, task });
  if (busy) return;
  busy = true;
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    try {
      self.postMessage({ id: next.id, answer: await done(next.task) });
    } catch (error) {
      self.postMessage({ id: next.id, problem: { code: error.code ?? "model", message: error.message } });
    }
  }
  busy = false;
};

async function done({ model, picture, file, settings }) {
  const captioner = await opened(model);
  if (!file) return null;
  return captioner.caption(await featuresOf(captioner, model, picture, file), settings);
}

async function featuresOf(captioner, model, picture, file) {
  const key = `${model} ${picture}`;
  if (!features.has(key)) {
    let pixels;
    try {
      pixels = await pixelsOf(file, captioner.about.image_size);
    } catch {
      throw problem("unreadable", "this browser cannot read it as a picture; take a JPEG, PNG, WebP, GIF or BMP");
    }
    features.set(key, await captioner.encode(pixels));
    if (features.size > KEPT) features.delete(features.keys().next().value);
  }
  return features.get(key);
}

async function opened(model) {
  if (open?.model !== model) {
    const before = open?.captioner;
    open = { model, captioner: before ? before.then((captioner) => captioner.close()).then(() => load(model)) : load(model) };
  }
  try {
    return await open.captioner;
  } catch (error) {
    open = null;  // the next picture tries again
    throw problem("model", `The captioner could not be loaded into this browser: ${error.message}`);
  }
}

async function load(model) {
  if (typeof WebAssembly !== "object") throw new Error("it has no WebAssembly; take a newer one");
  const ort = await import(at("browser/runtime/ort.wasm.min.mjs"));
  ort.env.wasm.wasmPaths = at("browser/runtime/");
  // Without isolation, which needs HTTPS or this very machine, browsers offer one thread.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  const came = { loaded: 0, total: 0 };
  const files = await Promise.all(FILES.map((name) => fetched(at(`browser/models/${model}/${name}`), came)));
  const read = (name, file) => (name.endsWith(".json") ? JSON.parse(new TextDecoder().decode(file)) : file);
  return Captioner.open(ort, Object.fromEntries(FILES.map((name, i) => [name, read(name, files[i])])));
}

// The bytes of a file of the server. came: counts what has come of all files.
async function fetched(address, came) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`the server answers ${response.status}; is it still the same one?`);
  came.total += Number(response.headers.get("content-length"));
  const parts = [];
  let length = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done: ended, value } = await reader.read();
    if (ended) break;
    parts.push(value);
    length += value.length;
    came.loaded += value.length;
    self.postMessage({ ...came });
  }
  const whole = new Uint8Array(length);
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

const problem = (code, message) => Object.assign(new Error(message), { code });
