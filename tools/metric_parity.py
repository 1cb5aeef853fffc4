"""Compare our BLEU, ROUGE-L and CIDEr with pycocoevalcap's, on the same words and with its tokeniser.

    pip install -r requirements-metrics.txt
    python tools/metric_parity.py --data-dir data/flickr8k

The captions scored are people's: the first caption of each image against its others, every fourth one cut to three words,
said twice, or taken from the next image. Both sides score the words of our tokeniser, then those of the Stanford one
(Java); the last table states the difference between the two. Exit status 1 when the two sides differ by more than 1e-6.
"""

import argparse
import contextlib
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.metrics import java
from captioning.metrics import scores as metrics
from captioning.reports.tables import markdown
from config import Config
from preprocessing import load_dataset

TOLERANCE = 1e-6
NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")

Words = list[str]


def ours(found: list[Words], wanted: list[list[Words]]) -> tuple[list[float], np.ndarray]:
    """The six corpus scores, and those of each caption (N, 6)."""
    rouge, rouges = metrics.rouge_l(found, wanted)
    cider, ciders = metrics.cider_d(found, wanted)
    return [*metrics.bleu(found, wanted), rouge, cider], np.column_stack(
        [metrics.sentence_bleu(found, wanted), rouges, ciders]
    )


def theirs(found: list[Words], wanted: list[list[Words]]) -> tuple[list[float], np.ndarray]:
    """The same by pycocoevalcap, times 100."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references = {i: [" ".join(words) for words in group] for i, group in enumerate(wanted)}
    captions = {i: [" ".join(words)] for i, words in enumerate(found)}
    with contextlib.redirect_stdout(io.StringIO()):
        totals, columns = zip(
            *(scorer.compute_score(references, captions) for scorer in (Bleu(4), Rouge(), Cider())), strict=True
        )
    return [100 * float(total) for total in np.hstack(totals)], 100 * np.vstack(columns).T


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data/flickr8k", help="folder of Flickr8k [%(default)s]")
    parser.add_argument("--images", type=int, default=4000, help="how many of its images, from the first [%(default)s]")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    args = parser.parse_args()
    java.require("tokenizer")
    records = load_dataset(Config(data_dir=args.data_dir)).records[: args.images]
    captions = [record.captions[0] for record in records]
    for i in range(0, len(captions) - 1, 4):
        words = captions[i].split()
        captions[i] = (" ".join(words[:3]), " ".join(words * 2), captions[i + 1])[i // 4 % 3]
    groups = [record.captions[1:] for record in records]

    found_with: dict[str, list[dict[str, float | str]]] = {}
    print(f"{len(captions)} captions, {sum(map(len, groups))} references")
    for name, tokenize in (("text.py", lambda texts: [*map(metrics.words, texts)]), ("Stanford", java.tokenize)):
        split = iter(tokenize([*captions, *(text for group in groups for text in group)]))
        found = [next(split) for _ in captions]
        wanted = [[next(split) for _ in group] for group in groups]
        (total, each), (their_total, their_each) = ours(found, wanted), theirs(found, wanted)
        rows = found_with[name] = [
            {
                "metric": metric,
                "ours": total[i],
                "theirs": their_total[i],
                "difference": abs(total[i] - their_total[i]),
                "largest_of_a_caption": np.abs(each[:, i] - their_each[:, i]).max(),
            }
            for i, metric in enumerate(NAMES)
        ]
        print(f"\nwords of {name}\n")
        shown = [
            {
                "metric": row["metric"],
                "this project": f"{row['ours']:.6f}",
                "pycocoevalcap": f"{row['theirs']:.6f}",
                "difference": f"{row['difference']:.1e}",
                "largest difference of a caption": f"{row['largest_of_a_caption']:.1e}",
            }
            for row in rows
        ]
        print(markdown(shown), end="")
    worst = max(
        row[kind] for rows in found_with.values() for row in rows for kind in ("difference", "largest_of_a_caption")
    )
    shown = [
        {
            "metric": mine["metric"],
            "our words": f"{mine['theirs']:.3f}",
            "Stanford words": f"{stanford['theirs']:.3f}",
            "difference": f"{mine['theirs'] - stanford['theirs']:+.3f}",
        }
        for mine, stanford in zip(*found_with.values(), strict=True)
    ]
    print(f"\n{markdown(shown)}\nlargest difference on the same words: {worst:.1e}")
    if args.output:
        about = {
            "command": " ".join(["python tools/metric_parity.py", *sys.argv[1:]]),
            "pycocoevalcap": version("pycocoevalcap"),
            "captions": len(captions),
            "references": sum(map(len, groups)),
            "words_of_tokeniser": found_with,
            "largest_difference": worst,
        }
        write(args.output, json.dumps(about, indent=2) + "\n")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    run_script(main)
