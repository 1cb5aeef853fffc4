"""The table of a sweep as Markdown, as LaTeX and as JSON, with the commands behind each row. No Keras.

table.md      the table, how its figures came about, and the commands
table.tex     the table for a paper, with the package booktabs; the commands are comments in it
table.json    a list with one object for each row: all figures without rounding
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from captioning.base.files import write
from captioning.reports.tables import markdown
from captioning.sweeps.results import Summary

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def write_tables(
    found: Sequence[Summary], commands: Mapping[str, Sequence[str]], split: str, baseline: str | None, folder: Path
) -> str:
    """Write the three files into ``folder``. Returns the table as Markdown. Raises UserError.

    ``commands``: for each row the commands that train and score its seeds.
    """
    cells = table_cells(found)
    notes = _notes(found, split, baseline)
    text = markdown([row | {"row": row["row"].replace("|", r"\|")} for row in cells])
    page = text + "\n" + "".join(f"* {note}\n" for note in notes)
    for row, lines in commands.items():
        page += f"\n**{row}:**\n\n```sh\n" + "".join(f"{line}\n" for line in lines) + "```\n"
    write(folder / "table.md", page)
    write(folder / "table.tex", latex(cells, notes, commands))
    write(folder / "table.json", json.dumps([asdict(each) for each in found], indent=1, ensure_ascii=False) + "\n")
    return text


def table_cells(found: Sequence[Summary]) -> list[dict[str, str]]:
    """The texts of the table, by column. A column that would say the same or nothing in all rows is left out."""
    compared = any(each.comparison for each in found)
    rows = [_cells(each, compared) for each in found]
    for column in ("images", "decoding"):
        if len({row[column] for row in rows}) == 1:
            for row in rows:
                del row[column]
    for column in ("CHAIRs", "words/s", "captions/s"):
        if all(row[column] == "-" for row in rows):
            for row in rows:
                del row[column]
    return rows


def _cells(found: Summary, compared: bool) -> dict[str, str]:
    low, high = found.interval
    cells = {
        "row": found.row,
        "images": found.place.dataset,
        "decoding": found.place.decoding,
        "seeds": str(found.seeds),
        "CIDEr": f"{found.cider:.2f}" + (f" ± {found.deviation:.2f}" if found.deviation is not None else ""),
        "95% interval": f"{low:.1f} to {high:.1f}",
    }
    if compared:
        cells |= {"difference": "-", "its 95% interval": "-", "p": "-"}
        if other := found.comparison:
            cells["difference"] = f"{other.difference:+.2f}"
            cells["its 95% interval"] = "{:+.1f} to {:+.1f}".format(*other.interval)
            cells["p"] = "< 0.001" if other.p < 0.001 else f"{other.p:.3f}"
    return cells | {
        "BLEU-4": f"{found.bleu4:.2f}",
        "CHAIRs": "-" if found.chair_s is None else f"{found.chair_s:.1%}",
        "distinct": f"{found.distinct:.0%}",
        "words used": f"{found.vocabulary:,.0f}",
        "words/s": "-" if found.words_per_second is None else f"{found.words_per_second:,.0f}",
        "captions/s": "-" if found.captions_per_second is None else f"{found.captions_per_second:,.0f}",
    }


def _notes(found: Sequence[Summary], split: str, baseline: str | None) -> list[str]:
    """How the figures came about, in sentences."""
    images = ", ".join(dict.fromkeys(f"{each.images:,} {each.place.dataset}".strip() for each in found))
    decodings = ", ".join(dict.fromkeys(each.place.decoding for each in found))
    several = any(each.seeds > 1 for each in found)
    protocol = found[0].protocol
    notes = [f"Split {split}, images: {images}. Decoding: {decodings}. Protocol {protocol}; scores are times 100."]
    notes.append(
        "Figures are means over the seeds; ± is the standard deviation of CIDEr over the seeds."
        if several
        else "Each row has one seed."
    )
    notes.append(
        "The 95% intervals are of the percentile bootstrap with 2,000 samples. A sample draws the images with "
        "replacement, the same for all rows"
        + (
            ". Apart from that it draws one seed fewer than there are. What both draws change is added."
            if several
            else ". They say nothing about other seeds."
        )
    )
    if any(each.comparison for each in found):
        notes.append(
            f"The difference is CIDEr less that of {baseline}. p is of a paired test by approximate randomisation with "
            "10,000 swaps of images, two-sided, with these seeds. It is adjusted by Holm's method for the number of rows "
            "that are compared."
        )
    speeds = [
        ("words/s is target words per second in training, the median over epochs.", "words_per_second"),
        (
            "captions/s is the number of captions by the seconds of the search, with its compilation.",
            "captions_per_second",
        ),
    ]
    notes += [text for text, field in speeds if any(getattr(each, field) is not None for each in found)]
    return notes


def latex(cells: Sequence[Mapping[str, str]], notes: Sequence[str], commands: Mapping[str, Sequence[str]]) -> str:
    """The table for a paper. It needs the package booktabs."""
    texts = ("row", "images", "decoding")
    columns = "".join("l" if column in texts else "r" for column in cells[0])
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(cells[0]),
        r"\midrule",
        *(_latex_row(row.values()) for row in cells),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{' '.join(map(escaped, notes))}}}",
        r"\end{table}",
    ]
    for row, own in commands.items():
        lines += [_comment(f"{row}:"), *(_comment(f"    {line}") for line in own)]
    return "\n".join(lines) + "\n"


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(map(escaped, texts)) + r" \\"


def _comment(text: str) -> str:
    return "% " + " ".join(text.splitlines())


def escaped(text: str) -> str:
    """``text`` for LaTeX, where ten characters have a meaning of their own. ± and the minus are typeset as in maths."""
    text = re.sub(r"[\\~^&%$#_{}]", lambda found: _SPECIAL.get(found[0], "\\" + found[0]), text)
    text = re.sub(r"(?<![\w.-])([+-])(?=\d)", lambda found: f"${found[1]}$", text)
    return text.replace("±", r"$\pm$").replace("<", "$<$").replace(">", "$>$")
