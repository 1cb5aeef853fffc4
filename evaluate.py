"""Score a captioner on a split with free-running captions: greedy, beam search, or both.

    python evaluate.py --model runs/NAME --split test --beam-sizes 1,3,5
    python evaluate.py --model runs/NAME --split dev --protocol seed       # the one historical comparison
    python evaluate.py --predictions FILE --split test                     # score captions from elsewhere

Writes, per beam size, the predictions in COCO's format (a list of image_id, file_name, caption) and all scores as
JSON, and prints rows for a Markdown table. Each image is encoded once, and captions never see a reference.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import config as settings
import metrics
from config import Config, UserError
from datasets import ImageRecord
from feature_store import write_atomically
from preprocessing import load_dataset, prepare


def read_predictions(path: Path, records: list[ImageRecord]) -> list[str]:
    """The captions of a COCO-style file in the order of ``records``.

    Raises UserError when it is not such a file or its images are not exactly those of ``records``.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = {entry["image_id"]: entry["caption"] for entry in entries}
        if not isinstance(entries, list) or not all(isinstance(caption, str) for caption in found.values()):
            raise TypeError("not a list, or a caption that is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: expected a JSON list of {{"image_id": ..., "caption": ...}} ({error!r})') from None
    if len(found) != len(entries):
        twice = [image for image, count in Counter(entry["image_id"] for entry in entries).items() if count > 1]
        raise UserError(f"{path}: image {twice[0]} occurs twice; give one caption per image")
    wanted = {record.image_id for record in records}
    if set(found) != wanted:
        raise UserError(
            f"{path}: its images are not those of the split: {len(wanted - set(found))} missing, "
            f"{len(set(found) - wanted)} not in the split"
        )
    return [found[record.image_id] for record in records]


def score(captions: list[str], records: list[ImageRecord], protocol: str, config: Config) -> dict[str, Any]:
    """BLEU and statistics of one caption per record, and the same with the captions of other images as control."""
    references = [record.captions for record in records]
    # A captioner that looks at the picture loses nearly all when each image gets its neighbour's caption.
    shuffled = [*captions[1:], *captions[:1]]
    result = {
        "bleu": metrics.bleu(captions, references, protocol),
        "shuffled_bleu": metrics.bleu(shuffled, references, protocol),
        **metrics.statistics(captions),
    }
    if config.dataset == "demo":
        import demo

        scenes = demo.load_scenes(Path(config.data_dir))
        names = [record.file_name for record in records]
        result["demo"] = demo.score(dict(zip(names, captions, strict=True)), scenes)
        result["shuffled_demo"] = demo.score(dict(zip(names, shuffled, strict=True)), scenes)
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """The scores as a Markdown table."""
    lines = [
        "| captioner | split | images | protocol | decoding | B1 | B2 | B3 | B4 | shuffled B4 | distinct | words | dangling |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        scores = " | ".join(f"{value:.2f}" for value in row["bleu"])
        lines.append(
            f"| {row['captioner']} | {row['split']} | {row['captions']} | {row['protocol']} | {row['decoding']} | {scores} "
            f"| {row['shuffled_bleu'][3]:.2f} | {row['distinct']:.0%} | {row['mean_length']:.1f} | {row['dangling']:.1%} |"
        )
    for row in rows:
        if "demo" in row:
            shares = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in row["demo"].items())
            lines += ["", f"{row['decoding']}: {shares}; shuffled: all right {row['shuffled_demo']['all_right']:.1%}"]
    return "\n".join(lines) + "\n"


def caption_split(captioner, records, store, config: Config) -> tuple[list[str], float]:
    """The best caption of each record and the seconds that decoding took, compilation included."""
    from generator import FeatureBatches

    began = time.perf_counter()
    features = FeatureBatches(store, [record.file_name for record in records], config.decode_batch_size, config.workers)
    captions = [found[0].text for found in captioner.caption(features, config)[: len(records)]]
    return captions, time.perf_counter() - began


def main() -> None:
    parser = settings.make_parser(__doc__, trained=True)
    parser.add_argument("--model", metavar="RUN", help="a run folder or a captioner.zip")
    parser.add_argument("--predictions", metavar="FILE", help="score this file instead of a model's captions")
    parser.add_argument("--split", default="dev", help="train, dev or test [default: dev]")
    parser.add_argument("--beam-sizes", metavar="SIZES", help="comma-separated; 1 is greedy [default: 1 and beam_size]")
    parser.add_argument("--protocol", choices=metrics.PROTOCOLS, default="coco", help="see metrics.py [default: coco]")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write [default: evaluation/ in the run folder, or beside the predictions]",
    )
    args = parser.parse_args()
    if bool(args.model) == bool(args.predictions):
        raise UserError("give either --model RUN, or --predictions FILE with the settings of its data set")
    typed = settings.typed_settings(args)
    settings.settle_backend(typed.get("backend"))

    if args.predictions:
        config = Config().with_overrides(typed)
        path = Path(args.predictions)
        records = load_dataset(config).split(args.split)
        captions = read_predictions(path, records)
        about = {"captioner": path.stem, "split": args.split, "protocol": args.protocol, "decoding": "as given"}
        rows = [{**about, **score(captions, records, args.protocol, config)}]
        output = Path(args.output) if args.output else path.parent
    else:
        from model import Captioner
        from runs import describe

        captioner = Captioner.load(Path(args.model))
        config = settings.resolve_trained(args, captioner.config)
        sizes = args.beam_sizes.split(",") if args.beam_sizes else sorted({1, config.beam_size})
        searches = [config.with_overrides({"beam_size": size}, "--beam-sizes") for size in sizes]
        prepared = prepare(config, load_dataset(config), captioner.encoder)
        records = prepared.usable(args.split)
        model = Path(args.model)
        output = Path(args.output) if args.output else (model if model.is_dir() else model.parent) / "evaluation"
        name = model.resolve().name if model.is_dir() else model.resolve().parent.name
        rows = []
        for search in searches:
            decoding = "greedy" if search.beam_size == 1 else f"beam {search.beam_size}"
            captions, seconds = caption_split(captioner, records, prepared.store, search)
            _write_predictions(output, f"{args.split}-beam{search.beam_size}", records, captions)
            rows.append(
                {
                    "captioner": name,
                    "split": args.split,
                    "protocol": args.protocol,
                    "decoding": decoding,
                    **score(captions, records, args.protocol, config),
                    "decoding_seconds": seconds,
                    "settings": search.model_dump(),
                    "environment": describe(config),
                }
            )
    text = table(rows)
    print(text, end="")
    name = f"scores-{args.split}-{args.protocol}"
    _write(output / f"{name}.json", json.dumps(rows, indent=2) + "\n")
    _write(output / f"{name}.md", text)
    print(f"\nwritten to {output}", file=sys.stderr)


def _write_predictions(output: Path, name: str, records: list[ImageRecord], captions: list[str]) -> None:
    entries = [
        {"image_id": record.image_id, "file_name": record.file_name, "caption": caption}
        for record, caption in zip(records, captions, strict=True)
    ]
    _write(output / f"predictions-{name}.json", json.dumps(entries, indent=0, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None


if __name__ == "__main__":
    settings.run_script(main)
