const list = document.getElementById("all"), more = document.getElementById("more"), form = document.forms[0];
const textOf = (card, part) => " " + [...card.querySelectorAll("." + part)].map((e) => e.textContent).join(" ").toLowerCase();
const cards = [...list.children].map((card) => ({
  card, scores: card.dataset.cider.split(" ").map(Number), p: textOf(card, "p"), r: textOf(card, "r"),
}));
const STEP = 24;
let limit = STEP;

function show() {
  const { decoding, where, order, low, high } = form, by = +decoding.value, parts = where.value.split(" ");
  const from = low.value === "" ? -Infinity : +low.value, to = high.value === "" ? Infinity : +high.value;
  const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = cards.filter(({ scores, ...text }) => scores[by] >= from && scores[by] <= to
    && words.every((word) => parts.some((part) => text[part].includes(" " + word))));
  found.sort((a, b) => (a.scores[by] - b.scores[by]) * +order.value);
  cards.forEach(({ card }) => { card.hidden = true; });
  found.slice(0, limit).forEach(({ card }) => { card.hidden = false; list.append(card); });
  form.count.value = `${found.length} of ${cards.length} match`;
  more.hidden = found.length <= limit;
}
form.addEventListener("input", () => { limit = STEP; show(); });
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => { limit += STEP; show(); });
show();
