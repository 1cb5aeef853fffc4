"""Score a captioner on a split with free-running captions: greedy, beam search, or both.

    python evaluate.py --model runs/NAME --split test --beam-sizes 1,3,5
    python evaluate.py --model runs/NAME --split test --report             # and a page to look at, report.html
    python evaluate.py --model runs/NAME --split dev --protocol seed       # for one historical comparison only
    python evaluate.py --model runs/A --model runs/B --output both         # an ensemble
    python evaluate.py --model runs/NAME --dataset coco                    # one of the several data sets of a run
    python evaluate.py --model runs/NAME --views 4 --output four-views     # an average of four looks at each image
    python evaluate.py --model runs/NAME --beam-sizes 20 --consensus       # the caption most like all of its beam
    python evaluate.py --model runs/NAME --variety 10 --beam-sizes 10      # how varied 10 captions per image are
    python evaluate.py --model runs/NAME --variety 10 --do-sample --top-p 0.9
    python evaluate.py --predictions FILE --split test                     # score captions from elsewhere
    python evaluate.py --references FILE --predictions FILE                # without a data set and its pictures
    python evaluate.py --references FILE --predictions FILE --words unicode    # captions in Chinese, Hindi, ...
    python evaluate.py --compare FILE FILE --split test                    # do two captioners differ beyond chance?
    python evaluate.py --compare "runs/a-*/FILE" "runs/b-*/FILE"           # several seeds of each
    python evaluate.py --model runs/NAME --fit-confidence                  # fit its confidence, on dev
    python evaluate.py --model runs/NAME --corrupt blur occlusion:0.3      # how it stands blurred and covered pictures
    python evaluate.py --model runs/NAME --corrupt all --images 200 --report

The captioner reads its own words and never a reference. Each image is encoded once.

For each beam size the script writes the captions in COCO's format, with the CIDEr-D of each. It writes all scores as
JSON and prints them as a Markdown table. With several data sets there is a row for each, and one for their mean. For
MS-COCO it also writes captions_val2014_NAME_results.json for COCO's own evaluation. captioning/metrics/protocols.py
explains the protocols, and captioning/reports/rows.py the scores.

--fit-confidence fits how probable it is that a caption is right, and writes this confidence into the captioner's
bundle. The weights stay as they are. After that all scripts give each caption a confidence. This script also reports
and draws how good the confidence is.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.base.settings import listed, own_fields
from captioning.base.texts import printable
from captioning.command_line.options import add_views, make_parser, typed_settings
from captioning.command_line.resolving import (
    refuse_idle_consensus,
    refuse_stored_features,
    resolve_trained,
    settle_backend,
    without_data,
)
from captioning.confidence.inputs import INPUTS
from captioning.data.caption_files import read_references
from captioning.data.mixture import MixedDataset
from captioning.data.predictions import read_predictions
from captioning.data.records import SPLIT_NAMES, CaptionDataset, ImageRecord, Records, Warts
from captioning.features.looks import further_views
from captioning.metrics import java
from captioning.metrics.cider import cider_d
from captioning.metrics.protocols import PROTOCOLS, measure
from captioning.metrics.right import is_right
from captioning.pictures.corrupting import KINDS, parse_corruptions
from captioning.reports.attention import attention_statistics
from captioning.reports.comparison import comparison_table, find_sides
from captioning.reports.judged import Captioned, Scoring, judge, row_of_all, sure_of_all
from captioning.reports.parts import NamedSet, Part, named_sets, outlined_of, part_of
from captioning.reports.rows import AttentionStatistics, ScoreRow, label_of
from captioning.reports.scoring import score, training_captions
from captioning.reports.written import draw_confidence, write_captions, write_reports, write_scores
from captioning.robustness.curves import draw_severities
from captioning.robustness.results import Results, table_text
from captioning.robustness.severities import (
    digest_of_results,
    image_numbers,
    label_of_results,
    run_severities,
    whole_parts,
    write_robustness_reports,
)
from captioning.words.splitting import SPLITTINGS, TREEBANK, Splitting
from config import Config, DataSettings, MixtureSettings
from preprocessing import load_dataset, prepare, report_unspaced

if TYPE_CHECKING:
    from captioning.features.batches import FeatureBatches
    from captioning.features.store import FeatureStore
    from model import Caption, Captioner


def main() -> None:
    args = parse()
    if not args.references:
        args.split = args.split or "dev"
    tools = java_tools(args)
    refuse_conflicts(args, tools)
    typed = typed_settings(args)
    settle_backend(typed.get("backend"))
    if args.fit_confidence:
        fit_model(args, typed)
    elif args.compare:
        compare_files(args, typed)
    elif args.predictions:
        score_file(args, typed, tools)
    elif args.corrupt:
        score_corrupted(args, typed, tools)
    else:
        score_models(args, typed, tools)


def parse() -> Namespace:
    """The command line."""
    parser = make_parser(__doc__, trained=True)
    parser.add_argument(
        "--model",
        metavar="RUN",
        action="append",
        help="a run folder or a captioner.zip; give --model several times to decode with an ensemble",
    )
    parser.add_argument("--predictions", metavar="FILE", help="score this file instead of a model's captions")
    parser.add_argument(
        "--references",
        metavar="FILE",
        help="score against the captions of this file, without a data set and its pictures; captioning/data/caption_files.py "
        "lists the layouts of both files",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar="FILE",
        help="test whether the captions of two files differ in their scores; a quoted pattern names the files of "
        "several seeds",
    )
    add_views(parser)
    parser.add_argument("--split", help="train, dev or test [default: dev; with --references all images]")
    parser.add_argument("--beam-sizes", metavar="SIZES", help="comma-separated; 1 is greedy [default: 1 and beam_size]")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="coco",
        help="see captioning/metrics/protocols.py [default: coco]",
    )
    parser.add_argument(
        "--java",
        metavar="TOOLS",
        default="",
        help=f"also use these Java programs, comma-separated: {', '.join(java.TOOLS)} (Stanford's instead of ours)",
    )
    parser.add_argument(
        "--variety",
        type=int,
        metavar="N",
        help="make N captions of each image, and measure how much they differ and how good the best of them is; see "
        "captioning/metrics/variety.py",
    )
    parser.add_argument("--report", action="store_true", help="also write report.html, a page that explains the scores")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="where to write [default: evaluation/ in the run folder, or the folder of the predictions]",
    )
    add_robustness(parser)
    add_confidence(parser)
    return parser.parse_args()


def add_robustness(parser: ArgumentParser) -> None:
    """The options of pictures that are made worse."""
    group = parser.add_argument_group("robustness")
    group.add_argument(
        "--corrupt",
        nargs="+",
        metavar="KIND[:SEVERITY]",
        help="make the pictures worse, and score the captions of that and of the pictures as they are. Kinds: "
        f"{', '.join(KINDS)}, or all; severities: 1 to 5, without one all five; occlusion:0.3 covers that share. See "
        "captioning/pictures/corrupting.py",
    )
    group.add_argument(
        "--images",
        metavar="N",
        help="with --corrupt: score only so many images of the split, evenly spaced; of several data sets so many of "
        "each, or comma-separated one number for each [default: all]",
    )


def add_confidence(parser: ArgumentParser) -> None:
    """The options of the confidence."""
    group = parser.add_argument_group("confidence")
    group.add_argument(
        "--fit-confidence",
        action="store_true",
        help="fit on dev how probable it is that a caption is right, and write this confidence into the captioner's "
        "bundle",
    )
    group.add_argument(
        "--right-cider",
        type=float,
        metavar="X",
        help="a caption is right if its CIDEr, times 100, is above this and if a reference names each of its objects "
        "[default: what three of four captions by people reach on dev]",
    )
    group.add_argument(
        "--confidence-inputs",
        choices=list(INPUTS),
        help="the signals that the confidence is made of; see captioning/confidence/inputs.py [default: the simplest "
        "set that is as good as the best by cross-validation]",
    )
    group.add_argument(
        "--unsure-below",
        type=float,
        metavar="P",
        help="captions with a lower confidence are called unsure [default: the multiple of 0.05 that tells the wrong "
        "captions of dev from the right ones best]",
    )


def java_tools(args: Namespace) -> list[str]:
    """The Java programs of ``--java``. Raises UserError if one is unknown, or if it cannot run here."""
    tools = [tool for tool in args.java.split(",") if tool]
    for tool in tools:
        if tool not in java.TOOLS:
            raise UserError(f"--java: there is no {tool!r}; choose from {', '.join(java.TOOLS)}")
        java.require(tool)
    return tools


def refuse_conflicts(args: Namespace, tools: Sequence[str]) -> None:
    """Raise UserError for options that do not go together."""
    if sum(map(bool, (args.model, args.predictions, args.compare))) != 1:
        raise UserError(
            "give one of --model RUN, --predictions FILE and --compare FILE FILE; the last two also need the settings "
            "of their data set"
        )
    if args.references and not (args.predictions or args.compare):
        raise UserError("--references: is for captions in files; give --predictions FILE or --compare FILE FILE")
    if args.variety is not None:
        refuse_beside_variety(args)
    if args.corrupt:
        refuse_beside_corrupt(args)
    elif args.images:
        raise UserError("--images: is for --corrupt; add that, or leave this out")
    if args.protocol == "seed" and (tools or args.compare):
        raise UserError("--protocol: seed has only BLEU on our own words; leave out --java and --compare, or take coco")
    if args.fit_confidence:
        refuse_beside_fit(args, tools)
    for option in ("right_cider", "confidence_inputs", "unsure_below"):
        if getattr(args, option) is not None and not args.fit_confidence:
            raise UserError(f"--{option.replace('_', '-')}: is for --fit-confidence; add that, or leave this out")
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
            "--views: captions of several views do not belong to a run's own evaluation; give a --model, name an "
            "--output, and leave out --report"
        )


def refuse_beside_variety(args: Namespace) -> None:
    """Raise UserError for options that do not go together with ``--variety``."""
    if not args.model or args.fit_confidence or args.protocol == "seed":
        raise UserError(
            "--variety: measures several captions of a captioner by the coco protocol; give --model RUN, and leave out "
            "--protocol and --fit-confidence"
        )
    if args.variety < 2:
        raise UserError(f"--variety: {args.variety} captions of an image cannot differ; give 2 or more")


def refuse_beside_corrupt(args: Namespace) -> None:
    """Raise UserError for options that do not go together with ``--corrupt``, and for kinds that do not exist."""
    if not args.model:
        raise UserError(
            "--corrupt: captions pictures that are made worse, so it needs a captioner, not captions in a file; give "
            "--model RUN"
        )
    for option in ("fit_confidence", "variety"):
        if getattr(args, option):
            raise UserError(
                f"--{option.replace('_', '-')}: does not go together with --corrupt; leave out one of the two"
            )
    if args.protocol == "seed":
        raise UserError("--corrupt: uses the coco protocol; leave out --protocol")
    if "," in (args.beam_sizes or ""):
        raise UserError(f"--beam-sizes: --corrupt takes one beam size, and these are {args.beam_sizes}; give one")
    parse_corruptions(args.corrupt)
    image_numbers(args.images)


def refuse_beside_fit(args: Namespace, tools: Sequence[str]) -> None:
    """Raise UserError for options that do not go together with ``--fit-confidence``."""
    if not args.model or len(args.model) > 1 or args.views > 1:
        raise UserError("--fit-confidence: takes one captioner; give one --model, and leave out --views")
    if SPLIT_NAMES.get(args.split) != "dev":
        raise UserError(
            f"--fit-confidence: is fitted on dev, and --split is {args.split}; leave --split out, so that test stays "
            "unseen"
        )
    for option in ("beam_sizes", "report", "output"):
        if getattr(args, option):
            raise UserError(
                f"--{option.replace('_', '-')}: --fit-confidence writes into the bundle and nothing else; leave this "
                "out"
            )
    if tools or args.protocol != "coco":
        raise UserError(
            "--fit-confidence: uses the coco protocol and our own tokeniser; leave out --java and --protocol"
        )
    if args.unsure_below is not None and not 0 <= args.unsure_below <= 1:
        raise UserError(f"--unsure-below: {args.unsure_below} is no probability; give a number from 0 to 1")


def refuse_unmeasured(args: Namespace, tools: Sequence[str], splitting: Splitting) -> None:
    """Raise UserError for measures that know the splitting treebank only, if captions are split in another way."""
    if splitting is TREEBANK:
        return
    if tools:
        raise UserError(f"--java: these programs are made for English, and words is {splitting.name}; leave out --java")
    if args.protocol == "seed":
        raise UserError(f"--protocol: seed splits captions at spaces, and words is {splitting.name}; leave it out")


def load_single(args: Namespace, typed: dict[str, Any], option: str) -> tuple[CaptionDataset, DataSettings, Splitting]:
    """What captions in files are scored against: the data set, or the references without pictures.

    Also gives the settings of the data set, and how captions are split. Raises UserError for several data sets, and for
    a data set beside references.
    """
    if args.references:
        if named := [name for name in typed if name in own_fields(MixtureSettings)]:
            raise UserError(
                f"--{named[0].replace('_', '-')}: --references takes the place of a data set; leave out one of the two"
            )
        warts = Warts()
        records = read_references(Path(args.references), warts)
        print_notes(warts)
        splitting = SPLITTINGS[Config().with_overrides(typed).words]
        return CaptionDataset(Path(args.references).stem, Records(records), ()), DataSettings(), splitting
    config = Config().with_overrides(typed)
    dataset = load_dataset(config)
    if isinstance(dataset, MixedDataset):
        raise UserError(f"{option}: a file holds the captions of one data set; name it alone with --dataset")
    return dataset, config.data_sets()[0], SPLITTINGS[config.words]


def chosen(dataset: CaptionDataset, args: Namespace) -> Sequence[ImageRecord]:
    """The images that are scored: those of the split, or all if none is named.

    Raises UserError for an unknown split.
    """
    return dataset.split(args.split) if args.split else dataset.records


def print_notes(warts: Warts) -> None:
    """Tell on stderr what was found in files."""
    for line in warts.lines():
        print(printable(f"note: {line}"), file=sys.stderr)


def compare_files(args: Namespace, typed: dict[str, Any]) -> None:
    """Print whether the captions of the two sides differ."""
    sides = find_sides(args.compare)
    dataset, _, splitting = load_single(args, typed, "--compare")
    records = chosen(dataset, args)
    report_unspaced((text for record in records for text in record.captions), splitting)
    warts = Warts()
    first, second = ([read_predictions(path, records, warts) for path in side] for side in sides)
    print_notes(warts)
    for letter, side in zip("AB", sides, strict=True):
        print(f"{letter}: {', '.join(map(str, side))}")
    by = "" if splitting is TREEBANK else f", protocol {measure('coco', splitting.name)}"
    print(f"{args.split or 'all'}, {len(records)} images{by}\n")
    print(comparison_table(first, second, records, splitting), end="")


def score_file(args: Namespace, typed: dict[str, Any], tools: Sequence[str]) -> None:
    """Score the captions of a file."""
    dataset, data, splitting = load_single(args, typed, "--predictions")
    refuse_unmeasured(args, tools, splitting)
    path = Path(args.predictions)
    records = chosen(dataset, args)
    report_unspaced((text for record in records for text in record.captions), splitting)
    warts = Warts()
    captions = read_predictions(path, records, warts)
    print_notes(warts)
    training = training_captions(dataset, splitting) if args.split else ()
    outlined = outlined_of(data, dataset, records)
    scores, _ = score(captions, records, args.protocol, data, training, tools, splitting, outlined)
    split = args.split or "all"
    row = ScoreRow(captioner=path.stem, split=split, protocol=args.protocol, decoding="as given", scores=scores)
    output = Path(args.output) if args.output else path.parent
    write_scores([row], output)
    print(f"\nwritten to {output}", file=sys.stderr)


def fit_model(args: Namespace, typed: dict[str, Any]) -> None:
    """Fit a confidence on dev, print what was tried, and write it into the captioner's bundle."""
    from captioning.confidence.fitting import Bounds, bound_of_people, fit_confidence, fit_table
    from captioning.confidence.training_pictures import training_subspace
    from captioning.storage import bundles
    from model import Captioner

    path = Path(args.model[0])
    captioner = Captioner.load(path, with_confidence=False)
    refuse_stored_features(captioner.config, "--fit-confidence: looks at the training pictures")
    config = resolve_trained(args, captioner.config)
    refuse_idle_consensus([config])
    captioner.check(config)
    dataset = load_dataset(config)
    training = dataset.split("train")  # a data set without this split is refused before the long work
    parts = find_parts(captioner, config, dataset, args, typed)
    split = captioner.vocabulary.split
    references = [[[*map(split, record.captions)] for record in part.records] for part in parts]
    bound = args.right_cider if args.right_cider is not None else bound_of_people(references)
    subspace = training_subspace(captioner.encode, training, config)
    signals, right = [], []
    for part, of_people in zip(parts, references, strict=True):
        batches = feature_batches(part.stores[0], part.records, config)
        said, measured = captioner.observe(batches, subspace, config)
        captions = [split(caption.text) for caption in said[: len(part.records)]]
        signals.append(measured[: len(part.records)])
        right.append(is_right(captions, of_people, cider_d(captions, of_people)[1], bound))
    confidence, trials = fit_confidence(
        np.concatenate(signals),
        np.concatenate(right),
        subspace,
        Bounds(bound, args.unsure_below),
        args.confidence_inputs,
        about={"dataset": dataset.name, "split": "dev", "decoding": config.decoding()},
    )
    print(fit_table(trials, confidence), end="")
    with bundles.changing(path, "captioner") as folder:
        confidence.save(folder)
    print(f"\nwritten into the bundle of {path}", file=sys.stderr)


class Opened(NamedTuple):
    """The captioner of ``--model`` and what it is scored on.

    ``config``: the settings of the evaluation. ``searches``: those of each search. ``folder``: the run folder.
    """

    captioner: "Captioner"
    config: Config
    searches: list[Config]
    dataset: CaptionDataset | MixedDataset
    scoring: Scoring
    folder: Path
    output: Path


def open_models(args: Namespace, typed: dict[str, Any], tools: Sequence[str]) -> Opened:
    """Load what ``--model`` and the settings name. Raises UserError."""
    from captioning.storage.members import name_of
    from model import load_captioners

    models = [Path(path) for path in args.model]
    if args.beam_sizes and "beam_groups" in typed and "beam_size" not in typed:
        # The groups may not divide the beam of the run.
        typed["beam_size"] = vars(args)["setting:beam_size"] = args.beam_sizes.split(",")[0]
    captioner = load_captioners(models, args.views)
    if args.corrupt:
        for member in captioner.members:
            refuse_stored_features(member.config, "--corrupt: makes pictures worse before they are encoded")
    config = resolve_trained(args, captioner.config)
    splitting = captioner.vocabulary.splitting
    refuse_unmeasured(args, tools, splitting)
    sizes = args.beam_sizes
    if args.corrupt and not config.do_sample:
        sizes = sizes or str(config.beam_size)  # greedy search is not a second one
    searches = find_searches(sizes, config, args.variety)
    captioner.check(config)
    dataset = load_dataset(config)
    folder = models[0] if models[0].is_dir() else models[0].parent
    output = Path(args.output) if args.output else folder / "evaluation"
    name = " + ".join(map(name_of, models)) + (f", {args.views} views" if args.views > 1 else "")
    sure = captioner.confidence
    scoring = Scoring(
        name=name,
        split=args.split,
        protocol=args.protocol,
        views=args.views,
        training=training_captions(dataset, splitting),
        tools=tools,
        splitting=splitting,
        sure_bounds=None if sure is None else (sure.right_cider, sure.unsure_below),
        intervals=bool(args.corrupt),
        keeps_all=bool(args.variety),
    )
    return Opened(captioner, config, searches, dataset, scoring, folder, output)


def score_models(args: Namespace, typed: dict[str, Any], tools: Sequence[str]) -> None:
    """Caption a split with each beam size, score the captions, and write all results."""
    captioner, config, searches, dataset, scoring, folder, output = open_models(args, typed, tools)
    parts = find_parts(captioner, config, dataset, args, typed)
    attended = next((search for search in searches if search.beam_size == 1), searches[0])
    rows: list[ScoreRow] = []
    found: list[list[Captioned]] = []
    for search in searches:
        with_attention = search is attended and captioner.decoder.attends
        found.append([])
        for part in parts:
            captioned = caption_part(captioner, scoring, part, search, with_attention)
            write_captions(captioned, search, output)
            found[-1].append(captioned)
            rows.append(captioned.row)
        if len(parts) > 1:
            rows.append(row_of_all(found[-1], scoring))
            draw_confidence(sure_of_all(found[-1]), label_of(rows[-1], search), output)
    write_scores(rows, output)
    if args.report:
        write_reports(found, captioner, config, folder, output)
    print(f"\nwritten to {output}", file=sys.stderr)


def caption_part(
    captioner: "Captioner", scoring: Scoring, part: Part, search: Config, with_attention: bool
) -> Captioned:
    """Caption one data set and score the captions."""
    found, seconds = caption_split(captioner, part.stores, part.records, search)
    said = [captions[0].text for captions in found]
    looks = find_attention(captioner, part.stores[0], part.records, said, search) if with_attention else None
    captioned = judge(scoring, part, found, search, seconds)
    return replace(captioned, row=replace(captioned.row, attention=looks))


def score_corrupted(args: Namespace, typed: dict[str, Any], tools: Sequence[str]) -> None:
    """Caption and score the pictures as they are and with each of ``--corrupt``, and write all results.

    What an interrupted evaluation has done is not done again.
    """
    captioner, config, [search], dataset, scoring, folder, output = open_models(args, typed, tools)
    sets = sets_of(captioner, config, dataset, args.split, typed)
    parts = whole_parts(sets, args.split, args.images)
    data_sets = [part.name for part in parts]
    label = label_of_results(args.split, args.images, data_sets, search)
    with Results.alone(output, label):
        digest = digest_of_results([Path(path) for path in args.model], scoring, parts, search)
        results = Results(output, label, digest, data_sets)
        run_severities(captioner, scoring, parts, search, parse_corruptions(args.corrupt), results)
    text = table_text(results.rows)
    print(text, end="")
    stem = output / f"robustness-{label}"
    write(output / f"robustness-{label}.md", text)
    draw_severities(results.of(None), stem)
    if args.report:
        write_robustness_reports(results, captioner, config, folder, parts, stem)
    print(f"\nwritten to {output}", file=sys.stderr)


def find_searches(beam_sizes: str | None, config: Config, captions: int | None = None) -> list[Config]:
    """The settings of each decoding that ``--beam-sizes`` and ``--variety`` ask for. Raises UserError.

    ``captions``: how many of each image ``--variety`` wants.
    """
    wanted = {"num_captions": captions or (config.num_captions if config.do_sample else 0)}
    if config.do_sample:
        if beam_sizes:
            raise UserError("--beam-sizes: do_sample draws captions and keeps no beam; leave out one of the two")
        return [config.with_overrides(wanted, "--variety")]
    own = {config.beam_size} if captions or config.beam_groups > 1 else {1, config.beam_size}
    sizes = beam_sizes.split(",") if beam_sizes else sorted(own)
    source = "--beam-sizes and --variety" if captions else "--beam-sizes"
    searches = [config.with_overrides({"beam_size": size} | wanted, source) for size in sizes]
    refuse_idle_consensus(searches, "--beam-sizes")
    return searches


def sets_of(
    captioner: "Captioner", config: Config, dataset: CaptionDataset | MixedDataset, split: str, typed: dict[str, Any]
) -> list[NamedSet]:
    """The data sets to score. Raises UserError if none has the ``split``."""
    return named_sets(dataset, config, captioner.config.data_names(), listed(typed.get("dataset", [])), split)


def find_parts(
    captioner: "Captioner",
    config: Config,
    dataset: CaptionDataset | MixedDataset,
    args: Namespace,
    typed: dict[str, Any],
) -> list[Part]:
    """The parts to score: for each data set the readable images of the split, and their features.

    Raises UserError if no data set has the split, or if none of its images can be read.
    """
    sets = sets_of(captioner, config, dataset, args.split, typed)  # a wrong split shows before features are extracted
    looks = further_views(args.views)
    prepared = [
        prepare(of_member(member.config, typed), dataset, member.encoder, args.split, looks)
        for member in captioner.members
    ]
    parts = []
    for named in sets:
        ready = [each.parts[named.key] if each.parts else each for each in prepared]
        stores = [store for each in ready for store in (each.store, *(view.store for view in each.views))]
        usable = ready[0].usable(args.split)
        records = [record for record in usable if all(record.file_name in store.rows for store in stores)]
        parts.append(part_of(named, records, stores))
    return parts


def of_member(trained: Config, typed: dict[str, Any]) -> Config:
    """The settings of a member of an ensemble with the ``typed`` ones. One with an encoder needs no features."""
    own = without_data(typed)
    if not trained.features:
        own.pop("features", None)
    return trained.with_overrides(own)


def caption_split(
    captioner: "Captioner", stores: Sequence["FeatureStore"], records: Sequence[ImageRecord], config: Config
) -> tuple[list[list["Caption"]], float]:
    """The captions of each record, best first, and the seconds of decoding, with compilation.

    ``stores``: the store of the captioner, or one for each member and view of an ensemble.
    """
    from captioning.features.batches import EnsembleBatches

    began = time.perf_counter()
    batches = [feature_batches(store, records, config) for store in stores]
    features = batches[0] if len(batches) == 1 else EnsembleBatches(batches)
    captions = captioner.caption(features, config)[: len(records)]
    return captions, time.perf_counter() - began


def find_attention(
    captioner: "Captioner",
    store: "FeatureStore",
    records: Sequence[ImageRecord],
    captions: Sequence[str],
    config: Config,
) -> AttentionStatistics:
    """How the captioner looks at the images while it predicts ``captions``."""
    batches = feature_batches(store, records, config)
    return attention_statistics(captioner, (batches[n][0] for n in range(len(batches))), captions)


def feature_batches(store: "FeatureStore", records: Sequence[ImageRecord], config: Config) -> "FeatureBatches":
    """The features of ``records`` in order, in batches of ``decode_batch_size``."""
    from captioning.features.batches import FeatureBatches

    return FeatureBatches(store, [record.file_name for record in records], config.decode_batch_size, config.workers)


if __name__ == "__main__":
    run_script(main)
