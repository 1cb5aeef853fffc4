"""Compare the metrics with people: with their judgements of captions, and with the captions that they write themselves.

    pip install -e ".[metrics]"
    python tools/human_judgements.py --data-dir data/flickr8k --meteor --output results/human/flickr8k.json
    python tools/human_judgements.py --predictions results/flickr8k-inject/predictions-test-beam3.json

Judgements: Kendall's tau of each metric with the judgements that come with Flickr8k. The setting is that of Anderson
et al. (2016, SPICE) and Hessel et al. (2021, CLIPScore, appendix A), whose figures stand beside ours.

* Experts: tau-c and tau-b over all ratings, from 1 to 4. Each pair of image and caption has three, and each counts as
  one. Pairs whose caption is a reference of the image are left out.
* Crowd: tau-b with the share of people who said that the caption fits. Where the caption is a reference of the image,
  the pair stays, and the caption leaves the references, as published. In the column "strict" such pairs are left out.

Captions are scored one by one. BLEU is that of a sentence, smoothed by 1e-15 as in pycocoevalcap. CIDEr is CIDEr-D with
document frequencies over the judged images. (The published one counts an image once for each of its pairs; that makes a
difference of 0.1.)

Human row: each of the five captions of a test image is scored against the other four, and the five scores are averaged.
Fewer references mean lower scores. So a model's row beside it has four references, too, averaged over the one left out.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.progress import track
from captioning.base.script import run_script
from captioning.data.files import find
from captioning.data.flickr8k import JUDGEMENTS
from captioning.data.predictions import read_predictions
from captioning.data.records import ImageRecord, Warts
from captioning.metrics import java
from captioning.metrics.bleu_rouge import rouge_l, sentence_bleu
from captioning.metrics.cider import Cider
from captioning.metrics.references import words
from captioning.metrics.significance import corpus_scores, image_statistics
from config import Config
from preprocessing import load_dataset

# Hessel et al. (2021), table 1: expert tau-c, crowd tau-b.
PUBLISHED = {"BLEU-4": (30.8, 16.9), "METEOR": (41.8, 22.2), "ROUGE-L": (32.3, 19.9), "CIDEr": (43.9, 24.6)}
CAPTIONS = 5  # of each image

Words = list[str]
Judgement = tuple[str, str, list[float]]  # file name of the image, judged caption, judgements


def read_judgements(path: Path, columns: slice, captions: dict[str, tuple[str, ...]]) -> list[Judgement]:
    """The pairs in an annotation file of Flickr8k, with the judgements in ``columns``.

    A line holds the image, ``name#number`` of the caption, and numbers, separated by tabs. Raises UserError for a
    missing or damaged file, and for an image or caption that the data set does not have.
    """
    try:
        pairs = []
        for line in path.read_text(encoding="utf-8").splitlines():
            image, caption, *numbers = line.split("\t")
            name, number = caption.split("#")
            if image not in captions:
                raise LookupError(image)
            pairs.append((image, captions[name][int(number)], [float(found) for found in numbers[columns]]))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not the annotation file that Flickr8k_text.zip holds ({error!r})") from None
    return pairs


def correlations(
    pairs: list[Judgement], captions: dict[str, tuple[str, ...]], meteor: bool, keep_own: bool
) -> dict[str, Any]:
    """Kendall's taus, times 100, of each metric with the judgements.

    ``keep_own``: keep the pairs whose caption is a reference of the image.
    """
    from scipy.stats import kendalltau

    own = {(image, caption) for image, caption, _ in pairs if caption in captions[image]}
    kept = [pair for pair in pairs if keep_own or pair[:2] not in own]
    images = {image: i for i, image in enumerate(dict.fromkeys(image for image, _, _ in kept))}
    # All pairs of an image have the same references: its captions without those that are judged and kept.
    left_out = own if keep_own else set()
    references = [[words(text) for text in captions[image] if (image, text) not in left_out] for image in images]
    index = [images[image] for image, _, _ in kept]
    found = [words(caption) for _, caption, _ in kept]
    wanted = [references[i] for i in index]
    scores = {
        "BLEU-4": sentence_bleu(found, wanted)[:, 3],
        **({"METEOR": java.meteor(found, wanted)[1]} if meteor else {}),
        "ROUGE-L": rouge_l(found, wanted)[1],
        "CIDEr": Cider(references).score(index, found),
        "CIDEr plain": Cider(references, "cider").score(index, found),
    }
    ratings = np.array([numbers for _, _, numbers in kept])  # (pairs, ratings of each)
    return {
        "pairs": len(kept),
        "ratings": ratings.size,
        "images": len(images),
        **{
            f"tau_{variant}": {
                name: 100 * float(kendalltau(values.repeat(ratings.shape[1]), ratings.ravel(), variant=variant)[0])
                for name, values in scores.items()
            }
            for variant in "cb"
        },
    }


def against_four(choices: Sequence[list[Words]], references: list[list[Words]], meteor: bool) -> dict[str, float]:
    """The mean of the corpus scores over k.

    For each k the captions are ``choices[k]``, and the k-th reference of each image is left out.
    """
    rows = []
    for k, found in enumerate(choices):
        wanted = [group[:k] + group[k + 1 :] for group in references]
        scores = corpus_scores(image_statistics(found, wanted))
        row = {f"B{n}": value for n, value in enumerate(scores.bleu, 1)}
        if meteor:
            row["METEOR"] = java.meteor(found, wanted)[0]
        rows.append(row | {"ROUGE-L": scores.rouge_l, "CIDEr": scores.cider_d})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def human_rows(records: list[ImageRecord], files: list[str], meteor: bool) -> dict[str, dict[str, float]]:
    """Scores against four references: those of people's own captions, and of the captions in each of ``files``."""
    references = [[words(caption) for caption in record.captions] for record in records]
    choices = [[group[k] for group in references] for k in range(CAPTIONS)]
    rows = {"people": against_four(choices, references, meteor)}
    for file in track(files, "against four references", "files"):
        captions = read_predictions(Path(file), records)
        rows[file] = against_four([[*map(words, captions)]] * CAPTIONS, references, meteor)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of figures by name as a Markdown table, with a dash where a row has no figure."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(f"{row[key]:.2f}" if key in row else "-" for key in columns)] for name, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tau_table(found: dict[str, dict[str, Any]]) -> str:
    """The taus of each metric beside the published ones as a Markdown table."""
    rows = {}
    for name, value in found["expert"]["tau_c"].items():
        rows[name] = {
            "expert tau-c": value,
            "expert tau-b": found["expert"]["tau_b"][name],
            "crowd tau-b": found["crowd"]["tau_b"][name],
            "crowd tau-b, strict": found["crowd_strict"]["tau_b"][name],
        }
        if name in PUBLISHED:
            rows[name]["published expert tau-c"], rows[name]["published crowd tau-b"] = PUBLISHED[name]
    return table(rows)


def judge(folder: Path, captions: dict[str, tuple[str, ...]], meteor: bool) -> dict[str, dict[str, Any]]:
    """The correlations with both kinds of judgements in Flickr8k's ``folder``. Raises UserError."""
    files, _ = find(folder, JUDGEMENTS, Warts())
    if absent := [name for name in JUDGEMENTS if name not in files]:
        raise UserError(
            f"{folder}: {' and '.join(absent)} not found. They are in Flickr8k_text.zip: put them there, or "
            "unpack it there by hand"
        )
    expert = read_judgements(files[JUDGEMENTS[0]], slice(0, 3), captions)
    crowd = read_judgements(files[JUDGEMENTS[1]], slice(0, 1), captions)
    return {
        "expert": correlations(expert, captions, meteor, keep_own=False),
        "crowd": correlations(crowd, captions, meteor, keep_own=True),
        "crowd_strict": correlations(crowd, captions, meteor, keep_own=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data/flickr8k", help="folder of Flickr8k [%(default)s]")
    parser.add_argument("--predictions", nargs="+", default=[], metavar="FILE", help="add rows for these test captions")
    parser.add_argument("--meteor", action="store_true", help="METEOR as well; needs Java and takes minutes")
    parser.add_argument("--output", metavar="FILE", help="write all figures as JSON")
    args = parser.parse_args()
    try:
        import scipy
    except ImportError:
        raise UserError('the package scipy is missing; pip install -e ".[metrics]"') from None
    if args.meteor:
        java.require("meteor")
    dataset = load_dataset(Config(data_dir=args.data_dir))
    captions = {record.file_name: record.captions for record in dataset.records}
    records = dataset.split("test")
    if any(len(record.captions) != CAPTIONS for record in records):
        raise UserError(f"{args.data_dir}: the human row needs {CAPTIONS} captions of each test image")
    found = judge(Path(args.data_dir), captions, args.meteor)
    print(tau_table(found))
    rows = human_rows(records, args.predictions, args.meteor)
    print(f"{len(records)} test images, against four references\n\n{table(rows)}", end="")
    if args.output:
        result = {
            "command": " ".join(["python tools/human_judgements.py", *sys.argv[1:]]),
            "versions": {"numpy": np.__version__, "scipy": scipy.__version__},
            "judgements": found,
            "published": PUBLISHED,
            "against_four_references": rows,
        }
        write(Path(args.output), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
