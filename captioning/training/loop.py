"""Training: the optimiser, and the loop that scores, saves and resumes, for all stages."""

import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.script import hide_progress
from captioning.decoders.build import DECODERS
from captioning.features.batches import FeatureBatches
from captioning.features.encoder import let_learn
from captioning.features.extraction import extract_features
from captioning.features.folding import FoldedEncoder
from captioning.features.prepared import Prepared
from captioning.features.store import FeatureStore
from captioning.metrics import scores as metrics
from captioning.metrics.recall import CUTS, SIDES
from captioning.reports.curves import draw_curves
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.contrast import AlignmentTrainer
from captioning.retrieval.index import neighbours
from captioning.retrieval.ranking import score
from captioning.storage.runs import Run
from captioning.training.batches import CaptionBatches, GroupedBatches, PairBatches, PixelBatches, ReferenceBatches
from captioning.training.cross_entropy import CaptionTrainer
from captioning.training.fine_tuning import PixelTrainer
from captioning.training.self_critical import Rewards, SelfCritic, SelfCriticalTrainer
from captioning.words.tokenizer import tokenize
from captioning.words.vocabulary import Vocabulary
from config import Config, search_name
from model import Captioner


@keras.saving.register_keras_serializable(package="captioning")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from zero over ``warmup_steps`` batches, then constant, or a cosine down to 1% at ``total_steps``."""

    def __init__(self, peak: float, total_steps: int, warmup_steps: int, cosine: bool):
        self.peak, self.total_steps, self.warmup_steps, self.cosine = peak, total_steps, warmup_steps, cosine

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = ops.minimum((step + 1) / max(1, self.warmup_steps), 1.0)
        if self.cosine:
            span = max(1, self.total_steps - self.warmup_steps)
            done = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
            rate = rate * (0.01 + 0.99 * 0.5 * (1 + ops.cos(math.pi * done)))
        return self.peak * rate

    def get_config(self):
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "cosine": self.cosine,
        }


def _ramped(optimizer: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """``optimizer`` with a moving average of the weights that is useful from the first batches on.

    Its decay after t batches is min(ema_momentum, (1 + t) / (10 + t)); with a constant .999 the first weights, which are
    random, would make most of the average for a thousand batches. It extends the class that ``optimizer`` makes instances
    of, which on PyTorch is another one, that updates all weights in one go.
    """

    class Ramped(type(optimizer())):
        @property
        def ema_momentum(self):
            done = ops.cast(self.iterations, "float32")
            return ops.minimum(self.final_momentum, (1 + done) / (10 + done))

        @ema_momentum.setter
        def ema_momentum(self, value):
            self.final_momentum = value

    return Ramped


def make_optimizer(config: Config, steps_per_epoch: int, peak: float | None = None) -> keras.optimizers.Optimizer:
    """The optimiser that ``config`` describes, with its schedule over ``epochs * steps_per_epoch`` batches.

    ``peak`` takes the place of the setting learning_rate.
    """
    rate = WarmUp(
        peak or config.learning_rate, config.epochs * steps_per_epoch, config.warmup_steps, config.schedule == "cosine"
    )
    kwargs: dict[str, Any] = {
        "learning_rate": rate,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": config.ema_decay > 0,
        "ema_momentum": config.ema_decay,
        "gradient_accumulation_steps": config.accumulate if config.accumulate > 1 else None,
    }
    if config.optimizer == "adamw":
        kwargs["weight_decay"] = config.weight_decay
    make = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}[
        config.optimizer
    ]
    optimizer = (_ramped(make) if config.ema_decay else make)(**kwargs)
    if config.optimizer == "adamw":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def make_tuning_optimizer(
    config: Config, steps_per_epoch: int, encoder_variables: list[keras.Variable]
) -> keras.optimizers.Optimizer:
    """Two such optimisers in one: ``encoder_variables`` learn at a rate of their own, and gradients are clipped apart."""
    encoder_optimizer = make_optimizer(config, steps_per_epoch, peak=config.encoder_learning_rate)
    decoder_optimizer = make_optimizer(config, steps_per_epoch)
    slow = {id(variable) for variable in encoder_variables}
    return keras.optimizers.MultiOptimizer(
        lambda variable: encoder_optimizer if id(variable) in slow else decoder_optimizer
    )


def batches_for(config: Config) -> type[CaptionBatches]:
    """What teacher forcing on stored features reads: batches of whole images where the decoder gains by them."""
    return GroupedBatches if DECODERS[config.decoder].by_image else CaptionBatches


class Recorder(keras.callbacks.Callback):
    """After each epoch: captions the dev images, writes history, curves and checkpoints, and stops when it should.

    An epoch depends on the weights and the optimiser before it and on ``(seed, epoch)``, on nothing else: the order of
    the captions and all dropout are drawn anew from these two. So a resumed run repeats an undisturbed one.
    """

    # Of what an epoch is scored by, what its line of history.csv holds, where there is such a thing.
    columns: tuple[str, ...] = ("loss", "nll", "val_loss", "val_nll", "bleu4", "cider", "reward", "reward_share")

    def __init__(self, config: Config, prepared: Prepared, captioner: Captioner, run: Run, batches: CaptionBatches):
        super().__init__()
        self.config, self.captioner, self.run, self.batches = config, captioner, run, batches
        self.dataset, self.dev = prepared.dataset.name, prepared.usable("dev")
        self._read_dev(prepared.store)
        if config.stage == "finetune":
            self.encode = FoldedEncoder(captioner.encoder)  # of dev
        self.lines = run.history()[: run.state()["epochs"]]
        self.average = keras.callbacks.SwapEMAWeights() if config.ema_decay else keras.callbacks.Callback()

    def set_model(self, model):
        super().set_model(model)
        self.average.set_model(model)

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        # The torch backend draws dropout from torch's global state, the others from those of the layers.
        keras.utils.set_random_seed(int(np.random.SeedSequence((self.config.seed, epoch)).generate_state(1)[0]))
        states = [v for v in self.model.non_trainable_variables if v.path.endswith("seed_generator_state")]
        for i, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.config.seed, epoch, i)).generate_state(2))
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._check(logs["loss"])  # which waits for the batch, as Keras' progress bar does

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs["loss"])  # self-critical training tells of no batches
        trained = time.perf_counter()
        self.average.on_test_begin()  # from here on the model holds the averaged weights, if any
        scores, samples = self._score_dev()
        self._check(scores["val_loss"])  # which the last step may have broken
        logs |= scores
        # With float16 Keras wraps the optimiser; and of two the decoder's comes first, as its weights do.
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        optimizer = getattr(optimizer, "optimizers", [optimizer])[0]
        line = {
            "epoch": epoch + 1,
            **{name: float(logs[name]) for name in self.columns if name in logs},
            "learning_rate": float(ops.convert_to_numpy(optimizer.learning_rate)),
            "words_per_second": logs.pop("words", self.batches.words) / (trained - self.began),
            "seconds": time.perf_counter() - self.began,
        }
        self.lines.append(line)
        best = max(self.lines, key=self._goodness)
        if best is line:
            self._save_best(epoch + 1)
        self.average.on_test_end()
        self._save(epoch + 1, int(best["epoch"]), self._goodness(best))
        self._show(line, samples, is_best=best is line)
        if self.config.patience and epoch + 1 - best["epoch"] >= self.config.patience:
            print(f"no better epoch for {self.config.patience} epochs; stopping")
            self.model.stop_training = True

    def _check(self, loss: float) -> None:
        """Raise UserError when ``loss``, the mean of the epoch so far, is no number any more: no later batch mends that."""
        if not math.isfinite(loss):
            clip = f"a clip_norm below {self.config.clip_norm:g}" if self.config.clip_norm else "a clip_norm, say 5"
            raise UserError(
                f"{self.run.folder}: in epoch {len(self.lines) + 1} the loss became {loss}; whole epochs that are kept: "
                f"{len(self.lines)}. Train anew with a lower learning_rate, a longer warmup_steps or {clip}"
                + ("" if self.config.precision == "float32" else ", or with precision float32")
            )

    def _goodness(self, line: dict[str, float]) -> float:
        value = -line["val_nll"] if self.config.monitor == "loss" else line[self.config.monitor]
        return float(f"{value:.6g}")  # as history.csv holds it, so that a resumed run ranks its epochs alike

    def _read_dev(self, store: FeatureStore) -> None:
        self.dev_data = self._dev_data(store)
        self.cider = metrics.Cider([[tokenize(caption) for caption in record.captions] for record in self.dev])

    def _score_dev(self) -> tuple[dict[str, float], list[str]]:
        """What the model as it is scores on dev, and for each of the first dev images what it says of it."""
        with self._encoded_dev() as (pairs, features):
            found = self.model.evaluate(pairs, verbose=0, return_dict=True)
            captions = self._caption_dev(features)
        scores = {f"val_{name}": value for name, value in found.items()}
        scores["bleu4"] = metrics.bleu(captions, [record.captions for record in self.dev])[3]
        scores["cider"] = self.cider.score(range(len(captions)), [tokenize(caption) for caption in captions]).mean()
        return scores, captions

    def _save_best(self, epoch: int) -> None:
        self.captioner.decoder.save_weights(self.run.checkpoints / f"best-{epoch:04d}.weights.h5")
        if self.config.stage == "finetune":
            self.captioner.encoder.save_weights(self.run.checkpoints / f"encoder-{epoch:04d}.weights.h5")

    def _dev_data(self, store: FeatureStore) -> tuple[CaptionBatches, FeatureBatches]:
        """The dev captions for teacher forcing and the dev images, with their features in ``store``."""
        pairs = [(record.file_name, text) for record in self.dev for text in record.captions]
        return (
            CaptionBatches(store, pairs, self.captioner.vocabulary, self.config, shuffle=False),
            FeatureBatches(store, [record.file_name for record in self.dev], self.config.decode_batch_size),
        )

    @contextmanager
    def _encoded_dev(self) -> Iterator[tuple[CaptionBatches, FeatureBatches]]:
        """The dev data under the encoder as it is now."""
        if self.config.stage != "finetune":
            yield self.dev_data
            return
        with tempfile.TemporaryDirectory(dir=self.run.folder, prefix=".dev-") as folder:
            config = self.config.with_overrides({"feature_dir": folder})
            self.encode.renew()
            [store] = extract_features(config, self.dataset, self.dev, self.captioner.encoder, self.encode)
            yield self._dev_data(store)

    def _caption_dev(self, features: FeatureBatches) -> list[str]:
        """The best caption of each dev image."""
        captions = self.captioner.caption(features, self.config.dev_search())
        return [found[0].text for found in captions[: len(self.dev)]]

    def _save(self, epochs: int, best_epoch: int, best_score: float) -> None:
        """Write the checkpoint; it and the best one count as soon as state.json names their epochs, and not before."""
        folder = self.run.checkpoints
        self.model.save_weights(folder / f"last-{epochs:04d}.weights.h5")
        self.run.write_history(self.lines)
        self.run.write_state(epochs=epochs, best_epoch=best_epoch, best_score=best_score)
        for path in folder.glob("*.weights.h5"):
            if path not in [self.run.checkpoint(which) for which in ("last", "best", "encoder")]:
                path.unlink()
        draw_curves(self.run)

    def _summary(self, line: dict[str, float]) -> str:
        return (
            f"nll {line['nll']:.3f}, dev nll {line['val_nll']:.3f}, "
            f"dev BLEU-4 {line['bleu4']:.2f}, CIDEr {line['cider']:.1f} ({search_name(self.config.dev_search())})"
        )

    def _show(self, line: dict[str, float], samples: list[str], is_best: bool) -> None:
        text = (
            f"epoch {line['epoch']}/{self.config.epochs}: {self._summary(line)}{' *' if is_best else ''}, "
            f"{line['words_per_second']:,.0f} words/s, {line['seconds']:.0f} s"
        )
        shown = zip(self.dev[: self.config.sample_captions], samples, strict=False)
        samples = "".join(f"    {record.file_name}: {sample}\n" for record, sample in shown)
        print(text + "\n" + samples, end="", flush=True)
        with open(self.run.folder / "samples.txt", "a", encoding="utf-8") as file:
            file.write(f"epoch {line['epoch']}\n{samples}")


class AlignmentRecorder(Recorder):
    """A Recorder that scores an aligner, by retrieval within dev."""

    columns = (
        *("loss", "val_loss", "recall"),
        *(f"{side}_r{cut}" for side in SIDES for cut in CUTS),
    )

    def _read_dev(self, store: FeatureStore) -> None:
        pairs = [(record.file_name, text) for record in self.dev for text in record.captions]
        names = [record.file_name for record in self.dev]
        self.pairs = PairBatches(store, pairs, self.captioner.vocabulary, self.config)
        self.features = FeatureBatches(store, names, self.config.decode_batch_size)
        self.texts = [text for _, text in pairs]
        self.image_of = np.repeat(np.arange(len(self.dev)), [len(record.captions) for record in self.dev])

    def _score_dev(self) -> tuple[dict[str, float], list[str]]:
        loss = self.model.evaluate(self.pairs, verbose=0, return_dict=True)["loss"]
        images = self.captioner.embed_features(self.features)[: len(self.dev)]
        captions = self.captioner.embed_texts(self.texts)
        found = score(images, captions, self.image_of)
        scores = {f"{side}_r{cut}": found[side][f"r{cut}"] for side in SIDES for cut in CUTS}
        nearest, _ = neighbours(images[: self.config.sample_captions], captions, 1)
        return {"val_loss": loss, "recall": found["recall"], **scores}, [self.texts[i] for i in nearest[:, 0]]

    def _save_best(self, epoch: int) -> None:
        self.captioner.towers.save_weights(self.run.checkpoints / f"best-{epoch:04d}.weights.h5")

    def _summary(self, line: dict[str, float]) -> str:
        text = f"loss {line['loss']:.3f}, dev loss {line['val_loss']:.3f}, dev R@1/5/10"
        for side in SIDES:
            recalls = "/".join(f"{line[f'{side}_r{cut}']:.1f}" for cut in CUTS)
            text += f" {side.replace('_', ' ')} {recalls}"
        return text


def fit(config: Config, prepared: Prepared, vocabulary: Vocabulary, run: Run, initial: Captioner | None = None) -> int:
    """Train ``run`` to its last epoch and write its bundle from the best one. Returns the exit status.

    Training starts from the weights of ``initial``, if any, whose encoder then is that of ``prepared``. What stage=align
    trains is an aligner. Goes on after the last whole epoch of the run. Ctrl-C keeps all whole epochs and returns 130. Of
    a run whose epochs are done, only the bundle is written, if it is missing or older than the best epoch.
    """
    state = run.state()
    patience_ended = 0 < config.patience <= state["epochs"] - state["best_epoch"]
    finished = state["epochs"] >= config.epochs or patience_ended
    if state["epochs"]:
        for which in ("last", "best", *["encoder"] * (config.stage == "finetune")):
            if not run.checkpoint(which).exists():
                raise UserError(f"{run.checkpoint(which)}: missing; without it the run cannot go on: start it anew")
    best = run.checkpoint("best")
    if finished and run.bundle.exists() and run.bundle.stat().st_mtime >= best.stat().st_mtime:
        setting = "patience" if patience_ended else "epochs"
        raise UserError(
            f"{setting}: {run.folder} has its {state['epochs']} epochs already; ask for more with --{setting}"
        )
    if config.precision != "float32":
        keras.mixed_precision.set_dtype_policy(f"mixed_{config.precision}")
    keras.utils.set_random_seed(config.seed)
    if config.stage == "align":
        captioner, make_recorder = Aligner.untrained(config, vocabulary, prepared.encoder), AlignmentRecorder
        learner, what = captioner.towers, f"{config.text_encoder} and image towers"
    else:
        captioner, make_recorder = Captioner.untrained(config, vocabulary, prepared.encoder, run.pretrained()), Recorder
        learner, what = captioner.decoder, f"{config.decoder} decoder"
        if initial:
            learner.set_weights(initial.decoder.get_weights())
    losses = (config.label_smoothing, config.word_dropout, config.attention_penalty)
    if config.stage == "scst":
        train = ReferenceBatches(prepared.store, prepared.captions("train"), vocabulary, config, views=prepared.views)
        rewards = Rewards([(prepared.store.rows[name], text) for name, text in prepared.captions("train")], vocabulary)
        trainer = SelfCriticalTrainer(captioner.decoder, config)
    elif config.stage == "finetune":
        train = PixelBatches(
            prepared.store,
            {record.file_name: record.path for record in prepared.usable("train")},
            prepared.captions("train"),
            vocabulary,
            config,
        )
        trainer = PixelTrainer(captioner.encoder, captioner.decoder, *losses)
    elif config.stage == "align":
        train = PairBatches(prepared.store, prepared.captions("train"), vocabulary, config, views=prepared.views)
        trainer = AlignmentTrainer(captioner.towers, config)
    else:
        batches = batches_for(config)
        train = batches(prepared.store, prepared.captions("train"), vocabulary, config, views=prepared.views)
        trainer = CaptionTrainer(captioner.decoder, *losses)
    if config.stage == "finetune":
        optimizer = make_tuning_optimizer(config, len(train), let_learn(captioner.encoder, config.tuned_layers))
    else:
        optimizer = make_optimizer(config, len(train))
    trainer.compile(optimizer=optimizer)
    if state["epochs"]:
        trainer.optimizer.build(trainer.trainable_variables)
        _load(trainer, run.checkpoint("last"))
    recorder = make_recorder(config, prepared, captioner, run, train)
    callbacks = [recorder, *_tensorboard(config, run)]
    print(
        f"{sum(map(len, train.batches))} captions in {len(train)} batches ({train.padding:.0%} padding), {len(vocabulary)} words, "
        f"{what} with {learner.count_params():,} weights"
    )
    epochs = range(state["epochs"], state["epochs"] if finished else config.epochs)
    if epochs:
        run.begin(config)
    try:
        if config.stage == "scst":
            _self_critical_epochs(SelfCritic(trainer, train, rewards, config), callbacks, epochs)
        else:
            trainer.fit(
                train,
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                callbacks=callbacks,
                # CaptionBatches shuffles. Keras would do it again, from a random state that no resume restores.
                shuffle=False,
                verbose=0 if hide_progress() else 1,
            )
        status = 0
    except KeyboardInterrupt:
        epochs = run.state()["epochs"]
        print(f"\ninterrupted; {epochs} whole epochs are saved. Go on with: python train.py --resume {run.folder}")
        status = 130
    if run.state()["epochs"]:
        _load(learner, run.checkpoint("best"))
        if config.stage == "finetune":
            _load(captioner.encoder, run.checkpoint("encoder"))
        captioner.save(run.bundle)
        print(f"{run.bundle.stem} of epoch {run.state()['best_epoch']}: {run.bundle}")
    return status


def _load(model: keras.Model, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise errors of many kinds on damaged files
        raise UserError(
            f"{path}: damaged, or written by a release whose model was another ({error}); start the run anew"
        ) from None


def _self_critical_epochs(critic: SelfCritic, callbacks: list, epochs: range) -> None:
    """What ``fit`` does, for training steps that need captions drawn in between."""
    trainer = critic.trainer
    trainer.stop_training = False
    listeners = keras.callbacks.CallbackList(callbacks, model=trainer)
    listeners.on_train_begin()
    for epoch in epochs:
        listeners.on_epoch_begin(epoch)
        listeners.on_epoch_end(epoch, critic.epoch(epoch))
        if trainer.stop_training:
            break
    listeners.on_train_end()


def _tensorboard(config: Config, run: Run) -> list[keras.callbacks.Callback]:
    if not config.tensorboard:
        return []
    if not importlib.util.find_spec("tensorflow"):
        print("note: TensorBoard logs need the package tensorflow; without it there is history.csv", file=sys.stderr)
        return []
    return [keras.callbacks.TensorBoard(str(run.folder / "tensorboard"), write_graph=False)]
