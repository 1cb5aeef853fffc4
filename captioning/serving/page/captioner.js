// A captioner whose ONNX graphs onnxruntime-web runs. captioning/exports/graphs.py describes them, and
// captioning/serving/engine.py does the same on the server. The answers have the form of POST /api/captions.

import { idsOf, join, spell, starting } from "./words.js";

const IMPOSSIBLE = -5e8;   // log-probability of what fills the beam where a search finds fewer captions
const OPEN = new Set(["beam_size", "length_penalty", "min_length", "looked", "given"]);  // inputs with defaults

export class Captioner {
  // ort: onnxruntime-web. files: the export by file name; the graphs as Uint8Arrays, the others as objects.
  static async open(ort, files) {
    const made = new Captioner();
    made.ort = ort;
    made.about = files["export.json"];
    made.vocabulary = files["vocabulary.json"];
    // Other than ONNX Runtime elsewhere, onnxruntime-web takes no input that has a default.
    requireInputs(files["search.onnx"], OPEN);
    // More optimisation would take longer than it saves here.
    const open = (graph, arena) => ort.InferenceSession.create(graph, {
      executionProviders: ["wasm"], graphOptimizationLevel: "basic", enableCpuMemArena: arena, logSeverityLevel: 3,
    });
    made.encoder = await open(files["encoder.onnx"], true);
    made.search = await open(files["search.onnx"], false);
    return made;
  }

  async close() {
    await this.encoder.release();
    await this.search.release();
  }

  // The features of a picture. pixels: size * size * 3 bytes, RGB.
  async encode(pixels) {
    const size = this.about.image_size;
    const picture = new this.ort.Tensor("uint8", pixels, [1, size, size, 3]);
    return (await this.encoder.run({ pixels: picture })).features;
  }

  // The greedy caption and those of the beam, best first. settings: beam_size, length_penalty, min_length, attention.
  async caption(features, settings) {
    const side = Math.sqrt(this.about.regions);
    const looks = settings.attention && this.about.attends && Number.isInteger(side);
    const alone = { ...settings, beam_size: 1 };
    const beam = settings.beam_size > 1 ? captionsIn(await this.run(features, settings)) : null;
    // The graph cannot show attention without a search. So the greedy one also shows that of the beam.
    const found = await this.run(features, alone, looks && beam ? beam : []);
    const [greedy] = captionsIn(found);
    const captions = beam ?? [greedy];
    if (looks) {
      if (beam) this.addAttention(beam, found.attention, side);
      const same = captions.find(({ attention, ids }) => attention && `${ids}` === `${greedy.ids}`);
      if (same) greedy.attention = same.attention;
      else this.addAttention([greedy], (await this.run(features, alone, [greedy])).attention, side);
    }
    return { greedy: this.answer(greedy), captions: captions.map((each) => this.answer(each)) };
  }

  async run(features, { beam_size, length_penalty, min_length }, looked = []) {
    const { Tensor } = this.ort;
    const inputs = {
      features,
      beam_size: new Tensor("int32", Int32Array.of(beam_size), []),
      length_penalty: new Tensor("float32", Float32Array.of(length_penalty), []),
      min_length: new Tensor("int32", Int32Array.of(min_length), []),
    };
    if (this.about.attends) {
      const [rows, width] = [looked.length, Math.max(0, ...looked.map(({ ids }) => ids.length + 1))];
      const given = new Int32Array(rows * width);
      looked.forEach(({ ids }, i) => given.set([starting, ...ids], i * width));
      const again = new features.data.constructor(rows * features.data.length);
      looked.forEach((_, i) => again.set(features.data, i * features.data.length));
      inputs.looked = new Tensor(features.type, again, [rows, ...features.dims.slice(1)]);
      inputs.given = new Tensor("int32", given, [rows, width]);
    }
    return this.search.run(inputs);
  }

  // Adds the attention to captions. weights (captions, tokens, regions). Words of several pieces get their mean.
  addAttention(captions, weights, side) {
    const [, width, regions] = weights.dims;
    captions.forEach((caption, i) => {
      const attention = { words: [], side, weights: [] };
      const sentinel = [];
      let at = i * width;
      for (const { text, ids } of spell(caption.ids, this.vocabulary)) {
        const shares = Array(regions).fill(0);
        for (let k = 0; k < ids; k++, at++) {
          for (let region = 0; region < regions; region++) shares[region] += weights.data[at * regions + region] / ids;
        }
        attention.words.push(text);
        attention.weights.push(shares.slice(0, side * side).map((share) => rounded(share, 5)));
        if (regions > side * side) sentinel.push(rounded(shares[side * side], 5));
      }
      caption.attention = sentinel.length ? { ...attention, sentinel } : attention;
    });
  }

  answer({ ids, log_prob, score, confidence, attention }) {
    const words = spell(ids, this.vocabulary).map(({ text }) => text);
    return {
      caption: join(words, this.vocabulary.splitting),
      log_prob,
      score,
      ...(confidence === undefined ? {} : {
        confidence: rounded(confidence, 4), unsure: confidence < this.about.unsure_below,
      }),
      ...(attention ? { attention } : {}),
    };
  }
}

// The captions that a search found for one picture, without those that only fill the beam.
function captionsIn({ tokens, log_probs, scores, confidence }) {
  const [, beams, length] = tokens.dims;
  const found = Array.from({ length: beams }, (_, k) => ({
    ids: idsOf(tokens.data.slice(k * length, (k + 1) * length)),
    log_prob: log_probs.data[k],
    score: scores.data[k],
    confidence: confidence?.data[k],
  }));
  return found.filter(({ log_prob }, k) => !k || log_prob > IMPOSSIBLE);
}

const rounded = (value, digits) => Math.round(value * 10 ** digits) / 10 ** digits;

// Takes the defaults from inputs of an ONNX graph, which must then be given. The defaults are initializers of the same
// name, so another first letter separates them. The bytes of the file (onnx.proto) are changed where they are.
export function requireInputs(file, names) {
  const [GRAPH, INITIALIZER, NAME] = [7, 5, 8];  // ModelProto.graph, GraphProto.initializer, TensorProto.name
  const text = new TextDecoder();
  for (const graph of fieldsOf(file, 0, file.length, GRAPH)) {
    for (const initializer of fieldsOf(file, ...graph, INITIALIZER)) {
      for (const [start, stop] of fieldsOf(file, ...initializer, NAME)) {
        if (names.has(text.decode(file.subarray(start, stop)))) file[start] = "_".charCodeAt(0);
      }
    }
  }
}

// Where the fields of this number in a protocol buffer message start and stop, of those that have a length
// (https://protobuf.dev/programming-guides/encoding/).
function* fieldsOf(bytes, at, end, wanted) {
  const varint = () => {
    let [value, place] = [0, 1];
    for (; bytes[at] & 128; place *= 128) value += (bytes[at++] & 127) * place;
    return value + bytes[at++] * place;
  };
  while (at < end) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === 0) varint();
    else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4;
    else {
      const length = varint();
      if (Math.floor(tag / 8) === wanted) yield [at, at + length];
      at += length;
    }
  }
}
