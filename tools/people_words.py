"""What captions say about people's sex, and with which activities: those of the data, and those of a model.

    python tools/people_words.py --data-dir data/flickr8k
    python tools/people_words.py --predictions results/lite0/predictions-test-beam3.json --output results/lite0/people.json

A caption is about a man or boy when it has words for them and none for a woman or girl, and the other way round. The
first table has, for each activity, the share of men and boys among those captions. With predictions of the test split
it also has the captions of the model. A second table then takes images where at least three of the five people name
one sex and nobody names the other. It shows what the model says of them. Hendricks et al. (2018,
https://arxiv.org/abs/1803.09797) measure it so.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from captioning.data.predictions import read_predictions
from captioning.data.records import ImageRecord
from captioning.reports.tables import markdown
from captioning.words.tokenizer import tokenize
from preprocessing import load_dataset

MALE = frozenset(
    ["man", "men", "boy", "boys", "guy", "guys", "male", "males", "gentleman", "he", "his", "him", "himself"]
)
FEMALE = frozenset(
    ["woman", "women", "girl", "girls", "lady", "ladies", "female", "females", "she", "her", "hers", "herself"]
)
ACTIVITIES = {
    "ball games": ["soccer", "football", "basketball", "baseball", "tennis", "volleyball", "hockey", "rugby"],
    "bicycle": ["bike", "bikes", "bicycle", "biker", "bicyclist", "biking"],
    "skateboard, snowboard, surfboard": [
        "skateboard",
        "skateboarder",
        "snowboard",
        "snowboarder",
        "surfboard",
        "surfer",
        "surfing",
    ],
    "climbing": ["climbing", "climber", "climbs"],
    "dancing": ["dance", "dances", "dancing", "dancer", "dancers"],
    "swimming": ["swim", "swims", "swimming", "pool"],
    "smiling, laughing": ["smile", "smiles", "smiling", "laugh", "laughs", "laughing"],
    "posing": ["pose", "poses", "posing"],
}


def sex(words: Iterable[str]) -> str | None:
    """ "male" or "female" where ``words`` name only one of the two, else None."""
    male, female = not MALE.isdisjoint(words), not FEMALE.isdisjoint(words)
    return None if male == female else "male" if male else "female"


def counts(captions: list[list[str]]) -> dict[str, dict[str, float]]:
    """How many captions are about one sex, and the share (%) of them that is about men and boys.

    Counted among all captions ("all"), and among those with the words of each activity.
    """
    found: dict[str, dict[str, float]] = {}
    for name, words in {"all": None, **ACTIVITIES}.items():
        told = [caption for caption in captions if words is None or not set(words).isdisjoint(caption)]
        tally = Counter(filter(None, map(sex, told)))
        if total := tally.total():
            found[name] = {"captions": total, "male": 100 * tally["male"] / total}
    return found


def activity_table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table of the ``counts`` of several sources, with a row for each activity of the first."""
    rows = []
    for activity in next(iter(found.values())):
        row = {"captions about one sex": activity}
        for name, counted in found.items():
            here = counted.get(activity, {"captions": 0, "male": float("nan")})
            row |= {name: f"{here['captions']:,}", f"{name}: men and boys": f"{here['male']:.0f}%"}
        rows.append(row)
    return markdown(rows)


def said_of(records: Sequence[ImageRecord], predicted: Sequence[list[str]]) -> dict[str, Counter[str]]:
    """What the model's captions say of images whose people agree on one sex: the sex to the answers."""
    said: dict[str, Counter[str]] = {"male": Counter(), "female": Counter()}
    for record, caption in zip(records, predicted, strict=True):
        votes = Counter(filter(None, (sex(tokenize(text)) for text in record.captions)))
        if len(votes) == 1 and votes.total() >= 3:
            said[next(iter(votes))][sex(caption) or "neither or both"] += 1
    return said


def answer_table(said: dict[str, Counter[str]]) -> str:
    """``said_of`` as a Markdown table."""
    answers = ("male", "female", "neither or both")
    rows = [
        {"people say": truth, "images": str(found.total())}
        | {f"model: {name}": f"{100 * found[name] / found.total():.0f}%" for name in answers}
        for truth, found in said.items()
    ]
    return markdown(rows)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="captions of the test split")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    dataset = load_dataset(resolve(args))
    found = {
        "training captions": counts([tokenize(text) for record in dataset.split("train") for text in record.captions])
    }
    figures: dict[str, Any] = dict(found)
    if args.predictions:
        records = dataset.split("test")
        predicted = [tokenize(text) for text in read_predictions(args.predictions, records)]
        said = said_of(records, predicted)
        found["predictions"] = counts(predicted)
        figures = {**found, "said": {truth: dict(answers) for truth, answers in said.items()}}
    print(activity_table(found), end="")
    if args.predictions:
        print("\n" + answer_table(said), end="")
    if args.output:
        figures["command"] = " ".join(["python tools/people_words.py", *sys.argv[1:]])
        write(args.output, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
