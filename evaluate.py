"""Score a captioner on a split with free-running captions: greedy, beam search, or both.

    python evaluate.py --model runs/NAME --split test --beam-sizes 1,3,5
    python evaluate.py --model runs/NAME --split test --report             # and a page to look at, report.html
    python evaluate.py --model runs/NAME --split dev --protocol seed       # the one historical comparison
    python evaluate.py --model runs/A --model runs/B --output both         # an ensemble
    python evaluate.py --model runs/NAME --views 4 --output four-views     # an average of four looks at each image
    python evaluate.py --model runs/NAME --beam-sizes 20 --consensus       # the caption most like the others of its beam
    python evaluate.py --predictions FILE --split test                     # score captions from elsewhere
    python evaluate.py --compare FILE FILE --split test                    # do two captioners differ, or is it chance?
    python evaluate.py --compare "runs/a-*/FILE" "runs/b-*/FILE"           # several seeds of each

Writes, per beam size, the predictions in COCO's format (a list of image_id, file_name, caption, and cider: the CIDEr-D of
this caption) and all scores as JSON, and prints rows for a Markdown table. Of MS-COCO it writes the captions a second time
as COCO's own evaluation takes them, captions_val2014_NAME_results.json: image_id and caption alone, for COCO's image ids.
Each image is encoded once, and captions never see a reference. What papers and the table call CIDEr is CIDEr-D; see
metrics/__init__.py.
"""

import json
import re
import sys
import time
from collections.abc import Collection, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import add_views, make_parser, typed_settings
from captioning.command_line.resolving import refuse_idle_consensus, resolve_trained, settle_backend
from captioning.data.predictions import read_predictions
from captioning.data.records import CaptionDataset, ImageRecord
from captioning.features.looks import further_views
from captioning.metrics import java
from captioning.metrics import scores as metrics
from captioning.reports.tables import TITLES, blocked, markdown, score_cells
from config import Config, search_name
from preprocessing import load_dataset, prepare


def score(
    captions: list[str],
    records: list[ImageRecord],
    protocol: str,
    config: Config,
    training: Sequence[metrics.Caption] = (),
    tools: Collection[str] = (),
) -> tuple[dict[str, Any], np.ndarray]:
    """All scores of one caption per record, and the CIDEr-D of each caption, float64 (N,).

    ``training``: captions to tell novel ones from, if there are any. ``tools``: of ``java.TOOLS``, those to use as well.
    The ``seed`` protocol knows BLEU only.
    """
    split = java.tokenize if "tokenizer" in tools else lambda texts: [metrics.words(text) for text in texts]
    texts = iter(split([text for record in records for text in record.captions]))
    references = [[next(texts) for _ in record.captions] for record in records]
    found = split(captions)
    images = metrics.image_statistics(found, references)
    if protocol == "coco":
        result = metrics.summary(images)
        for name in ("meteor", "spice"):
            if name in tools:
                result[name] = getattr(java, name)(found, references)[0]
        control = metrics.summary(metrics.image_statistics(_shuffled(found), references))
        result |= {
            "tokenizer": "stanford" if "tokenizer" in tools else "text.py",
            "intervals": metrics.intervals(images),
            "shuffled_bleu": control["bleu"],
            "shuffled_cider_d": control["cider_d"],
            "cider_d_by_reference_length": metrics.by_reference_length(images[:, -1], found, references),
        }
    else:
        wanted = [record.captions for record in records]
        result = {
            "bleu": metrics.bleu(captions, wanted, protocol),
            "shuffled_bleu": metrics.bleu(_shuffled(captions), wanted, protocol),
        }
    result |= metrics.statistics(found, training or None)
    if config.dataset == "demo":
        from captioning.data import scenes as demo

        scenes = demo.load_scenes(Path(config.data_dir))
        names = [record.file_name for record in records]
        result["demo"] = demo.score(dict(zip(names, captions, strict=True)), scenes)
        result["shuffled_demo"] = demo.score(dict(zip(names, _shuffled(captions), strict=True)), scenes)
    return result, images[:, -1]


def _shuffled(captions: list) -> list:
    """Each image gets its neighbour's caption, with which a captioner that looks at the picture loses nearly all."""
    return [*captions[1:], *captions[:1]]


def table(rows: list[dict[str, Any]]) -> str:
    """The scores as a Markdown table, and below it what else gives a bad captioner away."""
    text = markdown([score_cells(row) for row in rows])
    for row in rows:
        text += f"\n{row['decoding']}: {_signs(row)}\n"
        if "demo" in row:
            shares = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in row["demo"].items())
            text += f"\n{row['decoding']}: {shares}; shuffled: all right {row['shuffled_demo']['all_right']:.1%}\n"
    return text


def _signs(row: dict[str, Any]) -> str:
    signs = [f"commonest caption {row['most_common']:.1%}", f"a word twice in a row {row['repeats']:.1%}"]
    for name in ("repeated_bigrams", "repeated_trigrams"):
        signs.append(f"{name.replace('_', ' ')} {row[name]:.1%}{blocked(row, name)}")
    if groups := row.get("cider_d_by_reference_length"):
        lengths = ", ".join(f"{group['score']:.1f} of {group['reference_length']:.1f} words" for group in groups)
        signs.append(f"CIDEr by length of the references {lengths}")
    if looks := row.get("attention"):
        signs.append(f"attention's entropy {looks['entropy']:.2f} of {looks['maximum_entropy']:.2f} bits")
    return "; ".join(signs)


def comparison(first: Sequence[list[str]], second: Sequence[list[str]], records: list[ImageRecord]) -> str:
    """How the second captions of ``records`` differ from the first, as a Markdown table.

    Each side is the captions of one captioner, or of as many as the other side that are alike but for their seed.
    """
    references = [[metrics.words(caption) for caption in record.captions] for record in records]
    a, b = (np.stack([metrics.image_statistics(captions, references) for captions in side]) for side in (first, second))

    def shown(row: dict[str, Any], side: int) -> str:
        score = f"{row['ab'[side]]:.2f}"
        return score if row["deviations"] is None else f"{score} ± {row['deviations'][side]:.2f}"

    text = markdown(
        [
            {
                "metric": TITLES[row["metric"]],
                "A": shown(row, 0),
                "B": shown(row, 1),
                "B - A": f"{row['difference']:+.2f}",
                "95% interval": "{:+.2f} to {:+.2f}".format(*row["interval"]),
                "p": f"{row['p']:.4f}",
            }
            for row in metrics.compare(a, b)
        ]
    )
    if len(first) > 1:
        text += f"\nMeans of {len(first)} seeds ± their standard deviation. Interval and p are about images, these seeds given.\n"
    return text


def _sides(patterns: Sequence[str]) -> list[list[Path]]:
    """The files of each side: the one of that name, or all that a pattern such as runs/mine-*/FILE names. Raises UserError."""
    sides = [[Path(name)] if Path(name).is_file() else [*map(Path, sorted(glob(name)))] for name in patterns]
    for pattern, side in zip(patterns, sides, strict=True):
        if not side:
            raise UserError(
                f"--compare: no file is named {pattern!r}; give a file, or a quoted pattern that names several"
            )
    if len(sides[0]) != len(sides[1]) or (len(sides[0]) > 1 and set(sides[0]) & set(sides[1])):
        raise UserError(
            f"--compare: {patterns[0]!r} names {len(sides[0])} files and {patterns[1]!r} {len(sides[1])}; give as many "
            "seeds on either side, and none on both"
        )
    return sides


def caption_split(captioner, records, stores, config: Config) -> tuple[list[str], float]:
    """The best caption of each record and the seconds that decoding took, compilation included.

    ``stores``: that of the captioner, or of an ensemble's members.
    """
    from captioning.features.batches import EnsembleBatches, FeatureBatches

    began = time.perf_counter()
    names = [record.file_name for record in records]
    batches = [FeatureBatches(store, names, config.decode_batch_size, config.workers) for store in stores]
    features = batches[0] if len(batches) == 1 else EnsembleBatches(batches)
    captions = [found[0].text for found in captioner.caption(features, config)[: len(records)]]
    return captions, time.perf_counter() - began


def attention_statistics(captioner, records, store, captions: list[str], config: Config) -> dict[str, float]:
    """How the decoder spreads its attention over the regions while it predicts the words of ``captions``.

    ``entropy``: bits per word, on average; ``maximum_entropy``: that of looking everywhere alike, log2 R. With a
    sentinel, that of the share that is left for the image, and ``image_share``: how much that is, on average.
    """
    from captioning.features.batches import FeatureBatches

    regions = captioner.decoder.sizes["regions"]
    features = FeatureBatches(store, [record.file_name for record in records], config.decode_batch_size, config.workers)
    captions = captions + captions[-1:] * (len(features.rows) - len(captions))  # as the last batch is filled up
    found = []
    for number in range(len(features)):
        batch = captions[number * features.batch_size :][: features.batch_size]
        found += captioner.attend(features[number][0], batch)
    weights = np.concatenate([weight[:-1] for weight in found[: len(records)]])  # without that of the end
    image = weights[:, :regions].sum(axis=1, keepdims=True)
    shares = weights[:, :regions] / np.maximum(image, 1e-12)
    result = {
        "entropy": float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1).mean()),
        "maximum_entropy": float(np.log2(regions)),
    }
    return result | ({"image_share": float(image.mean())} if weights.shape[1] > regions else {})


def main() -> None:
    parser = make_parser(__doc__, trained=True)
    parser.add_argument(
        "--model",
        metavar="RUN",
        action="append",
        help="a run folder or a captioner.zip; several, each after a --model of its own, decode as an ensemble",
    )
    parser.add_argument("--predictions", metavar="FILE", help="score this file instead of a model's captions")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="FILE",
        help="test whether the captions of two files differ in their scores; a quoted pattern names those of several seeds",
    )
    add_views(parser)
    parser.add_argument("--split", default="dev", help="train, dev or test [default: dev]")
    parser.add_argument("--beam-sizes", metavar="SIZES", help="comma-separated; 1 is greedy [default: 1 and beam_size]")
    parser.add_argument("--protocol", choices=metrics.PROTOCOLS, default="coco", help="see metrics/ [default: coco]")
    parser.add_argument(
        "--java",
        metavar="TOOLS",
        default="",
        help=f"Java programs to use as well, comma-separated: {', '.join(java.TOOLS)} (of Stanford, instead of ours)",
    )
    parser.add_argument("--report", action="store_true", help="write report.html too, a page that explains the scores")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write [default: evaluation/ in the run folder, or beside the predictions]",
    )
    args = parser.parse_args()
    if sum(map(bool, (args.model, args.predictions, args.compare))) != 1:
        raise UserError(
            "give either --model RUN, or --predictions FILE or --compare FILE FILE with the settings of their data set"
        )
    tools = [tool for tool in args.java.split(",") if tool]
    for tool in tools:
        if tool not in java.TOOLS:
            raise UserError(f"--java: there is no {tool!r}; choose from {', '.join(java.TOOLS)}")
        java.require(tool)
    if args.protocol == "seed" and (tools or args.compare):
        raise UserError("--protocol: seed knows BLEU by our words only; leave out --java and --compare, or take coco")
    if args.compare and (tools or args.output):
        raise UserError(
            "--compare: prints BLEU-4, ROUGE-L and CIDEr, and writes nothing; leave out --java and --output"
        )
    if args.report and (not args.model or args.protocol == "seed"):
        raise UserError("--report: shows the coco scores of a model; give --model RUN and leave out --protocol")
    if len(args.model or []) > 1 and (args.report or not args.output):
        raise UserError("--model: an ensemble has no run folder; name an --output, and leave out --report")
    if args.views > 1 and (args.report or not args.model or not args.output):
        raise UserError(
            "--views: captions of several views are no part of a run's own evaluation; give a --model, name an --output, "
            "and leave out --report"
        )
    typed = typed_settings(args)
    settle_backend(typed.get("backend"))

    if args.compare:
        sides = _sides(args.compare)
        records = load_dataset(Config().with_overrides(typed)).split(args.split)
        captions = [[read_predictions(path, records) for path in side] for side in sides]
        for letter, side in zip("AB", sides, strict=True):
            print(f"{letter}: {', '.join(map(str, side))}")
        print(f"{args.split}, {len(records)} images\n")
        print(comparison(*captions, records), end="")
        return
    if args.predictions:
        config = Config().with_overrides(typed)
        path = Path(args.predictions)
        dataset = load_dataset(config)
        records = dataset.split(args.split)
        captions = read_predictions(path, records)
        about = {"captioner": path.stem, "split": args.split, "protocol": args.protocol, "decoding": "as given"}
        scores, _ = score(captions, records, args.protocol, config, _training_captions(dataset), tools)
        rows = [about | scores]
        output = Path(args.output) if args.output else path.parent
    else:
        from captioning.base.environment import describe
        from captioning.storage.bundles import name_of
        from captioning.storage.runs import Run
        from model import load_captioners

        models = [Path(path) for path in args.model]
        captioner = load_captioners(models, args.views)
        config = resolve_trained(args, captioner.config)
        sizes = args.beam_sizes.split(",") if args.beam_sizes else sorted({1, config.beam_size})
        searches = [config.with_overrides({"beam_size": size}, "--beam-sizes") for size in sizes]
        refuse_idle_consensus(searches, "--beam-sizes")
        dataset = load_dataset(config)
        dataset.split(args.split)  # a wrong name shows before features are extracted
        prepared = [
            prepare(member.config.with_overrides(typed), dataset, member.encoder, split=args.split, looks=further_views(args.views))
            for member in captioner.members
        ]
        stores = [store for each in prepared for store in (each.store, *(view.store for view in each.views))]
        # An image that one member could not read is left out for all.
        records = [
            record for record in prepared[0].usable(args.split) if all(record.file_name in s.rows for s in stores)
        ]
        training = _training_captions(dataset)
        folders = [model if model.is_dir() else model.parent for model in models]
        output = Path(args.output) if args.output else folders[0] / "evaluation"
        name = " + ".join(map(name_of, models)) + (f", {args.views} views" if args.views > 1 else "")
        rows, predictions = [], []
        attended = next((search for search in searches if search.beam_size == 1), searches[0])
        for search in searches:
            captions, seconds = caption_split(captioner, records, stores, search)
            scores, cider = score(captions, records, args.protocol, config, training, tools)
            if search is attended and captioner.decoder.attends:
                scores["attention"] = attention_statistics(captioner, records, stores[0], captions, search)
            label = f"{args.split}-beam{search.beam_size}" + ("-consensus" if search.votes else "")
            _write_predictions(output, label, records, captions, cider)
            if subset := dataset.coco_subsets.get(records[0].split):
                _write_coco(output, subset, f"{name}-{label}", records, captions)
            predictions.append((captions, cider))
            rows.append(
                {
                    "captioner": name,
                    "split": args.split,
                    "protocol": args.protocol,
                    "decoding": search_name(search),
                    "views": args.views,
                    **scores,
                    "decoding_seconds": seconds,
                    "settings": search.model_dump() | {"consensus": search.votes},  # not of the greedy row beside it
                    "environment": describe(config.seed),
                }
            )
    text = table(rows)
    print(text, end="")
    name = f"scores-{args.split}-{args.protocol}"
    write(output / f"{name}.json", json.dumps(rows, indent=2) + "\n")
    write(output / f"{name}.md", text)
    if args.report:
        from captioning.reports.page import report

        page = report(rows, predictions, records, config, captioner.decoder.sizes, Run(folders[0]))
        write(output / "report.html", page)
    print(f"\nwritten to {output}", file=sys.stderr)


def _training_captions(dataset: CaptionDataset) -> list[list[str]]:
    """The words of all training captions; none where the data set has no such split."""
    captions = [caption for record in dataset.records if record.split == "train" for caption in record.captions]
    # Captions are many and their words are few: one copy of each word will do.
    return [list(map(sys.intern, metrics.words(caption))) for caption in captions]


def _write_predictions(
    output: Path, name: str, records: list[ImageRecord], captions: list[str], cider: np.ndarray
) -> None:
    entries = [
        {"image_id": record.image_id, "file_name": record.file_name, "caption": caption, "cider": round(score, 2)}
        for record, caption, score in zip(records, captions, cider.tolist(), strict=True)
    ]
    write(output / f"predictions-{name}.json", json.dumps(entries, indent=0, ensure_ascii=False) + "\n")


def _write_coco(output: Path, subset: str, name: str, records: list[ImageRecord], captions: list[str]) -> None:
    """Write what COCO's evaluation server takes; ``subset`` is the official one that the images are of."""
    entries = [
        {"image_id": record.image_id, "caption": caption} for record, caption in zip(records, captions, strict=True)
    ]
    name = re.sub(r"[^\w.-]+", "-", name)
    write(output / f"captions_{subset}_{name}_results.json", json.dumps(entries) + "\n")


if __name__ == "__main__":
    run_script(main)
