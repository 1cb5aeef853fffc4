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
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve, resolve_resumed, resumable_settings
from captioning.data.aside import put_aside
from captioning.embeddings.arrays import load_pretrained
from captioning.storage.runs import Run
from config import Config
from preprocessing import fit_vocabulary, load_dataset, prepare


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--name", help="name of the run folder [default: data, decoder and time]")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help=f"go on with this run folder; only these settings can change then: {', '.join(resumable_settings())}",
    )
    args = parser.parse_args()
    if args.resume and (args.preset or args.config or args.name):
        raise UserError("--resume: the run brings its own settings; leave out --preset, --config and --name")

    run = Run.open(args.resume) if args.resume else None
    config = resolve_resumed(args, run.config()) if run else resolve(args)

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
        pretrained = source.pretrained() if inherited else load_pretrained(config, vocabulary.words, config.seed)
    # Keras comes before the records, of which COCO's would else hold on to a third of their memory when fit lets them go.
    aside = put_aside(dataset)
    del dataset
    from model import Captioner  # here, because it brings in Keras, which reads KERAS_BACKEND when it is imported

    dataset = aside()
    del aside
    initial = None
    if config.init:
        initial = Captioner.load(Path(config.init))
    prepared = prepare(config, dataset, initial and initial.encoder, training=True)
    del dataset  # or fit could not let go of its training captions
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
