"""The frame of every script: progress bars, TensorFlow's environment, and errors as one message. No Keras."""

import os
import platform
import sys
from typing import Any

from captioning.base.errors import UserError


def hide_progress() -> bool:
    """Whether progress bars are left out: where stderr is no terminal, and in CI."""
    return not sys.stderr.isatty() or bool(os.environ.get("CI"))


def set_up_tensorflow() -> None:
    """Set TensorFlow's environment variables that the user has not set. Must run before the first ``import keras``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its messages at the start would hide our own output
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Turn on its faster kernels. By itself it uses them only on processors with AVX-512 VNNI or better. With AVX2
        # alone they make encoders and search 1.2 to 1.6 times as fast (benchmarks/onednn.py).
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def run_script(main: Any) -> None:
    """Call ``main()`` and exit with its status. A UserError or Ctrl-C gives one message on stderr and status 2 or 130.

    Where the reader of stdout leaves early, as ``head`` does, the script ends in silence with status 141.
    """
    set_up_tensorflow()
    try:
        status = main()
        sys.stdout.flush()  # here, because an error of Python's own flush at the end cannot be caught
        sys.exit(status)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at the end
        sys.exit(141)
