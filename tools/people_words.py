"""What captions say about people's sex and age, and with which activities: those of the data, and those of a model.

    python tools/people_words.py --data-dir data/flickr8k
    python tools/people_words.py --predictions results/lite0/predictions-test-beam3.json

A caption is about a man or boy when it has words for them and none for a woman or girl, and the other way round. In the
same way it is about a child or about an adult. The first table has, for each activity, the share of men and boys among
the captions about one sex, and the second one that of children among the captions about one age. With predictions of
the test split they also have the captions of the model. Further tables then take images where at least three of the
five people name one sex, or one age, and nobody names the other. They show what the model says of them. Hendricks et
al. (2018, https://arxiv.org/abs/1803.09797) measure it so. The last table has the scores of captions of pictures with
people and without. A picture is one with people when a reference names a person (COCO's class, see
``captioning/metrics/chair.py``). CIDEr counts how rare words are in the whole split.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from captioning.data.predictions import read_predictions
from captioning.data.records import ImageRecord
from captioning.metrics.chair import mentions, objects
from captioning.metrics.cider import cider_d
from captioning.reports.tables import markdown
from captioning.words.tokenizer import tokenize
from preprocessing import load_dataset

SEXES = {
    "male": ["man", "men", "boy", "boys", "guy", "guys", "male", "males", "gentleman", "he", "his", "him", "himself"],
    "female": [
        "woman",
        "women",
        "girl",
        "girls",
        "lady",
        "ladies",
        "female",
        "females",
        "she",
        "her",
        "hers",
        "herself",
    ],
}
AGES = {
    "child": [
        "boy",
        "boys",
        "girl",
        "girls",
        "child",
        "children",
        "kid",
        "kids",
        "baby",
        "babies",
        "toddler",
        "toddlers",
        "infant",
        "infants",
    ],
    "adult": [
        "man",
        "men",
        "woman",
        "women",
        "lady",
        "ladies",
        "guy",
        "guys",
        "gentleman",
        "gentlemen",
        "adult",
        "adults",
    ],
}
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


Kinds = Mapping[str, Collection[str]]  # two kinds of people, each with its words


def kind_of(words: Collection[str], kinds: Kinds) -> str | None:
    """The one of ``kinds`` that ``words`` name, or None if they name both or neither."""
    named = [kind for kind, names in kinds.items() if not set(names).isdisjoint(words)]
    return named[0] if len(named) == 1 else None


def counts(captions: list[list[str]], kinds: Kinds) -> dict[str, dict[str, float]]:
    """How many captions are about one of ``kinds``, and the share (%) of them that is about the first one.

    Counted among all captions ("all"), and among those with the words of each activity.
    """
    first = next(iter(kinds))
    found: dict[str, dict[str, float]] = {}
    for name, words in {"all": None, **ACTIVITIES}.items():
        told = [caption for caption in captions if words is None or not set(words).isdisjoint(caption)]
        tally = Counter(filter(None, (kind_of(caption, kinds) for caption in told)))
        if total := tally.total():
            found[name] = {"captions": total, first: 100 * tally[first] / total}
    return found


def activity_table(found: dict[str, dict[str, dict[str, float]]], about: str, first: str, shown: str) -> str:
    """A Markdown table of the ``counts`` of several sources, with a row for each activity of the first.

    ``about``: what the captions tell, as a heading. ``first``: the kind whose share it has, which is called ``shown``.
    """
    rows = []
    for activity in next(iter(found.values())):
        row = {about: activity}
        for name, counted in found.items():
            here = counted.get(activity, {"captions": 0})
            row |= {name: f"{here['captions']:,}", f"{name}: {shown}": f"{here[first]:.0f}%" if first in here else "-"}
        rows.append(row)
    return markdown(rows)


def said_of(records: Sequence[ImageRecord], predicted: Sequence[list[str]], kinds: Kinds) -> dict[str, Counter[str]]:
    """What the model's captions say of images whose people agree on one of ``kinds``: the kind to the answers."""
    said: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for record, caption in zip(records, predicted, strict=True):
        votes = Counter(filter(None, (kind_of(tokenize(text), kinds) for text in record.captions)))
        if len(votes) == 1 and votes.total() >= 3:
            said[next(iter(votes))][kind_of(caption, kinds) or "neither or both"] += 1
    return said


def answer_table(said: dict[str, Counter[str]]) -> str:
    """``said_of`` as a Markdown table."""
    rows = [
        {"people say": truth, "images": str(found.total())}
        | {
            f"model: {name}": f"{100 * found[name] / found.total():.0f}%" if found else "-"
            for name in (*said, "neither or both")
        }
        for truth, found in said.items()
    ]
    return markdown(rows)


def presence(records: Sequence[ImageRecord], predicted: Sequence[list[str]]) -> dict[str, dict[str, float]]:
    """The scores of captions of pictures with people and without.

    "cider": CIDEr-D, times 100. "absent": the share (%) of captions with an object that no reference names. "person":
    the share (%) that names a person.
    """
    references = [[tokenize(text) for text in record.captions] for record in records]
    cider = np.array(cider_d(predicted, references)[1])
    absent = np.array([bool(found.absent) for found in mentions(predicted, references)])
    names = np.array(["person" in objects(caption) for caption in predicted])
    there = np.array([any("person" in objects(caption) for caption in captions) for captions in references])
    return {
        kind: {
            "images": int(chosen.sum()),
            "cider": float(cider[chosen].mean()),
            "absent": 100 * float(absent[chosen].mean()),
            "person": 100 * float(names[chosen].mean()),
        }
        for kind, chosen in (("with people", there), ("without people", ~there))
        if chosen.any()
    }


def presence_table(found: dict[str, dict[str, float]]) -> str:
    """``presence`` as a Markdown table."""
    rows = [
        {
            "pictures": kind,
            "images": f"{scores['images']:,}",
            "CIDEr": f"{scores['cider']:.2f}",
            "with an object that no reference names": f"{scores['absent']:.1f}%",
            "captions that name a person": f"{scores['person']:.1f}%",
        }
        for kind, scores in found.items()
    ]
    return markdown(rows)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="captions of the test split")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    dataset = load_dataset(resolve(args))
    sources = {"training captions": [tokenize(text) for record in dataset.split("train") for text in record.captions]}
    records = dataset.split("test")
    if args.predictions:
        sources["predictions"] = [tokenize(text) for text in read_predictions(args.predictions, records)]
    figures: dict[str, Any] = {"command": " ".join(["python tools/people_words.py", *sys.argv[1:]])}
    for about, kinds, shown in (("sex", SEXES, "men and boys"), ("age", AGES, "children")):
        found = {name: counts(captions, kinds) for name, captions in sources.items()}
        print(activity_table(found, f"captions about one {about}", next(iter(kinds)), shown))
        figures[about] = dict(found)
        if args.predictions:
            said = said_of(records, sources["predictions"], kinds)
            print(answer_table(said))
            figures[about]["said"] = {truth: dict(answers) for truth, answers in said.items()}
    if args.predictions:
        figures["presence"] = presence(records, sources["predictions"])
        print(presence_table(figures["presence"]))
    if args.output:
        write(args.output, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
