"""Train a captioner or an aligner: read the data, extract features once, train, and keep the best epoch on dev.

    python train.py --preset demo                       # generated scenes, no download, minutes on two CPU cores
    python train.py --preset flickr8k-merge             # Flickr8k in data/flickr8k (python preprocessing.py --download)
    python train.py --resume runs/NAME                  # go on after the last whole epoch, as if never interrupted
    python train.py --stage finetune --init runs/NAME   # let the encoder learn too, from pixels
    python train.py --stage scst --init runs/NAME       # improve a trained captioner by rewards for its captions
    python train.py --stage concepts --init runs/NAME   # learn which words fit a picture, so that fewer are wrong
    python train.py --init pretrained/pocket.zip --dataset folder --data-dir photos --captions-file captions.csv
    python train.py --preset flickr8k-align             # map images and captions into one space, for retrieval

The result is a run folder (see captioning/storage/runs.py). test.py and evaluate.py read its captioner.zip. A run of
--stage align has an aligner.zip instead, which retrieve.py reads.
"""

import sys
from pathlib import Path

from captioning.base.devices import use_devices
from captioning.base.errors import UserError
from captioning.base.script import listen_to_ctrl_c, run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve, resolve_resumed, resumable_settings
from captioning.data.mixture import MixedDataset
from captioning.data.records import CaptionDataset
from captioning.embeddings.arrays import extended_arrays, load_pretrained
from captioning.features.region_sources import open_source
from captioning.storage.runs import Run
from config import Config, MixtureSettings
from preprocessing import check_encoder, find_vocabulary, load_dataset, prepare


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--name", help="name of the run folder [default: data, decoder (or align) and time]")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help=f"go on with this run folder; only these settings may change: {', '.join(resumable_settings())}",
    )
    args = parser.parse_args()
    listen_to_ctrl_c()
    if args.resume and (args.preset or args.config or args.name):
        raise UserError("--resume: the run brings its own settings; leave out --preset, --config and --name")

    run = Run.open(args.resume) if args.resume else None
    config = resolve_resumed(args, run.config()) if run else resolve(args)
    use_devices(config.devices)
    if config.features:
        open_source(config.features)  # a place without features is named before the data set is read
    if not run:
        check_encoder(config)
        download_missing(config)
    dataset = load_dataset(config)
    check_splits(dataset)
    vocabulary = run.vocabulary() if run else find_vocabulary(config, dataset)
    if not run:
        # The extraction of features takes long, so what can fail comes before it.
        Run.check(config, args.name)
        pretrained = {} if config.init else load_pretrained(config, vocabulary.words, config.seed)
    # Imported here, because these import Keras, which reads KERAS_BACKEND when it is imported.
    from captioning.training.loop import fit
    from captioning.training.stages.base import stage_named
    from model import Captioner

    initial = Captioner.load(Path(config.init)) if config.init else None
    if initial and not run and config.embedding != "learned":
        arrays = initial.decoder.embedding.pretrained()
        pretrained = extended_arrays(config, arrays, vocabulary.words, config.seed)
    stage = stage_named(config.stage)
    stage.check(config, initial)
    prepared = prepare(config, dataset, initial and initial.encoder, looks=stage.looks(config))
    if not run:
        name = args.name or stage.run_name(config)
        run = Run.create(config, vocabulary, name, pretrained)
    print(f"run folder: {run.folder}", flush=True)
    try:
        return fit(config, prepared, vocabulary, run, initial)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{run.folder}: cannot be written: {error.strerror or error}. Whole epochs are kept. Remove the cause, "
            f"then go on with: python train.py --resume {run.folder}"
        ) from None


def download_missing(config: MixtureSettings) -> None:
    """Download Flickr8k if its usual folder is a data set of the run and is missing or incomplete."""
    usual = Config().data_sets()[0]
    for data_set in config.data_sets():
        folder = Path(data_set.data_dir)
        if (data_set.dataset, data_set.data_dir) != (usual.dataset, usual.data_dir):
            continue
        if not folder.exists() or any(folder.glob("*.part")):  # the download never began, or was interrupted
            from captioning.data import download

            print(f"{folder}: Flickr8k is not there yet; downloading it", file=sys.stderr)
            download.fetch_archives(data_set)


def check_splits(dataset: CaptionDataset | MixedDataset) -> None:
    """Report the data sets that are not scored. Raises UserError if one has no split train, or if none has dev."""
    for split in ("train", "dev"):
        dataset.split(split)
    if isinstance(dataset, MixedDataset):
        for name in dataset.parts:
            if not dataset.has(name, "dev"):
                print(f"note: {name}: has no split dev, so it is trained on and not scored", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
