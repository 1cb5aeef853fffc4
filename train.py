"""Train a captioner: read the data, extract features once, fit the decoder, keep the best epoch on dev.

    python train.py --preset demo                       # generated scenes, no download, minutes on two CPU cores
    python train.py --preset flickr8k-merge             # Flickr8k in data/flickr8k (python preprocessing.py --download)
    python train.py --resume runs/NAME                  # go on after the last whole epoch, exactly as if never stopped

Leaves a run folder (see runs.py) whose captioner.zip test.py and evaluate.py read.
"""

import sys
from pathlib import Path

import config as settings
from config import UserError
from preprocessing import fit_vocabulary, prepare
from runs import Run

# What may change when a run goes on: how long, and where things lie; nothing that the result depends on.
RESUMABLE = {"epochs", "patience", "data_dir", "feature_dir", "workers", "sample_captions", "tensorboard"}


def main() -> int:
    parser = settings.make_parser(__doc__)
    parser.add_argument("--name", help="name of the run folder [default: data, decoder and time]")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run folder")
    args = parser.parse_args()
    if args.resume and (args.preset or args.config or args.name):
        raise UserError("--resume: the run brings its own settings; leave out --preset, --config and --name")

    run = Run.open(args.resume) if args.resume else None
    if run:
        fixed = sorted(set(settings.typed_settings(args)) - RESUMABLE - {"backend"})
        if fixed:
            raise UserError(f"--resume: {', '.join(fixed)} cannot change now; only {', '.join(sorted(RESUMABLE))} can")
        config = run.config().with_overrides(settings.typed_settings(args))
        settings.settle_backend(config.backend)
    else:
        config = settings.resolve(args)

    if config.dataset == "flickr8k" and not Path(config.data_dir).exists() and not run:
        import download

        print(f"{config.data_dir}: not there yet; downloading Flickr8k", file=sys.stderr)
        download.fetch_flickr8k(config)
    prepared = prepare(config)

    # Only now, with KERAS_BACKEND settled and the data read, does Keras come in.
    from training import fit

    vocabulary = run.vocabulary() if run else fit_vocabulary(config, prepared.dataset)
    run = run or Run.create(config, vocabulary, args.name)
    print(f"run folder: {run.folder}")
    return fit(config, prepared, vocabulary, run)


if __name__ == "__main__":
    settings.run_script(main)
