"""What scripts leave behind: Markdown tables, and whole files or none. No Keras."""

from collections.abc import Sequence
from typing import Any

TITLES = {"bleu4": "BLEU-4", "meteor": "METEOR", "rouge_l": "ROUGE-L", "cider_d": "CIDEr", "spice": "SPICE"}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table of rows that all have the same columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_cells(row: dict[str, Any]) -> dict[str, str]:
    """A captioner's scores, an entry of ``evaluate.py``'s JSON, as a row of a table: column -> text."""
    cells = {name: row[name] for name in ("captioner", "split")}
    cells |= {"images": str(row["captions"]), "protocol": row["protocol"], "decoding": row["decoding"]}
    cells |= {f"B{n}": f"{value:.2f}" for n, value in enumerate(row["bleu"], 1)}
    cells |= {title: f"{row[name]:.2f}" for name, title in TITLES.items() if name in row}
    if "cider_d" in row:
        low, high = row["intervals"]["cider_d"]
        cells["CIDEr"] += f" ({low:.1f}-{high:.1f})"
        cells["shuffled CIDEr"] = f"{row['shuffled_cider_d']:.2f}"
    else:
        cells["shuffled B4"] = f"{row['shuffled_bleu'][3]:.2f}"
    cells |= {"distinct": f"{row['distinct']:.0%}", "novel": f"{row['novel']:.0%}" if "novel" in row else "-"}
    cells |= {"vocabulary": f"{row['vocabulary']:,}", "words": f"{row['mean_length']:.1f}"}
    return cells | {"dangling": f"{row['dangling']:.1%}"}


def blocked(row: dict[str, Any], name: str) -> str:
    """What to say beside the diagnostic ``name``: that decoding blocks what it counts, or nothing."""
    longest = {"repeated_bigrams": 2, "repeated_trigrams": 3}.get(name, 0)
    return " (blocked in decoding)" if 0 < row.get("settings", {}).get("no_repeat_ngram", 0) <= longest else ""
