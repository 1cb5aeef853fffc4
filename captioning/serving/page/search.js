// The search box over the photos of a folder, and the dialog that shows one of them large.

const LIMIT = 24;          // photos that a search shows
const TRIES = 6;           // tries when the server is busy
const POLL = 1000;         // milliseconds between two looks at the index while it is made

const $ = (id) => document.getElementById(id);
let found = [];            // {photo, name, caption, button, image}, in the order on the page
let shown = -1;            // the index in found of the photo in the dialog
let query = "";            // the query that found the photos on the page
let search = new AbortController();  // aborted when another search begins
let polling = false;

export function startSearch(folder) {
  $("photos-title").textContent = `Search the photos in ${folder}`;
  $("photos").hidden = false;
  $("search").addEventListener("submit", (event) => { event.preventDefault(); ask($("query").value.trim()); });
  $("photos-found").addEventListener("keydown", walk);
  const viewer = $("viewer");
  viewer.querySelector(".back").addEventListener("click", () => show(shown - 1));
  viewer.querySelector(".on").addEventListener("click", () => show(shown + 1));
  viewer.querySelector(".close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: found.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
  viewer.addEventListener("close", () => focusOn(shown));
  viewer.querySelector("img").addEventListener("error", ({ target }) => {
    if (target.getAttribute("src")) target.alt = "This photo cannot be shown. It may have been moved or deleted.";
  });
  watch();
}

// The index

async function watch() {
  if (polling) return;
  polling = true;
  for (;;) {
    try {
      const response = await fetch("api/photos");
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error.message);
      tell(answer);
      if (answer.state === "ready" || answer.state === "failed") break;
    } catch (error) {
      note("index-note", inWords(error), true);
      break;
    }
    await new Promise((resolve) => { setTimeout(resolve, POLL); });
  }
  polling = false;
}

function tell({ state, indexed, total, unreadable, message }) {
  const number = (count) => count.toLocaleString("en");
  const left = unreadable ? ` ${number(unreadable)} of them cannot be read.` : "";
  note("index-note", {
    loading: "Getting ready …",
    indexing: `${number(indexed)} of ${number(total)} photos can be searched so far.${left}`,
    ready: `${number(total)} ${total === 1 ? "photo" : "photos"}, searched on the machine that runs this page.${left}`,
    failed: message,
  }[state], state === "failed");
  const bar = $("index-bar");
  bar.hidden = state === "ready" || state === "failed";
  if (state === "indexing") [bar.max, bar.value] = [total, indexed];
  else bar.removeAttribute("value");
}

function note(id, text, problem = false) {
  if ($(id).textContent !== text) $(id).textContent = text;
  $(id).classList.toggle("problem", problem);
}

const inWords = (error) => (
  error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message
);

// A search

async function ask(text) {
  if (!text) return note("search-note", "Type what the photos should show, such as: two dogs in the snow.");
  search.abort();
  search = new AbortController();
  const { signal } = search;
  const list = $("photos-found");
  list.setAttribute("aria-busy", "true");
  note("search-note", "Searching …");
  try {
    const answer = await get(`api/search?${new URLSearchParams({ query: text, limit: LIMIT })}`, signal);
    query = answer.query;
    found = answer.results.map(makePhoto);
    list.replaceChildren(...found.map(({ item }) => item));
    found.forEach(({ button }, i) => { button.tabIndex = i ? -1 : 0; });
    tell(answer.photos);
    note("search-note", summary(answer));
    if (answer.photos.state !== "ready") watch();
    list.removeAttribute("aria-busy");
    await describe(found, signal);
  } catch (error) {
    if (signal.aborted) return;
    found = [];
    list.replaceChildren();
    note("search-note", inWords(error), true);
  } finally {
    if (!signal.aborted) list.removeAttribute("aria-busy");
  }
}

function summary({ results, unknown_words: unknown, searched, photos }) {
  const all = results.length === searched ? `All ${results.length} photos, best first,` : `The best ${results.length} photos`;
  const count = results.length === 1 ? "1 photo" : all;
  const parts = [results.length ? `${count} for “${query}”.` : "No photos were found."];
  if (unknown.length) parts.push(`Unknown words were left out: ${unknown.join(", ")}.`);
  if (photos.state === "indexing") {
    const [total, done] = [photos.total, searched].map((count) => count.toLocaleString("en"));
    parts.push(`${done} of ${total} photos were searched. Search again for the others.`);
  }
  return parts.join(" ");
}

async function get(address, signal) {
  for (let tries = 1; ; tries++) {
    const response = await fetch(address, { signal });
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 503 || tries === TRIES) throw new Error(answer.error.message);
    await new Promise((resolve) => {
      setTimeout(resolve, 1000 * (Number(response.headers.get("retry-after")) || 1));
      signal.addEventListener("abort", resolve, { once: true });
    });
    signal.throwIfAborted();
  }
}

function makePhoto({ photo, name }, i) {
  const item = $("photo").content.firstElementChild.cloneNode(true);
  const [button, image] = [item.querySelector("button"), item.querySelector("img")];
  const entry = { photo, name, caption: "", item, button, image };
  image.alt = `Photo ${i + 1} for “${query}”:`;
  image.src = `api/photos/${photo}`;
  image.addEventListener("error", () => { image.alt = "No preview:"; });
  item.querySelector(".name").textContent = name;
  button.title = name;
  button.addEventListener("click", () => { show(i); $("viewer").showModal(); });
  return entry;
}

async function describe(photos, signal) {  // captions become the alternative texts of the pictures, best first
  for (const entry of photos) {
    try {
      entry.caption = (await get(`api/photos/${entry.photo}/caption`, signal)).caption;
      entry.image.alt = `${entry.caption}.`;
      if (found[shown] === entry) showCaption(entry);
    } catch {  // a photo without a caption keeps the text that it has
      if (signal.aborted) return;
    }
  }
}

function walk(event) {
  const here = found.findIndex(({ button }) => button === event.target);
  const top = found[0]?.button.offsetTop;
  const columns = found.filter(({ button }) => button.offsetTop === top).length;
  const to = {
    ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + columns, ArrowUp: here - columns, Home: 0, End: found.length - 1,
  }[event.key];
  if (here < 0 || to === undefined) return;
  event.preventDefault();
  focusOn(to);
}

function focusOn(place) {
  if (!found[place]) return;
  found.forEach(({ button }, i) => { button.tabIndex = i === place ? 0 : -1; });
  found[place].button.focus();
}

// One photo, large

function show(place) {
  const entry = found[place];
  if (!entry) return;
  shown = place;
  const viewer = $("viewer");
  const image = viewer.querySelector("img");
  image.removeAttribute("src");  // hides the last photo while this one loads
  image.src = `api/photos/${entry.photo}?size=large`;
  $("viewer-name").textContent = entry.name;
  viewer.querySelector(".place").textContent = `${place + 1} of ${found.length} for “${query}”`;
  showCaption(entry);
  const focused = document.activeElement;
  viewer.querySelector(".back").disabled = place === 0;
  viewer.querySelector(".on").disabled = place === found.length - 1;
  if (focused.disabled) viewer.querySelector(".close").focus();  // so that the keys still reach the dialog
}

function showCaption({ caption, name }) {
  $("viewer").querySelector(".caption").textContent = caption;
  $("viewer").querySelector("img").alt = caption || name;
}
