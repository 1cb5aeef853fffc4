"""The tables of docs/models.md: every captioner that is scored, and captions of other systems, from results/.

    python tools/models_page.py
    python tools/models_page.py --count-weights --data-dir data/flickr8k    # anew: results/sizes.json

It rewrites what stands between its marks in the page, and nothing else. A test checks that this agrees with the files.
Weights are counted apart, because that needs Keras and the captions that a vocabulary comes from.
"""

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.json_files import load_json, read_json
from captioning.base.script import run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.reading import read_settings
from captioning.command_line.resolving import resolve
from captioning.reports.rows import ScoreRow, read_rows
from captioning.reports.tables import markdown
from captioning.storage.runs import Run
from config import PRESETS, Config, search_name
from tools.marked_pages import filled

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, SIZES = ROOT / "results", ROOT / "docs" / "models.md", ROOT / "results" / "sizes.json"
BEGIN, END = "<!-- tools/models_page.py writes from here -->\n", "<!-- to here -->\n"
_ADVICE = "put the file back from the repository"


@dataclass(frozen=True)
class Model:
    """A captioner of the page.

    ``folders``: its folders in results/, one for each seed. ``weakness``: where it falls short, with fields of its
    scores in braces. ``after``: the captioner that it went on from. ``bundle``: its file in pretrained/. ``members``:
    the folders of captioners of the same sizes as those of an ensemble.
    """

    name: str
    folders: tuple[str, ...]
    weakness: str
    after: str = ""
    bundle: str = ""
    members: tuple[str, ...] = ()
    decoding: str = ""  # the one of the table; that of the settings unless it is named


FLICKR8K = [
    Model("merge", ("flickr8k-merge",), "sees one vector of the picture; lowest CIDEr but for inject"),
    Model(
        "inject",
        ("flickr8k-inject",),
        "says the same of many pictures: {distinct:.0%} distinct captions, {vocabulary} words used",
    ),
    Model("adaptive, dropout 0.5", ("flickr8k-adaptive",), "was still learning when training ended"),
    Model("adaptive", ("flickr8k-adaptive-light",), "no better than attention"),
    Model("transformer, dropout 0.5", ("flickr8k-transformer",), "too much dropout for it"),
    Model(
        "transformer",
        ("flickr8k-transformer-light",),
        "no better than attention, and slow to train and to search",
    ),
    Model("attention", ("flickr8k-attention",), "encoder is frozen; {vocabulary} words used"),
    Model(
        "attention, self-critical",
        ("flickr8k-attention-scst",),
        "{vocabulary} words used, fewer than before that stage",
        after="attention",
    ),
    Model(
        "attention, four crops",
        ("flickr8k-attention-crops", "flickr8k-attention-crops-1", "flickr8k-attention-crops-2"),
        "the crops alone bring no CIDEr, and need more features on disk",
    ),
    Model(
        "attention, four crops, self-critical",
        ("flickr8k-attention-crops-scst",),
        "{distinct:.0%} distinct captions, {vocabulary} words used",
        after="attention, four crops",
    ),
    Model(
        "attention, fine-tuned",
        ("flickr8k-attention-tuned", "flickr8k-attention-tuned-1", "flickr8k-attention-tuned-2"),
        "two of its three seeds were trained on a GPU",
        after="attention, four crops",
    ),
    Model(
        "attention, fine-tuned, self-critical (seed 1)",
        ("flickr8k-attention-tuned-1-scst",),
        "one seed; {vocabulary} words used",
        after="attention, fine-tuned",
    ),
    Model("Lite0, self-critical", ("lite0-frozen",), "smaller encoder, frozen", after="preset flickr8k-lite0"),
    Model(
        "Lite0, six crops, self-critical",
        ("lite0-crops",),
        "hardly better than without crops",
        after="the same with crops",
    ),
    Model(
        "Lite0, fine-tuned",
        ("lite0-finetuned",),
        "below the captioner that it went on from",
        after="Lite0, self-critical",
    ),
    Model(
        "Lite0, fine-tuned, self-critical",
        ("lite0",),
        "everyday pictures: CIDEr 36.4 on people; {distinct:.0%} distinct captions",
        after="Lite0, fine-tuned",
    ),
    Model(
        "with COCO: pocket, fine-tuned, self-critical, visual concepts",
        ("flickr8k-transfer",),
        "learned from photographs of MS-COCO too; {vocabulary} words used",
        after="pocket without visual concepts, then fine-tuned and self-critical for 200 min more (its card)",
        bundle="flickr8k.zip",
    ),
    Model(
        "ensemble of two",
        ("ensemble-of-two",),
        "two captioners with two encoders to keep and run",
        members=("lite0", "flickr8k-attention-crops-scst"),
        decoding="beam 3",
    ),
    Model(
        "ensemble of four",
        ("ensemble",),
        "four captioners to run",
        members=("flickr8k-attention", "flickr8k-attention-scst", "lite0-frozen", "lite0-frozen"),
        decoding="beam 3",
    ),
    Model(
        "ensemble of four with fine-tuned ones",
        ("ensemble-tuned",),
        "four captioners to run",
        members=("lite0", *["flickr8k-attention-crops-scst"] * 3),
        decoding="beam 3",
    ),
    Model(
        "the same with four looks",
        ("ensemble-tuned/four-views",),
        "best without COCO, and the slowest: four captioners and four looks at each picture; {distinct:.0%} distinct captions",
        members=("lite0", *["flickr8k-attention-crops-scst"] * 3),
        decoding="beam 5",
    ),
    *(
        Model(f"word embeddings: {name}", tuple(f"words/{folder}-{seed}" for seed in range(seeds)), weakness)
        for name, folder, seeds, weakness in (
            ("learned", "learned", 3, "short recipe of six epochs on Lite0"),
            ("learned, untied", "untied", 2, "the same recipe; two seeds"),
            ("BERT's input vectors", "static", 3, "the same recipe; the gain may be chance"),
            ("BERT's states", "prefix", 3, "the same recipe; slow, as BERT reads each prefix"),
        )
    ),
]
EVERYDAY = [
    Model(
        "pocket (the default)",
        ("everyday",),
        "{chair_s:.1%} of its captions name an object that no reference names",
        after="pocket without visual concepts, then self-critical for 38 min and averaged (its card)",
        bundle="pocket.zip",
    ),
    Model(
        "pocket without self-critical training",
        ("everyday-concepts",),
        "{vocabulary} words used; it names no lion and no tools",
        after="pocket without visual concepts",
    ),
    Model(
        "pocket without visual concepts",
        ("everyday-tuned",),
        "{chair_s:.1%} of its captions name an object that no reference names",
        after="pocket before fine-tuning",
    ),
    Model(
        "pocket before fine-tuning",
        ("everyday-cross-entropy",),
        "{chair_s:.1%} of its captions name an object that no reference names",
    ),
]
DEMO = [Model("demo", ("demo",), "knows generated scenes only")]
OTHERS = (
    *("editnet-rl", "editnet-xe", "paddle-updown", "paddle-soft-attention"),
    *("magic", "zerocap", "clip-retrieval"),
)


def chosen(model: Model, folder: str) -> list[ScoreRow]:
    """The rows of scores on test of the table: of one decoding, one for each data set."""
    rows = read_rows(RESULTS / folder / "scores-test-coco.json")
    wanted = model.decoding or search_name(settings(folder))
    own = [row for row in rows if row.decoding == wanted and row.dataset != "together"]
    if not own:
        raise UserError(f"results/{folder}: has no scores of {wanted}; name another decoding in tools/models_page.py")
    return own


@cache
def settings(folder: str) -> Config:
    """The settings of a training."""
    path = RESULTS / folder / "config.json"
    return read_settings(path.read_text(encoding="utf-8"), str(path))


def cells(model: Model, test_set: str) -> list[dict[str, str]]:
    """The rows of the table for a captioner: one for each data set that it is scored on."""
    found = []
    for rows in zip(*(chosen(model, folder) for folder in model.folders), strict=True):
        first, ciders = rows[0], [row.coco.cider_d for row in rows]
        rates = [row.scores.diagnostics.captions / row.decoding_seconds for row in rows if row.decoding_seconds]
        low, high = first.coco.intervals.cider_d
        spread = f"± {stdev(ciders):.1f}, {len(rows)} seeds" if len(rows) > 1 else f"{low:.1f} to {high:.1f}"
        found.append(
            {
                "captioner": model.name,
                "training": training_time(model),
                "weights": weights(model),
                "captions/s": f"{mean(rates):.0f}" if len(rates) == len(rows) else "-",
                "test set": ", ".join(filter(None, (test_set, first.dataset))),
                "decoding": first.decoding,
                "BLEU-4": f"{mean(row.coco.bleu[3] for row in rows):.2f}",
                "CIDEr": f"{mean(ciders):.2f} ({spread})",
                "where it falls short": model.weakness.format_map(vars(first.scores.diagnostics)),
            }
        )
    return found


def training_time(model: Model) -> str:
    """How long the last stage of a captioner took, on average over its seeds, and where."""
    if model.members or not (RESULTS / model.folders[0] / "about.json").exists():
        return "none of its own"
    minutes: dict[str, list[float]] = {}
    for folder in model.folders:
        about = read_json(RESULTS / folder / "about.json", _ADVICE, dict)
        cpu = "Xeon" if "Xeon" in about["cpu"] else about["cpu"]
        place = "a GPU" if about["devices"][0].startswith("gpu") else f"{about['cores']} cores, {cpu}"
        seconds = sum(line["seconds"] for line in Run(RESULTS / folder).history())
        minutes.setdefault(place, []).append(seconds / 60)
    told = "; ".join(f"{mean(taken):.0f} min, {place}" for place, taken in minutes.items())
    return f"{told}; after {model.after}" if model.after else told


def weights(model: Model) -> str:
    """How many weights a captioner has in millions: decoder, and encoder; and the size of its bundle."""
    sizes = read_json(SIZES, "run tools/models_page.py --count-weights", dict)
    folders = model.members or model.folders[:1]
    known = [sizes.get(folder) for folder in folders]
    told = " + ".join(f"{(each['decoder'] + each['encoder']) / 1e6:.1f} M" for each in known if each)
    told = told if all(known) else ""
    file = f"{(ROOT / 'pretrained' / model.bundle).stat().st_size / 1e6:.1f} MB" if model.bundle else ""
    return ", ".join(filter(None, (told, file))) or "-"


def others() -> list[dict[str, str]]:
    """The rows of the systems of others."""
    found = []
    for name in OTHERS:
        source = load_json(RESULTS / "others" / name / "source.json", dict)
        (row,) = read_rows(RESULTS / "others" / name / "scores-all-coco.json")
        diagnostics, (low, high) = row.scores.diagnostics, row.coco.intervals.cider_d
        address = f"https://github.com/{source['repository']}/blob/{source['commit']}/{source['file']}"
        published = source["published"]
        found.append(
            {
                "system": f"[{source['system']}]({source['paper']})",
                "captions from": f"[{source['repository']}]({address})",
                "images": f"{source['images']:,}",
                "BLEU-4": f"{row.coco.bleu[3]:.2f}",
                "CIDEr": f"{row.coco.cider_d:.2f} ({low:.1f} to {high:.1f})",
                "their own figures": f"{published['bleu4']:.1f}, {published['cider']:.1f}" if published else "-",
                "CHAIRs": f"{diagnostics.chair_s:.1%}",
                "distinct": f"{diagnostics.distinct:.0%}",
                "words used": f"{diagnostics.vocabulary:,}",
            }
        )
    return found


def commands() -> str:
    """The command of each training, in the order of the tables."""
    text = ""
    for model in (*EVERYDAY, *FLICKR8K, *DEMO):
        told = []
        for folder in model.folders:
            path = RESULTS / folder / "about.json"
            if path.exists():
                told.append(f"python {read_json(path, _ADVICE, dict)['command']}")
            elif folder == model.folders[0]:
                told.append(f"python {chosen(model, folder)[0].environment['command']}")  # type: ignore[index]
        lines = dict.fromkeys(re.sub(r"/dev/shm/s/", "", line) for line in told)
        text += f"**{model.name}**\n\n```sh\n" + "".join(f"{line}\n" for line in lines) + "```\n\n"
    return text


def unscored() -> str:
    """The presets that nobody has scored yet."""
    return ", ".join(f"`{name}`" for name, preset in PRESETS.items() if preset.score == "not measured")


def written() -> list[str]:
    """What the tool writes between its marks, part by part, in the order of the page."""
    everyday = [row for model in EVERYDAY for row in cells(model, "everyday")]
    flickr8k = [row for model in FLICKR8K for row in cells(model, "Flickr8k")]
    demo = [row for model in DEMO for row in cells(model, "generated scenes")]
    return [
        markdown(everyday + flickr8k + demo),
        f"Presets without a score of their own so far: {unscored()}.\n",
        markdown(others()),
        commands(),
    ]


def page(text: str) -> str:
    """``text`` of the page with what the tool writes. Raises UserError, see ``filled``."""
    return filled(PAGE, text, (BEGIN, END), written())


def count_weights(config: Config) -> dict[str, dict[str, int]]:
    """The weights of decoder and encoder of each captioner, by folder. ``config`` names the data of Flickr8k."""
    from model import Captioner
    from preprocessing import fit_vocabulary, load_dataset

    dataset = load_dataset(config)
    pocket = Captioner.load(ROOT / "pretrained" / "pocket.zip")
    found = {}
    for model in (*EVERYDAY, *FLICKR8K):
        for folder in model.folders:
            if (RESULTS / folder / "config.json").exists() and (own := settings(folder)).embedding == "learned":
                vocabulary = pocket.vocabulary if model in EVERYDAY else fit_vocabulary(own, dataset)
                found[folder] = weights_of(own, len(vocabulary))
    detector = pocket.decoder.count_params() - found[EVERYDAY[1].folders[0]]["decoder"]
    found[EVERYDAY[0].folders[0]]["decoder"] += detector  # visual concepts
    return found


def weights_of(own: Config, words: int) -> dict[str, int]:
    """The weights of the encoder and the decoder of these settings, the latter for so many words."""
    import keras

    from captioning.decoders.build import build_decoder
    from captioning.features.encoder import build_encoder

    if own.encoder.startswith("efficientnet"):
        encoder = build_encoder(own)
    else:  # the ResNet50 that was used has as many weights as this one
        encoder = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(224, 224, 3))
    regions, size = encoder.output_shape[1:] if len(encoder.output_shape) == 3 else (49, encoder.output_shape[-1])
    decoder = build_decoder(own, words, 1 if own.feature_grid == 1 else regions, size)
    return {"decoder": decoder.count_params(), "encoder": encoder.count_params(), "words": words}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--count-weights", action="store_true", help="also count the weights of each captioner anew")
    args: Any = parser.parse_args()
    if not args.count_weights and (typed := typed_settings(args)):
        raise UserError(f"--{next(iter(typed)).replace('_', '-')}: is read only with --count-weights; leave it out")
    if args.count_weights:
        write(SIZES, json.dumps(count_weights(resolve(args)), indent=1) + "\n")
    write(PAGE, page(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run_script(main)
