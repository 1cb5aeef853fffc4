"""The optimisers of training, with their schedule of learning rates and their moving average of the weights."""

import math
from typing import Any

import keras
from keras import ops

from config import OptimizerSettings, TrainingSettings

_OPTIMIZERS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}


@keras.saving.register_keras_serializable(package="captioning")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly from zero over ``warmup_steps`` batches. Then it is constant or a cosine.

    The cosine ends at 1% of ``peak`` after ``total_steps`` batches. Later batches get 1% of ``peak`` too.
    """

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


def make_optimizer(
    settings: OptimizerSettings, steps_per_epoch: int, peak: float | None = None
) -> keras.optimizers.Optimizer:
    """The optimiser that ``settings`` describe, with its schedule over ``epochs * steps_per_epoch`` batches.

    ``peak`` replaces the setting learning_rate.
    """
    rate = WarmUp(
        peak or settings.learning_rate,
        settings.epochs * steps_per_epoch,
        settings.warmup_steps,
        settings.schedule == "cosine",
    )
    kwargs: dict[str, Any] = {
        "learning_rate": rate,
        "global_clipnorm": settings.clip_norm or None,
        "use_ema": settings.ema_decay > 0,
        "ema_momentum": settings.ema_decay,
        "gradient_accumulation_steps": settings.accumulate if settings.accumulate > 1 else None,
    }
    if settings.optimizer == "adamw":
        kwargs["weight_decay"] = settings.weight_decay
    make = _OPTIMIZERS[settings.optimizer]
    optimizer = (_ramped(make) if settings.ema_decay else make)(**kwargs)
    if settings.optimizer == "adamw":
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def make_tuning_optimizer(
    settings: TrainingSettings, steps_per_epoch: int, encoder_variables: list[keras.Variable]
) -> keras.optimizers.Optimizer:
    """Two optimisers in one: ``encoder_variables`` learn at encoder_learning_rate, all other weights at learning_rate.

    Each of the two clips the gradients of its own weights.
    """
    encoder_optimizer = make_optimizer(settings, steps_per_epoch, peak=settings.encoder_learning_rate)
    decoder_optimizer = make_optimizer(settings, steps_per_epoch)
    slow = {id(variable) for variable in encoder_variables}
    return keras.optimizers.MultiOptimizer(
        lambda variable: encoder_optimizer if id(variable) in slow else decoder_optimizer
    )


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate as it is now; of an optimiser made of two, that of the decoder."""
    # With float16 Keras wraps the optimiser. Of two optimisers the decoder's comes first, as the decoder's weights do.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer = getattr(optimizer, "optimizers", [optimizer])[0]
    return float(ops.convert_to_numpy(optimizer.learning_rate))


def _ramped(optimizer: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """``optimizer`` with a moving average of the weights that is useful from the first batches on.

    The decay of the average after t batches is min(ema_momentum, (1 + t) / (10 + t)). With a constant 0.999 the
    first weights, which are random, would make up most of the average for a thousand batches.
    """

    # On PyTorch an instance of ``optimizer`` has another class, which updates all weights at once. So derive from that.
    class Ramped(type(optimizer())):  # type: ignore[misc]  # a base that is only known at run time
        @property
        def ema_momentum(self):
            done = ops.cast(self.iterations, "float32")
            return ops.minimum(self.final_momentum, (1 + done) / (10 + done))

        @ema_momentum.setter
        def ema_momentum(self, value):
            self.final_momentum = value

    return Ramped
