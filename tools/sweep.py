"""Train and score a list of settings over several seeds, and make one table of it with intervals and paired tests.

    python tools/sweep.py sweeps/demo.json                  # train, score, table; also goes on after a stop
    python tools/sweep.py sweeps/demo.json --dry-run        # list what would be run
    python tools/sweep.py sweeps/demo.json --table          # the table of what is finished, without running anything
    python tools/sweep.py sweeps/demo.json --epochs 2       # a setting in place of that of the file
    python tools/sweep.py --rows decoder=merge,attention --seeds 0,1 --preset demo --output runs/two   # without a file
    python tools/sweep.py --table --runs "merge=runs/merge-*" "attention=runs/attention-*" --split test --output both

captioning/sweeps/plan.py describes a sweep file. It comes first on the command line, before any option. Settings on the
command line take the place of those of its base.

Each training is a run folder below the folder of the sweep, by train.py, and is scored by evaluate.py. Their output
goes into logs/. A finished run is not run again, and an interrupted one goes on after its last whole epoch. A run that
fails is named, and the others go on. The tables are table.md, table.tex for a paper, and table.json.
"""

import shlex
import sys
from argparse import Namespace
from glob import glob
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.files import alone_with
from captioning.base.json_files import read_json
from captioning.base.script import listen_to_ctrl_c, run_script
from captioning.command_line.options import make_parser
from captioning.data.records import SPLIT_NAMES
from captioning.reports.rows import read_rows
from captioning.sweeps.plan import Sweep, Training, grid, make_sweep, read_sweep, typed_base
from captioning.sweeps.results import score_files, summaries
from captioning.sweeps.running import Runner, claim, commands, evaluate_command, is_scored, is_trained, train_command
from captioning.sweeps.tables import write_tables

SCRIPTS = Path(__file__).resolve().parent.parent  # the folder of train.py and evaluate.py
_BUSY = "another process runs this sweep; wait for its end, or stop it"


def main() -> int:
    args = parse()
    if args.runs:
        table_of_runs(args)
        return 0
    listen_to_ctrl_c()
    sweep = find_sweep(args)
    folder = Path(args.output or f"runs/sweep-{Path(args.file).stem}")
    if args.dry_run:
        list_commands(sweep, folder)
        return 0
    failed: list[Training] = []
    if not args.table:
        claim_folder(sweep, folder)
        with alone_with(folder, _BUSY):
            failed = Runner(sweep, folder, SCRIPTS).run()
    elif not (folder / "sweep.json").exists():
        raise UserError(f"{folder}: no sweep was run there (no sweep.json); name its folder with --output")
    if failed:
        print(f"failed: {', '.join(training.name for training in failed)}; run the same command to try them again\n")
    table_of_sweep(sweep, folder)
    return 1 if failed else 0


def parse() -> Namespace:
    """The command line."""
    parser = make_parser(__doc__, own=("seed", "run_dir"))
    parser.add_argument("file", nargs="?", metavar="FILE", help="the sweep file; comes before all options")
    parser.add_argument(
        "--rows",
        action="append",
        metavar="SETTING=VALUES",
        help="in place of a file: a row for each of the comma-separated values; given several times, for each combination",
    )
    parser.add_argument("--seeds", metavar="SEEDS", help="comma-separated; in place of those of the file [default: 0]")
    parser.add_argument(
        "--compare-with", metavar="ROW", help="the row that the others are compared with [default: the first]"
    )
    parser.add_argument("--split", help="the split that is scored [default: dev]")
    parser.add_argument("--beam-sizes", metavar="SIZES", help="comma-separated; 1 is greedy [default: 1 and beam_size]")
    parser.add_argument("--dry-run", action="store_true", help="list the commands that would be run, and end")
    parser.add_argument("--table", action="store_true", help="only make the table of what is finished")
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="ROW=PATTERN",
        help="with --table, in place of a sweep: for each row the run folders of its seeds, as a quoted pattern",
    )
    parser.add_argument("--output", metavar="DIR", help="the folder of the sweep [default: runs/sweep-FILE]")
    args = parser.parse_args()
    refuse_conflicts(args)
    return args


def refuse_conflicts(args: Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if args.runs:
        if (
            args.file
            or args.rows
            or args.dry_run
            or args.seeds
            or typed_base(args)
            or not args.table
            or not args.output
        ):
            raise UserError(
                "--runs: takes run folders in place of a sweep; give it with --table and --output, and no FILE"
            )
        return
    if bool(args.file) == bool(args.rows):
        raise UserError("give a sweep FILE before all options, or --rows SETTING=VALUES in place of it")
    if args.rows and not args.output:
        raise UserError("--rows: a sweep without a file has no name; give --output DIR")
    if args.table and args.dry_run:
        raise UserError("--table and --dry-run: neither runs anything; give one of the two")


def find_sweep(args: Namespace) -> Sweep:
    """The sweep that the command line asks for. Raises UserError."""
    changes: dict[str, Any] = {"base": typed_base(args)}
    if args.seeds:
        parts = args.seeds.split(",")
        changes["seeds"] = [int(part) if part.strip().isdigit() else part for part in parts]
    if args.compare_with:
        changes["baseline"] = args.compare_with
    scoring = {name: value for name in ("split", "beam_sizes") if (value := getattr(args, name))}
    if args.rows:
        return make_sweep({"rows": grid(args.rows), "evaluate": scoring} | changes, "the command line")
    return read_sweep(Path(args.file), changes | ({"evaluate": scoring} if scoring else {}))


def claim_folder(sweep: Sweep, folder: Path) -> None:
    """Make the folder that of the sweep. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --output") from None
    claim(sweep, folder)


def list_commands(sweep: Sweep, folder: Path) -> None:
    """Print what is still to be run."""
    for training in sweep.trainings:
        wanted = commands(training, sweep, folder)
        for command in wanted:
            print(f"python {shlex.join(command)}")
        if not wanted:
            print(f"# {training.name} is finished")


def table_of_sweep(sweep: Sweep, folder: Path) -> None:
    """Write and print the table of what is finished. Raises UserError if nothing is."""
    runs: dict[str, list[Path]] = {}
    for row in sweep.rows:
        own = [each for each in sweep.of_row(row) if is_trained(each, folder) and is_scored(each, sweep, folder)]
        missing = [str(each.seed) for each in sweep.of_row(row) if each not in own]
        if missing:
            print(f"note: {row}: not finished with seed {', '.join(missing)}, so not in the table", file=sys.stderr)
        if own:
            runs[row] = [folder / training.name for training in own]
    lines = {
        row: [
            f"python {shlex.join(command)}"
            for training in sweep.of_row(row)
            for command in (train_command(training, folder), evaluate_command(training, folder))
        ]
        for row in runs
    }
    show_table(runs, lines, sweep.split, sweep.baseline, folder)


def table_of_runs(args: Namespace) -> None:
    """Write and print the table of any run folders. Raises UserError."""
    split = args.split or "dev"
    if split not in SPLIT_NAMES:
        raise UserError(f"--split: there is no {split!r}; choose dev or test")
    runs: dict[str, list[Path]] = {}
    lines: dict[str, list[str]] = {}
    for option in args.runs:
        row, equals, pattern = option.partition("=")
        folders = [Path(name) for name in sorted(glob(pattern))]
        if not equals or not row:
            raise UserError(f"--runs: {option!r}: expected a row and its run folders, such as merge=runs/merge-*")
        if row in runs:
            raise UserError(f"--runs: there are two rows {row!r}; give each a name of its own")
        without = [str(path) for path in folders if not score_files(path, split)] if folders else [pattern]
        if without:
            raise UserError(
                f"--runs: {without[0]}: no run folder with scores of {split}; let evaluate.py score it first"
            )
        runs[row] = folders
        lines[row] = [line for path in folders for line in told_commands(path, split)]
    baseline = args.compare_with or next(iter(runs))
    if baseline not in runs:
        raise UserError(f"--compare-with: there is no row {baseline!r}; name one of {', '.join(runs)}")
    show_table(runs, lines, split, baseline, Path(args.output))


def told_commands(run: Path, split: str) -> list[str]:
    """The commands that trained and scored a run, as its own files tell them. Raises UserError."""
    path = run / "about.json"
    told = [read_json(path, "name another run folder", dict)] if path.exists() else []
    told += [row.environment or {} for row in read_rows(score_files(run, split)[-1])[-1:]]
    return [f"python {about['command']}" for about in told if "command" in about]


def show_table(
    runs: dict[str, list[Path]], lines: dict[str, list[str]], split: str, baseline: str, folder: Path
) -> None:
    """Write the table of ``runs`` into ``folder``, and print it. Raises UserError if there are none."""
    if not runs:
        raise UserError(f"{folder}: no training is finished, so there is no table yet")
    if baseline not in runs:
        print(f"note: {baseline}: the baseline is not finished, so there are no tests", file=sys.stderr)
    print(write_tables(summaries(runs, split, baseline), lines, split, baseline, folder), end="")
    print(f"\nwritten to {folder / 'table.md'}, table.tex and table.json", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
