"""The frame of every script: progress bars, TensorFlow's environment, and errors as one message. No Keras."""

import os
import platform
import sys
from typing import Any

from captioning.base.errors import UserError


def hide_progress() -> bool:
    """Whether progress bars stay away: where nobody looks at a terminal, and in CI."""
    return not sys.stderr.isatty() or bool(os.environ.get("CI"))


def set_up_tensorflow() -> None:
    """Give TensorFlow the environment that suits us, where the user's says nothing. Comes before the first ``import keras``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up chatter would bury our own output
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Its faster kernels, which it uses of its own accord only where the processor has AVX-512's VNNI or better. With
        # AVX2 alone they make encoders and search 1.2 to 1.6 times as fast (benchmarks/onednn.py).
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def run_script(main: Any) -> None:
    """Call ``main()``; turn a UserError or Ctrl-C into one message on stderr and exit status 2 or 130."""
    set_up_tensorflow()
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
