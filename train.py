"""Train a captioner: read the data, extract features once, fit the decoder, keep the best epoch on dev.

    python train.py --preset demo                       # generated scenes, no download, minutes on two CPU cores
    python train.py --preset flickr8k-merge             # Flickr8k in data/flickr8k (python preprocessing.py --download)
    python train.py --resume runs/NAME                  # go on after the last whole epoch, exactly as if never stopped
    python train.py --stage finetune --init runs/NAME   # let the encoder learn too, from pixels
    python train.py --stage scst --init runs/NAME       # improve a trained captioner by its own captions' CIDEr-D
    python train.py --preset flickr8k-align             # images and captions into one space, for retrieval

Leaves a run folder (see runs.py) whose captioner.zip test.py and evaluate.py read, or whose aligner.zip retrieve.py reads.
"""

import sys
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import resolve, settle_backend
from captioning.embeddings.arrays import load_pretrained
from captioning.features.looks import training_looks
from captioning.storage.runs import Run
from config import Config
from preprocessing import fit_vocabulary, load_dataset, prepare

# What may change when a run goes on: where things lie, and how long it goes on. A cosine schedule stretches to new epochs.
RESUMABLE = {"epochs", "patience", "data_dir", "feature_dir", "workers", "sample_captions", "tensorboard"}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--name", help="name of the run folder [default: data, decoder and time]")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run folder")
    args = parser.parse_args()
    if args.resume and (args.preset or args.config or args.name):
        raise UserError("--resume: the run brings its own settings; leave out --preset, --config and --name")

    run = Run.open(args.resume) if args.resume else None
    if run:
        fixed = sorted(set(typed_settings(args)) - RESUMABLE - {"backend"})
        if fixed:
            raise UserError(f"--resume: {', '.join(fixed)} cannot change now; only {', '.join(sorted(RESUMABLE))} can")
        config = run.config().with_overrides(typed_settings(args))
        settle_backend(config.backend)
    else:
        config = resolve(args)

    if config.dataset == "flickr8k" and config.data_dir == Config().data_dir and not run:
        folder = Path(config.data_dir)
        if not folder.exists() or any(folder.glob("*.part")):  # never begun, or begun and interrupted
            from captioning.data import download

            print(f"{folder}: Flickr8k is not there yet; downloading it", file=sys.stderr)
            download.fetch_archives(config)
    dataset = load_dataset(config)
    source = run or (Run.open(config.init) if config.init else None)
    vocabulary = source.vocabulary() if source else fit_vocabulary(config, dataset)
    if not run:
        Run.check(config, args.name)
        # Before the features, which take long.
        inherited = source and config.embedding != "learned"
        pretrained = source.pretrained() if inherited else load_pretrained(config, vocabulary.words)
    from model import Captioner  # here, because it brings in Keras, which reads KERAS_BACKEND when it is imported

    initial = None
    if config.init:
        initial = Captioner.load(Path(config.init))
    prepared = prepare(config, dataset, initial and initial.encoder, looks=training_looks(config))
    run = run or Run.create(config, vocabulary, args.name, pretrained)
    print(f"run folder: {run.folder}", flush=True)

    from captioning.training.loop import fit

    try:
        return fit(config, prepared, vocabulary, run, initial)
    except OSError as error:
        raise UserError(
            f"{run.folder}: cannot be written: {error.strerror or error}. Whole epochs are kept; once that is mended, "
            f"go on with: python train.py --resume {run.folder}"
        ) from None


if __name__ == "__main__":
    run_script(main)
