// Word ids to captions, as captioning/words/vocabulary.py and splitting.py do it.

const [PAD, START, END] = [0, 1, 2];

// The scripts that are written without spaces between words. Those from Thai on have Unicode's line break class SA.
const UNSPACED = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Bopo}\p{sc=Thai}\p{sc=Laoo}\p{sc=Mymr}\p{sc=Khmr}\p{sc=Tale}\p{sc=Talu}\p{sc=Lana}\p{sc=Tavt}\p{sc=Ahom}ー]/u;
const KATAKANA = /[\p{sc=Kana}ー]/u;
const SUFFIXES = new Set(["'s", "n't", "'re", "'ll", "'ve", "'m", "'d"]);

export const starting = START;

// The ids of a caption, up to the first <end>.
export function idsOf(tokens) {
  const end = tokens.indexOf(END);
  return [...(end < 0 ? tokens : tokens.slice(0, end))].filter((id) => id !== PAD && id !== START);
}

// The words of a caption, each with the number of its ids: one, or with WordPieces one per piece.
export function spell(ids, vocabulary) {
  const found = [];
  for (const id of ids) {
    const word = vocabulary.words[id];
    const piece = vocabulary.wordpieces && word.startsWith("##");
    if (piece && found.length) {
      found.at(-1).text += word.slice(2);
      found.at(-1).ids += 1;
    } else {
      found.push({ text: piece ? word.slice(2) : word, ids: 1 });
    }
  }
  return found;
}

// The words as readable text.
export function join(words, splitting = "treebank") {
  if (splitting === "characters") return words.join("").trim().replace(/\s+/g, " ");
  const touch = splitting === "unicode" ? touching : (before, word) => SUFFIXES.has(word);
  return words.reduce((text, word, i) => text + (!i || touch(words[i - 1], word) ? "" : " ") + word, "");
}

function touching(before, word) {
  if (KATAKANA.test(before) && KATAKANA.test(word)) return false;
  return UNSPACED.test(before) || UNSPACED.test(word);
}
