// Captions made in this browser. The work is done in captioning_worker.js, so that the page stays quick.

const waiting = new Map();  // id to {resolve, reject}
let worker;
let broken;                // the error of a browser that cannot run the worker
let last = 0;

// Starts. tell: called with a sentence about how far the captioner is.
export function startHere(tell) {
  worker = new Worker(new URL("captioning_worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, answer, problem, loaded, total } }) => {
    if (id === undefined) return tell(`Loading the captioner: ${inMegabytes(loaded)} of ${inMegabytes(total)} MB.`);
    const asked = waiting.get(id);
    waiting.delete(id);
    if (problem) asked?.reject(Object.assign(new Error(problem.message), { code: problem.code }));
    else asked?.resolve(answer);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    broken = Object.assign(new Error("This browser cannot run the captioner. Take a newer one."), { code: "model" });
    waiting.forEach(({ reject }) => reject(broken));
    waiting.clear();
  };
}

// Opens a captioner, known by its place in GET /api/models. Rejects with an error that says why it cannot be opened.
export const openHere = (model) => ask({ model });

// The captions of a picture, with the fields "greedy" and "captions" of POST /api/captions. picture: a number of the
// file, by which it is known again. Rejects with an error that has a code, or with what signal was aborted with.
export const captionHere = (model, picture, file, settings, signal) => ask({ model, picture, file, settings }, signal);

function ask(task, signal) {
  if (broken) return Promise.reject(broken);
  const id = ++last;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    signal?.addEventListener("abort", () => {
      if (!waiting.delete(id)) return;
      worker.postMessage({ id, cancel: true });
      reject(signal.reason);
    });
    worker.postMessage({ id, task });
  });
}

const inMegabytes = (bytes) => Math.round(bytes / 1e6);
