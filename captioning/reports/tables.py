"""Markdown tables of results. No Keras."""

from collections.abc import Sequence

from captioning.metrics.calibration import ConfidenceScores
from captioning.metrics.variety import Variety
from captioning.reports.rows import CocoScores, ScoreRow

# The columns of scores in their order: the field of ``CocoScores``, and its title. BLEU-4 is the last of ``bleu``.
TITLES = {"bleu4": "BLEU-4", "meteor": "METEOR", "rouge_l": "ROUGE-L", "cider_d": "CIDEr", "spice": "SPICE"}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table. Each row maps the same columns to texts."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_table(rows: Sequence[ScoreRow]) -> str:
    """The scores as a Markdown table, then a list for each row with further signs of a bad captioner."""
    text = markdown([score_cells(row) for row in rows])
    for row in rows:
        what = f"{row.dataset}, {row.decoding}" if row.dataset else row.decoding
        text += f"\n{what}:\n\n" + "".join(f"* {sign}\n" for sign in _signs(row))
        demo, shuffled = row.scores.demo, row.scores.shuffled_demo
        if demo and shuffled:
            shares = ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in demo.items())
            text += f"\n{what}: {shares}; shuffled: all right {shuffled['all_right']:.1%}\n"
    return text


def score_cells(row: ScoreRow) -> dict[str, str]:
    """The texts of one row of the table of scores, by column."""
    scores, found = row.scores, row.scores.diagnostics
    cells = {"captioner": row.captioner, "split": row.split}
    cells |= {"data set": row.dataset} if row.dataset else {}
    cells["images"] = str(found.captions)
    cells |= {"protocol": row.measure, "decoding": row.decoding}
    cells |= {f"B{n}": f"{value:.2f}" for n, value in enumerate(scores.bleu, 1)}
    if isinstance(scores, CocoScores):
        values = {title: getattr(scores, name) for name, title in TITLES.items() if name != "bleu4"}
        cells |= {title: f"{value:.2f}" for title, value in values.items() if value is not None}
        low, high = scores.intervals.cider_d
        cells["CIDEr"] += f" ({low:.1f}-{high:.1f})"
        cells["shuffled CIDEr"] = f"{scores.shuffled_cider_d:.2f}"
    else:
        cells["shuffled B4"] = f"{scores.shuffled_bleu[3]:.2f}"
    cells |= {"distinct": f"{found.distinct:.0%}", "novel": "-" if found.novel is None else f"{found.novel:.0%}"}
    return cells | {
        "vocabulary": f"{found.vocabulary:,}",
        "words": f"{found.mean_length:.1f}",
        "dangling": "-" if found.dangling is None else f"{found.dangling:.1%}",
    }


def blocked(row: ScoreRow, name: str) -> str:
    """A remark for the diagnostic ``name`` if decoding blocks what it counts. Otherwise empty."""
    longest = {"repeated_bigrams": 2, "repeated_trigrams": 3}.get(name, 0)
    return " (blocked in decoding)" if 0 < (row.settings or {}).get("no_repeat_ngram", 0) <= longest else ""


def confidence_text(found: ConfidenceScores) -> str:
    """One line about what the confidence of a captioner is worth."""
    ranks = "none" if found.auroc is None else f"{found.auroc:.3f}"
    kinds = [("wrong", found.wrong_unsure), ("right", found.right_unsure)]
    of_kinds = ", ".join(f"{share:.1%} of the {kind} ones" for kind, share in kinds if share is not None)
    return (
        f"confidence: right {found.right:.1%} (CIDEr above {found.right_cider:g}), AUROC {ranks}, ECE {found.ece:.3f}, "
        f"wrong {found.error:.1%} and among the surest 80% {found.error_at_80:.1%}, unsure {found.unsure:.1%}"
        + (f" ({of_kinds})" if of_kinds else "")
    )


def variety_text(found: Variety) -> str:
    """One line about several captions of each image."""
    ratio = f" ({found.oracle_cider / found.first_cider:.2f} times the first)" if found.first_cider > 0 else ""
    text = (
        f"{found.captions} captions of each image: oracle CIDEr {found.oracle_cider:.2f}{ratio}, mean "
        f"{found.mean_cider:.2f}, Div-1 {found.div1:.3f}, Div-2 {found.div2:.3f}, mBLEU-4 {found.mbleu4:.1f}, Self-CIDEr "
        f"{found.self_cider:.3f}, distinct {found.distinct:.1%}, {found.vocabulary:,} words in use, "
        f"{found.mean_length:.1f} words per caption"
    )
    shares = {"CHAIRs": found.chair_s, "CHAIRi": found.chair_i, "objects recalled": found.object_recall}
    return text + "".join(f", {name} {share:.1%}" for name, share in shares.items() if share is not None)


def _signs(row: ScoreRow) -> list[str]:
    found = row.scores.diagnostics
    signs = [f"commonest caption {found.most_common:.1%}", f"a word twice in a row {found.repeats:.1%}"]
    for name, share in (("repeated_bigrams", found.repeated_bigrams), ("repeated_trigrams", found.repeated_trigrams)):
        signs.append(f"{name.replace('_', ' ')} {share:.1%}{blocked(row, name)}")
    if found.chair_s is not None:
        absent = "is neither outlined nor named by a reference" if found.outlined else "no reference names"
        signs.append(f"an object that {absent} {found.chair_s:.1%} (CHAIRs)")
    if found.chair_i is not None:
        signs.append(f"of all objects named {found.chair_i:.1%} (CHAIRi)")
    if found.object_recall is not None:
        signs.append(f"objects recalled {found.object_recall:.1%}")
    if isinstance(row.scores, CocoScores):
        groups = row.scores.cider_d_by_reference_length
        lengths = ", ".join(f"{group.score:.1f} of {group.reference_length:.1f} words" for group in groups)
        signs.append(f"CIDEr by length of the references {lengths}")
    if looks := row.attention:
        signs.append(f"attention's entropy {looks.entropy:.2f} of {looks.maximum_entropy:.2f} bits")
    if row.confidence:
        signs.append(confidence_text(row.confidence))
    if row.variety:
        signs.append(variety_text(row.variety))
    return signs
