"""Train a captioner or an aligner: read the data, extract features once, train, and keep the best epoch on dev.

    python train.py --preset demo                       # generated scenes, no download, minutes on two CPU cores
    python train.py --preset flickr8k-merge             # Flickr8k in data/flickr8k (python preprocessing.py --download)
    python train.py --resume runs/NAME                  # go on after the last whole epoch, as if never interrupted
    python train.py --stage finetune --init runs/NAME   # let the encoder learn too, from pixels
    python train.py --stage scst --init runs/NAME       # improve a trained captioner by rewards for its captions
    python train.py --stage concepts --init runs/NAME   # learn which words fit a picture, so that fewer are wrong
    python train.py --init pretrained/pocket.zip --dataset folder --data-dir photos --captions-file captions.csv
    python train.py --preset coco-attention --backend jax --devices all     # on all GPUs (docs/scale.md)
    python train.py --preset flickr8k-align             # map images and captions into one space, for retrieval

The result is a run folder (see captioning/storage/runs.py). test.py and evaluate.py read its captioner.zip. A run of
--stage align has an aligner.zip instead, which retrieve.py reads.
"""

import sys
from pathlib import Path

from captioning.base.devices import HOSTS_FORM, first_alone, join_hosts, process_count, use_devices
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
    parser.add_argument(
        "--hosts",
        nargs="?",
        const="auto",
        metavar=HOSTS_FORM,
        help="train together with other processes, each with its own GPUs, on JAX: start this command in each of them. "
        "Without a value JAX finds them out by itself (Slurm, Open MPI, Kubernetes, Cloud TPU). Otherwise the address is "
        "that of process 0, and RANK is from 0. docs/scale.md has the details",
    )
    args = parser.parse_args()
    listen_to_ctrl_c()
    if args.resume and (args.preset or args.config or args.name):
        raise UserError("--resume: the run brings its own settings; leave out --preset, --config and --name")

    run = Run.open(args.resume) if args.resume else None
    config = resolve_resumed(args, run.config()) if run else resolve(args)
    if args.hosts:
        join_hosts(args.hosts)
    use_devices(config.devices, bool(args.hosts))
    if config.features:
        open_source(config.features)  # a place without features is named before the data set is read
    if not run:
        check_encoder(config)
        first_alone(lambda: download_missing(config))
    dataset = load_dataset(config)
    check_splits(dataset)
    return train(config, dataset, run, args.name)


def train(config: Config, dataset: CaptionDataset | MixedDataset, run: Run | None, name: str | None) -> int:
    """Train a new run, whose folder has this ``name`` if given, or go on with ``run``. Returns the exit status."""
    vocabulary = run.vocabulary() if run else find_vocabulary(config, dataset)
    if not run:
        # The extraction of features takes long, so what can fail comes before it.
        Run.check(config, name)
        pretrained = {} if config.init else load_pretrained(config, vocabulary.words, config.seed)
    # Imported here, because these import Keras, which reads KERAS_BACKEND when it is imported.
    from captioning.features.precomputed import StoredFeatures
    from captioning.training.hosts import run_of_this_process
    from captioning.training.loop import fit
    from captioning.training.stages.base import stage_named
    from model import Captioner

    stage = stage_named(config.stage)
    if process_count() > 1:  # the others find the features that process 0 has made
        first_alone(
            lambda: prepare(
                config,
                dataset,
                Captioner.load(Path(config.init)).encoder if config.init else None,
                looks=stage.looks(config),
            )
        )
    initial = Captioner.load(Path(config.init)) if config.init else None
    if initial and not run and config.embedding != "learned":
        arrays = initial.decoder.embedding.pretrained()
        pretrained = extended_arrays(config, arrays, vocabulary.words, config.seed)
    stage.check(config, initial)
    encoder = initial and initial.encoder
    if run and config.features and (size := run.feature_size()):
        encoder = StoredFeatures(1, size)  # so that features of another size are refused
    prepared = prepare(config, dataset, encoder, looks=stage.looks(config))
    folder = name or stage.run_name(config)

    def create(settings: Config) -> Run:
        return Run.create(settings, vocabulary, folder, pretrained)

    try:
        with run_of_this_process(config, run, create) as run:
            print(f"run folder: {run.folder}", flush=True)
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
