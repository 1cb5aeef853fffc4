"""Optimisers: what the schedule, the weight decay and the moving average of the weights do."""

import math

import keras
import pytest
from keras import ops

from captioning.decoders.build import build_decoder
from captioning.training.optimizers import WarmUp, make_optimizer
from config import Config


def rates(schedule: WarmUp, steps) -> list[float]:
    return [float(ops.convert_to_numpy(schedule(step))) for step in steps]


def test_warm_up_then_constant():
    schedule = WarmUp(2.0, total_steps=10, warmup_steps=4, cosine=False)
    assert rates(schedule, [0, 1, 2, 3, 4, 9, 50]) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0])
    assert rates(WarmUp(2.0, 10, 0, False), [0, 1, 9]) == pytest.approx([2.0] * 3)


def test_warm_up_then_cosine():
    schedule = WarmUp(2.0, total_steps=12, warmup_steps=4, cosine=True)
    expected = [2.0 * (0.01 + 0.99 * (1 + math.cos(math.pi * done / 8)) / 2) for done in range(9)]
    assert rates(schedule, range(4, 13)) == pytest.approx(expected, rel=1e-5)
    assert rates(schedule, [0, 3, 4, 8, 12, 40]) == pytest.approx([0.5, 2.0, 2.0, 1.01, 0.02, 0.02], rel=1e-5)
    twin = WarmUp.from_config(schedule.get_config())
    assert rates(twin, range(13)) == rates(schedule, range(13))


@pytest.mark.backends
def test_make_optimizer():
    adam = make_optimizer(Config(clip_norm=3.0, learning_rate=0.25), 10)
    assert isinstance(adam, keras.optimizers.Adam)
    assert adam.global_clipnorm == 3.0
    assert float(ops.convert_to_numpy(adam.learning_rate)) == 0.25
    sgd = make_optimizer(Config(optimizer="sgd", clip_norm=0), 10)
    assert isinstance(sgd, keras.optimizers.SGD)
    assert sgd.global_clipnorm is None
    adamw = make_optimizer(Config(optimizer="adamw", weight_decay=0.1), 10)
    model = build_decoder(Config(embedding_size=6, hidden_size=5, decoder="merge"), 11, 2, 3)
    adamw.build(model.trainable_variables)
    decayed = {variable.path for variable in model.trainable_variables if adamw._use_weight_decay(variable)}
    assert decayed == {variable.path for variable in model.trainable_variables if "bias" not in variable.path}
    assert 0 < len(decayed) < len(model.trainable_variables)
    # Keras' own class for this backend, also with our moving average: PyTorch's updates all weights in one go.
    averaging = make_optimizer(Config(optimizer="adamw", ema_decay=0.9), 10)
    assert isinstance(averaging, type(keras.optimizers.AdamW()))


@pytest.mark.backends
def test_the_moving_average_soon_forgets_the_first_weights():
    sgd = make_optimizer(Config(optimizer="sgd", learning_rate=1.0, clip_norm=0, ema_decay=0.3), 10)
    weight = keras.Variable(100.0)
    sgd.build([weight])
    expected = None
    for t in range(8):
        sgd.apply([ops.convert_to_tensor(10.0)])
        now, decay = 100.0 - 10 * (t + 1), min(0.3, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * now if t else now
    assert ops.convert_to_numpy(weight) == 20
    keras_average = sgd._model_variables_moving_average[0]
    assert float(ops.convert_to_numpy(keras_average)) == pytest.approx(expected, rel=1e-5)
