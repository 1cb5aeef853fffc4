// The page: pictures in, captions out. Plain JavaScript, without libraries. It loads nothing from other servers.

import { captionHere, openHere, startHere } from "./in_browser.js";
import { startSearch } from "./search.js";

const AT_ONCE = 4;         // uploads at a time; the server captions them together
const TRIES = 6;           // tries when the server is busy
const STEP = 700;          // milliseconds for each word when the words are shown one after another

const $ = (id) => document.getElementById(id);
const entries = [];        // {number, file, url, card, answer, abort, refused}, in the order on the page
const waiting = [];        // the entries that wait for their turn
let running = 0;
let taken = 0;             // pictures so far
let about;                 // what GET /api/models says

start();

async function start() {
  try {
    about = await (await fetch("api/models")).json();
  } catch {
    $("status").textContent = "The server does not answer. Is it still running?";
    return;
  }
  $("files").accept = $("capture").accept = about.limits.formats.map((name) => `image/${name.toLowerCase()}`).join(",");
  $("limits").textContent = about.in_browser
    ? "Any number at once. They are captioned in this browser, on your device. They are sent nowhere."
    : `Up to ${about.limits.bytes >> 20} MiB each, any number at once. They are captioned on the machine that runs this `
      + "page. They are not stored.";
  $("beam").max = about.limits.beam_size;
  $("model").append(...about.models.map(({ name }) => new Option(name, name)));
  $("model-row").hidden = about.models.length < 2;
  takeDefaults();
  if (about.in_browser) startHere((text) => { $("loading").textContent = text; });
  loadHere();
  if (about.photos) startSearch(about.photos);

  $("model").addEventListener("change", () => { takeDefaults(); loadHere(); captionAll(); });
  for (const id of ["beam", "penalty"]) {
    $(id).addEventListener("input", showValues);
    $(id).addEventListener("change", captionAll);
  }
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("choose").addEventListener("click", () => $("files").click());
  $("photograph").addEventListener("click", photograph);
  for (const input of [$("files"), $("capture")]) {
    input.addEventListener("change", () => { add([...input.files]); input.value = ""; });
  }
  $("download-all").addEventListener("click", () => download(entries.filter((entry) => entry.answer), "captions.json"));
  $("remove-all").addEventListener("click", () => { [...entries].forEach(remove); $("choose").focus(); });
  document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add([...event.dataTransfer.files]);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") entries.forEach((entry) => look(entry, null)); });
  new ResizeObserver(() => entries.forEach(fit)).observe(document.body);
}

// Settings

const chosen = () => about.models.find(({ name }) => name === $("model").value);

// Loads the captioner while the visitor chooses a picture, if it runs in this browser.
async function loadHere() {
  if (!about.in_browser) return;
  $("loading").hidden = false;
  $("loading").textContent = "Loading the captioner.";
  try {
    await openHere(about.models.indexOf(chosen()));
    $("loading").textContent = "The captioner is ready.";
  } catch (error) {
    $("loading").textContent = error.message;
  }
}

function takeDefaults() {
  const model = chosen();
  $("beam").value = model.beam_size;
  $("penalty").max = Math.max(2, model.length_penalty);
  $("penalty").value = model.length_penalty;
  $("model-note").textContent = `${model.decoder} over ${model.encoder}`
    + (model.attention ? "" : "; it has no attention to show");
  showValues();
}

function showValues() {
  $("beam-value").textContent = $("beam").value;
  $("penalty-value").textContent = Number($("penalty").value).toFixed(1);
  $("beam").setAttribute("aria-valuetext", $("beam").value === "1" ? "1, greedy only" : $("beam").value);
}

// Pictures in

function add(files) {
  const made = files.map(makeEntry);
  entries.unshift(...made);
  $("results").prepend(...made.map(({ card }) => card));
  made.forEach(caption);
  tell();
}

function makeEntry(file) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const entry = { number: ++taken, file, card, url: URL.createObjectURL(file), name: file.name || "picture", refused: false };
  const image = card.querySelector("img");
  image.addEventListener("error", () => card.querySelector(".picture").classList.add("unseeable"));
  image.addEventListener("load", () => fit(entry));
  image.addEventListener("click", () => look(entry, null));
  image.src = entry.url;
  card.querySelector("h3").textContent = entry.name;
  card.querySelector(".remove").setAttribute("aria-label", `Remove ${entry.name}`);
  card.querySelector(".download").setAttribute("aria-label", `Download JSON of ${entry.name}`);
  playLabel(entry, "Word by word");
  card.querySelector(".remove").addEventListener("click", () => {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    remove(entry);
    (next?.querySelector(".remove") ?? $("choose")).focus();
  });
  card.querySelector(".download").addEventListener("click", () => download([entry], `${entry.name}.json`));
  card.querySelector(".again").addEventListener("click", () => caption(entry));
  card.querySelector(".play").addEventListener("click", () => play(entry));
  return entry;
}

function remove(entry) {
  entry.abort?.abort();
  clearInterval(entry.player);
  entries.splice(entries.indexOf(entry), 1);
  entry.card.remove();
  URL.revokeObjectURL(entry.url);
  tell();
}

async function photograph() {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices?.getUserMedia) {
    $("capture").click();  // opens the camera of the phone
    return;
  }
  const dialog = $("camera");
  const video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  } catch (error) {
    $("status").textContent = error.name === "NotAllowedError"
      ? "The browser may not use the camera. Allow it, or choose a picture."
      : "No camera was found. Choose a picture instead.";
    return;
  }
  video.srcObject = stream;
  $("cancel").onclick = () => dialog.close();
  $("shoot").onclick = () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }).then((blob) => {
      add([new File([blob], `photo ${new Date().toLocaleTimeString()}.jpg`, { type: "image/jpeg" })]);
      dialog.close();
    });
  };
  dialog.onclose = () => stream.getTracks().forEach((track) => track.stop());
  dialog.showModal();
}

// Captions out

const captionAll = () => entries.filter(({ refused }) => !refused).forEach(caption);

function caption(entry) {
  entry.abort?.abort();
  entry.abort = new AbortController();
  entry.card.setAttribute("aria-busy", "true");
  state(entry, entry.answer ? "" : "waiting for its caption …");
  if (!waiting.includes(entry)) waiting.push(entry);
  next();
  tell();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    const entry = waiting.shift();
    if (!entries.includes(entry)) continue;
    running += 1;
    ask(entry, entry.abort.signal, about.in_browser ? here : sent).finally(() => { running -= 1; next(); tell(); });
  }
}

// Shows the captions of a picture, or why there are none. answerTo: here or sent.
async function ask(entry, signal, answerTo) {
  try {
    const answer = await answerTo(entry, signal);
    signal.throwIfAborted();
    show(entry, answer);
  } catch (error) {
    if (signal.aborted) return;
    // Other settings do not help with these errors.
    entry.refused = ["too_large", "wrong_type", "unreadable"].includes(error.code);
    entry.answer = null;
    entry.card.querySelector(".found").replaceChildren();
    look(entry, null);
    const text = error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message;
    state(entry, text, true);
    announce(text);
  }
}

// The answer of this browser itself, in the form of the server's.
async function here(entry, signal) {
  const { name, attention, min_length, consensus } = chosen();
  const [beam_size, length_penalty] = [Number($("beam").value), Number($("penalty").value)];
  const settings = { beam_size, length_penalty, min_length, attention };
  try {
    const found = await captionHere(about.models.indexOf(chosen()), entry.number, entry.file, settings, signal);
    return { image: entry.name, model: name, beam_size, length_penalty, consensus: consensus && beam_size > 2, ...found };
  } catch (error) {
    if (error.code === "unreadable") error.message = `${entry.name}: ${error.message}`;
    throw error;
  }
}

// The answer of the server, to which the picture is sent.
async function sent(entry, signal) {
  const settings = new URLSearchParams({
    model: $("model").value, beam_size: $("beam").value, length_penalty: $("penalty").value, attention: chosen().attention,
  });
  const form = new FormData();
  form.append("image", entry.file, entry.name);
  const refusal = ({ code, message }) => Object.assign(new Error(message), { code });
  if (entry.file.size > about.limits.bytes) {
    const most = about.limits.bytes >> 20;
    throw refusal({ code: "too_large", message: `${entry.name}: more than ${most} MiB; send a smaller copy of the picture` });
  }
  for (let tries = 1; ; tries++) {
    const response = await fetch(`api/captions?${settings}`, { method: "POST", body: form, signal });
    const answer = await response.json().catch(() => ({  // a proxy may say in its own way what is wrong
      error: { code: "proxy", message: `a proxy before the server answers ${response.status}; try again later` },
    }));
    if (response.ok && !answer.error) return answer;
    if (![429, 503].includes(response.status) || tries === TRIES) throw refusal(answer.error);
    state(entry, "the server is busy; waiting …");
    await new Promise((resolve) => {
      setTimeout(resolve, 1000 * (Number(response.headers.get("retry-after")) || 1));
      signal.addEventListener("abort", resolve, { once: true });
    });
    signal.throwIfAborted();
  }
}

function state(entry, text, problem = false) {
  const line = entry.card.querySelector(".state");
  line.textContent = text;
  line.classList.toggle("problem", problem);
  entry.card.querySelector(".again").hidden = !problem || entry.refused;
  if (problem) {
    entry.card.removeAttribute("aria-busy");
    entry.card.querySelector(".download").hidden = entry.card.querySelector(".play").hidden = true;
  }
}

function show(entry, answer) {
  stop(entry);
  look(entry, null);
  entry.answer = answer;
  entry.card.removeAttribute("aria-busy");
  state(entry, "");
  const best = answer.captions[0];
  entry.card.querySelector("img").alt = best.caption;
  const list = element("ol", { ariaLabel: `Captions of ${entry.name}, best first` });
  list.append(...answer.captions.map((found, i) => row(entry, found, i === 0, "li")));
  const parts = [group(list)];
  if (answer.beam_size > 1) {
    parts[0].prepend(heading(`Beam search, ${answer.captions.length} best`));
    parts.push(group(heading("Greedy"), row(entry, answer.greedy, false, "div")));
  }
  // What is damaged in a picture that was read all the same.
  parts.push(...(answer.notes ?? []).map((note) => element("p", { className: "note", textContent: note })));
  entry.card.querySelector(".found").replaceChildren(...parts);
  entry.card.querySelector(".download").hidden = false;
  entry.card.querySelector(".play").hidden = !best.attention;
  announce(`${entry.name}: ${best.caption} ${inPercent(best)}`.trim());
}

function row(entry, found, best, tag) {
  const line = element(tag, { className: best ? "caption best" : "caption" });
  const words = element(found.attention ? "div" : "p", { className: "words" });
  if (found.attention) {
    words.role = "group";
    words.ariaLabel = found.caption;
    let end = 0;  // words stand apart where the caption has a space
    for (const [i, word] of found.attention.words.entries()) {
      const start = found.caption.indexOf(word, end);
      words.append(i && start !== end ? " " : "", wordButton(entry, found, word, i));
      end = Math.max(start, end) + word.length;
    }
    words.addEventListener("keydown", walk);
  } else {
    words.textContent = found.caption;
  }
  const score = element("span", { className: "score", textContent: found.score.toFixed(2).replace("-", "−") });
  score.title = `score; the logarithm of the probability is ${found.log_prob.toFixed(2)}`;
  score.prepend(element("span", { className: "unseen", textContent: "score " }));
  const copy = element("button", { type: "button", className: "copy", textContent: "Copy", ariaLabel: `Copy: ${found.caption}` });
  copy.addEventListener("click", async () => {
    const done = await toClipboard(found.caption);
    copy.textContent = done ? "Copied" : "Not allowed";
    announce(copy.textContent);
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  if (found.confidence !== undefined) {
    const sure = element("span", { className: found.unsure ? "sure unsure" : "sure", textContent: inPercent(found) });
    sure.title = "confidence: the probability that the caption is right";
    sure.prepend(element("span", { className: "unseen", textContent: "confidence " }));
    score.prepend(sure, " ");
  }
  line.append(words, score, copy);
  return line;
}

function inPercent(found) {  // how sure the captioner is; empty if it has no confidence
  if (found.confidence === undefined) return "";
  return `${Math.round(100 * found.confidence)} %${found.unsure ? " (unsure)" : ""}`;
}

// Where the captioner looked

function wordButton(entry, found, word, i) {
  const button = element("button", { type: "button", textContent: word, tabIndex: i ? -1 : 0, ariaPressed: "false" });
  button.look = { attention: found.attention, i, button };
  let before;  // what was shown before the press, because a press gives focus first; a second press removes the shade
  button.addEventListener("pointerdown", () => { before = entry.look; });
  button.addEventListener("focus", () => { stop(entry); look(entry, button.look); });
  button.addEventListener("click", (event) => {
    stop(entry);
    const shown = event.detail ? before : entry.look;
    look(entry, shown === button.look ? null : button.look);
  });
  button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") draw(entry, button.look); });
  button.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") draw(entry, entry.look); });
  return button;
}

function walk(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const here = buttons.indexOf(event.target);
  const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || !buttons[to]) return;
  event.preventDefault();
  buttons[here].tabIndex = -1;
  buttons[to].tabIndex = 0;
  buttons[to].focus();
}

function look(entry, what) {
  entry.look?.button.setAttribute("aria-pressed", "false");
  entry.look = what;
  what?.button.setAttribute("aria-pressed", "true");
  draw(entry, what);
  entry.card.querySelector(".looks").textContent = what ? inWords(what) : "";
}

function draw(entry, what) {
  const canvas = entry.card.querySelector("canvas");
  canvas.hidden = !what;
  if (!what) return;
  const { side, weights } = what.attention;
  const most = Math.max(...weights.flat());
  const small = new OffscreenCanvas(side, side);
  const cells = new ImageData(side, side);
  weights[what.i].forEach((weight, k) => {
    const light = (weight / most) ** 0.7;
    const mix = (dark, bright) => dark + (bright - dark) * light;
    cells.data.set([mix(8, 255), mix(12, 196), mix(20, 92), 255 * mix(0.72, 0.08)], 4 * k);
  });
  small.getContext("2d").putImageData(cells, 0, 0);
  const image = entry.card.querySelector("img");
  const scale = Math.min(1, 640 / Math.max(image.naturalWidth, image.naturalHeight));
  canvas.width = Math.max(1, image.naturalWidth * scale);
  canvas.height = Math.max(1, image.naturalHeight * scale);
  canvas.getContext("2d").drawImage(small, 0, 0, canvas.width, canvas.height);  // smoothed between the cells
  fit(entry);
}

function fit(entry) {  // lays the shade exactly over the picture, without the bars beside a high picture
  const image = entry.card.querySelector("img");
  const scale = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  Object.assign(entry.card.querySelector("canvas").style, {
    left: `${image.offsetLeft + (image.clientWidth - width) / 2}px`,
    top: `${image.offsetTop + (image.clientHeight - height) / 2}px`,
    width: `${width}px`,
    height: `${height}px`,
  });
}

function inWords({ attention, i }) {
  const { side, weights, words, sentinel } = attention;
  const ninths = Array(9).fill(0);
  weights[i].forEach((weight, k) => {
    const [row, column] = [Math.floor(k / side), k % side];
    ninths[3 * Math.floor(3 * (row + 0.5) / side) + Math.floor(3 * (column + 0.5) / side)] += weight;
  });
  const place = ninths.indexOf(Math.max(...ninths));
  const name = [
    "in the upper left", "at the top", "in the upper right", "on the left", "in the middle", "on the right",
    "in the lower left", "at the bottom", "in the lower right",
  ][place];
  const percent = (share) => `${Math.round(100 * share)} %`;
  const away = sentinel ? `, and ${percent(sentinel[i])} not at the picture` : "";
  return `“${words[i]}”: ${percent(ninths[place])} ${name}${away}`;
}

function play(entry) {
  if (entry.player) return stop(entry);
  const buttons = [...entry.card.querySelectorAll(".best .words button")];
  let i = 0;
  const step = () => (i < buttons.length ? look(entry, buttons[i++].look) : stop(entry));
  entry.player = setInterval(step, STEP);
  playLabel(entry, "Stop");
  step();
}

function playLabel(entry, text) {
  const button = entry.card.querySelector(".play");
  button.textContent = text;
  button.setAttribute("aria-label", `${text}: ${entry.name}`);
}

function stop(entry) {
  if (!entry.player) return;
  clearInterval(entry.player);
  entry.player = null;
  playLabel(entry, "Word by word");
  look(entry, null);
}

// Small things

function tell() {
  const done = entries.filter(({ answer }) => answer).length;
  const busy = entries.filter(({ card }) => card.ariaBusy === "true").length;
  const count = `${entries.length} ${entries.length === 1 ? "picture" : "pictures"}`;
  $("status").textContent = !entries.length ? "" : busy ? `${count}, ${busy} still to be captioned` : count;
  $("all-actions").hidden = !entries.length;
  $("download-all").hidden = !done;
  $("empty").hidden = entries.length > 0;
}

function announce(text) {
  $("live").textContent = text;
}

function download(some, name) {
  const answers = some.map(({ answer }) => answer);
  const blob = new Blob([JSON.stringify(answers.length === 1 ? answers[0] : answers, null, 2)], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {  // on another machine the browser has no clipboard without https
    const field = element("textarea", { value: text, className: "unseen" });
    document.body.append(field);
    const before = document.activeElement;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    before?.focus();
    return done;
  }
}

function group(...parts) {
  const box = element("div", {});
  box.append(...parts);
  return box;
}

const heading = (text) => element("h4", { textContent: text });

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}
