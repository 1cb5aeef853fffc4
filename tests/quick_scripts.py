"""A train.py and an evaluate.py that leave what the real ones leave, in a moment and without Keras."""

import json
from pathlib import Path

from captioning.metrics.diagnostics import Diagnostics
from captioning.metrics.significance import Intervals
from captioning.reports.rows import CocoScores, ScoreRow

TRAIN = """
import json, pathlib, signal, sys, time
arguments = sys.argv[1:]
value = lambda option: arguments[arguments.index(option) + 1]
resumed = "--resume" in arguments
run = pathlib.Path(value("--resume")) if resumed else pathlib.Path(value("--run-dir"), value("--name"))
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "config.json").write_text(json.dumps({"epochs": 2}))
print(f"run folder: {run}, resumed: {resumed}", flush=True)
if run.name.startswith("bad"):
    sys.exit("error: the loss became nan")
if run.name.startswith("long") and not resumed:
    def told(*_):
        (run / "told").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, told)
    print("epoch 1: 3 of 9 batches", flush=True)
    time.sleep(60)
(run / "history.csv").write_text("epoch,loss,words_per_second\\n1,3.0,100\\n2,2.0,300\\n")
(run / "state.json").write_text(json.dumps({"epochs": 2, "best_epoch": 2, "best_score": 1.0}))
(run / "checkpoints" / "best-0002.weights.h5").touch()
(run / "captioner.zip").touch()
"""

EVALUATE = """
import json, pathlib, sys
arguments = sys.argv[1:]
value = lambda option: arguments[arguments.index(option) + 1]
out, split = pathlib.Path(value("--output")), value("--split")
out.mkdir(exist_ok=True)
row = json.loads(pathlib.Path(sys.argv[0]).with_name("row.json").read_text())
better = "good" in value("--model")
cider = [10.0 * i + (5 + i % 3) * better + int(value("--model")[-1]) for i in range(8)]
row |= {"split": split, "cider_d": sum(cider) / 8}
images = [{"image_id": i, "file_name": f"{i}.jpg", "caption": "a dog", "cider": x} for i, x in enumerate(cider)]
(out / f"predictions-{split}-beam3.json").write_text(json.dumps(images))
(out / f"scores-{split}-coco.json").write_text(json.dumps([row]))
"""


def score_row(**changes) -> ScoreRow:
    """A row of scores of 8 captions."""
    diagnostics = Diagnostics(
        captions=8,
        distinct=0.5,
        mean_length=9.0,
        vocabulary=1200,
        repeats=0,
        repeated_bigrams=0,
        repeated_trigrams=0,
        most_common=0.1,
        chair_s=0.125,
    )
    scores = CocoScores(
        bleu=(60, 40, 30, 20.5),
        rouge_l=50,
        cider_d=50,
        tokenizer="text.py",
        intervals=Intervals((19, 22), (48, 52), (45, 55)),
        shuffled_bleu=(1, 1, 1, 1),
        shuffled_cider_d=5,
        cider_d_by_reference_length=(),
        diagnostics=diagnostics,
    )
    fields = {"captioner": "c", "split": "test", "protocol": "coco", "decoding": "beam 3", "decoding_seconds": 0.5}
    return ScoreRow(**fields | {"scores": scores, "settings": {"beam_size": 3}} | changes)


def write_scripts(folder: Path) -> Path:
    """Write both scripts into ``folder``."""
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    (folder / "row.json").write_text(json.dumps(score_row().to_json()))
    return folder
