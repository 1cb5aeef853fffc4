"""The one file that asks which backend Keras runs on, and the one that uses private parts of Keras.

All other code is written in ``keras.ops`` and Keras layers and is the same on every backend. Each function here says
why a backend needs something else, or why the public interface is not enough. Keras is imported inside the functions
only.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any


def backend_name() -> str:
    """``"tensorflow"``, ``"jax"`` or ``"torch"``: the backend that Keras runs on."""
    import keras

    return keras.backend.backend()


def compiles_per_shape() -> bool:
    """Whether each new shape of a batch costs a compilation. If so, batches should come in few shapes.

    JAX compiles a program for each shape. TensorFlow traces with open dimensions and PyTorch runs eagerly.
    """
    return backend_name() == "jax"


def compiles_scans() -> bool:
    """Whether XLA can compile a model that calls ``ops.scan`` over a number of steps that is not fixed.

    On TensorFlow ``ops.scan`` uses TensorArrays that grow. XLA accepts these only for a constant number of steps.
    """
    return backend_name() != "tensorflow"


def devices() -> list[str]:
    """The devices that Keras computes on, such as ``["cpu:0"]``. Keras lists none for PyTorch, so PyTorch is asked.

    Where training shares batches among some devices, it is these.
    """
    import keras

    if backend_name() == "torch":
        import torch

        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    if distribution := keras.distribution.distribution():
        return distribution.device_mesh.devices.tolist()
    return keras.distribution.list_devices()


def models_within(model: Any) -> list[Any]:
    """``model`` and every Keras model nested in it, each once. Keras has no public way to list nested models."""
    import keras

    found = {id(part): part for part in model._flatten_layers() if isinstance(part, keras.Model)}
    return list(found.values())


def parts_of(layer: Any, recursive: bool = False) -> list[Any]:
    """The layers that ``layer`` consists of, in order, and with ``recursive`` those within them.

    Keras shows the layers of a model, but not those of a layer.
    """
    return list(layer._flatten_layers(include_self=False, recursive=recursive))


def count_weights(build: Callable[[], Any]) -> int:
    """How many numbers the weights of the model that ``build`` makes are. The weights take no memory.

    In a stateless scope Keras puts off making them until the scope ends. Here it is also made to forget them.
    """
    import keras
    from keras.src.backend.common import global_state

    put_off = list(global_state.get_global_attribute("uninitialized_variables") or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            return sum(math.prod(weight.shape) for weight in build().weights)
    finally:
        global_state.set_global_attribute("uninitialized_variables", put_off)


def graph_nodes(model: Any) -> Iterator[Any]:
    """The nodes of the graph of a functional or sequential ``model``. A subclassed model has none.

    A node has ``operation``, ``input_tensors`` and ``outputs``. Keras' public interface shows the layers, but not which
    layer reads the output of which.
    """
    graph = graph_of(model)
    if graph is not None:
        yield from (node for level in graph._nodes_by_depth.values() for node in level)


def graph_of(model: Any) -> Any | None:
    """The functional model that holds the graph of ``model``, or None for a subclassed one.

    A sequential model keeps its graph in a functional model.
    """
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None
