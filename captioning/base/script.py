"""The frame of every script: progress bars, TensorFlow's environment, errors and signals as one message. No Keras."""

import contextlib
import errno
import io
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import Any

from captioning.base.errors import Terminated, UserError, user_error_in
from captioning.base.project import INSTALL_ALL
from captioning.base.texts import printable_lines

# The numbers of the errors of a disk, or of a user's share of it, that has no room left.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The environment variable that --quiet sets, so that processes that a script starts are quiet too.
_QUIET = "CAPTIONING_QUIET"


def be_quiet() -> None:
    """Show no progress from here on, in this process and those that it starts."""
    os.environ[_QUIET] = "1"


def quiet() -> bool:
    """Whether no progress is shown at all."""
    return bool(os.environ.get(_QUIET))


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


def let_memory_grow() -> None:
    """Let TensorFlow and JAX take the memory of a GPU as they need it, unless the user wants it otherwise.

    By themselves TensorFlow takes all of it at the start, and JAX three quarters. Must run before the first
    ``import keras``.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


_at_failure: list[Callable[[int], Any]] = []


def at_failure(leave: Callable[[int], Any]) -> None:
    """Let ``run_script`` end a script that fails by ``leave(status)``, in place of Python's own end.

    This is for processes that work together. At Python's own end they would wait for one another.
    """
    _at_failure.append(leave)


def run_script(main: Any) -> None:
    """Call ``main()`` and exit with its status.

    A UserError, and a disk that is full, give one message on stderr and status 2. Ctrl-C and SIGTERM give one message,
    and 130 or 143. Where the reader of stdout leaves early, as ``head`` does, the script ends in silence with status
    141. Characters that stdout cannot show are printed as escapes.
    """
    set_up_tensorflow()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names and captions hold more than some terminals can show
        sys.stdout.reconfigure(errors="backslashreplace")
    let_memory_grow()
    before = _handlers()
    try:
        if _may_listen() and before[signal.SIGTERM] == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        status = _status_or_leave(main)
        _finish_stdout()
        sys.exit(status)
    finally:
        if _may_listen():
            _put_back(before)


def listen_to_ctrl_c() -> None:
    """Let ``kill -INT`` end this process like Ctrl-C, also where a shell started it in the background (``&``)."""
    if _may_listen() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_told: list[Callable[[], Any]] = []


@contextlib.contextmanager
def stops_between_batches() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait, within this block, for the next ``stop_if_told``. A second signal does not wait.

    By themselves they come at any point. In the midst of TensorFlow's or HDF5's own code, that can crash the process.
    """
    if not _may_listen():
        yield
        return
    before = {number: handler for number, handler in _handlers().items() if callable(handler)}  # the others ignore it

    def wait(number: int, frame: FrameType | None) -> None:
        _told.append(partial(before[signal.Signals(number)], number, frame))
        _put_back(before)
        how = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        with contextlib.suppress(OSError):  # print could be in the midst of another line
            os.write(2, f"\nstopping after this batch{how}\n".encode())

    for number in before:
        signal.signal(number, wait)
    try:
        yield
    except BaseException:
        _told.clear()
        raise
    finally:
        _put_back(before)
    stop_if_told()


def stop_if_told() -> None:
    """Raise the KeyboardInterrupt that waits, if there is one. This belongs between two pieces of work."""
    if _told and _may_listen():
        _told.pop()()


def _handlers() -> dict[signal.Signals, Any]:
    """What SIGTERM and Ctrl-C call now."""
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def _put_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _may_listen() -> bool:
    return threading.current_thread() is threading.main_thread()


def _terminate(*_: object) -> None:
    raise Terminated


def _status_or_leave(main: Any) -> int:
    """The exit status of ``main()``. A failure calls what ``at_failure`` was given, which may not come back."""
    try:
        status = _status(main)
    except Exception:
        if not _at_failure:
            raise
        traceback.print_exc()
        status = 1
    if status:
        _finish_stdout()
        sys.stderr.flush()
        for leave in _at_failure:
            leave(status)
    return status


def _status(main: Any) -> int:
    """The exit status of ``main()``. What ends it is said on stderr."""
    try:
        status = main()
        sys.stdout.flush()  # here, because an error of Python's own flush at the end cannot be caught
        return status
    except UserError as error:
        return _refused(error)
    except Terminated:
        _say("\nterminated")
        return 143
    except KeyboardInterrupt:
        _say("\ninterrupted")
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _refused(f"{str(error.filename)[:100]}...: {error.strerror}; choose a shorter one")
        if error.errno not in FULL:
            raise
        return _refused(
            f"{error.filename or 'the output'}: cannot be written ({error.strerror}); make room there, then run the same "
            "command again"
        )
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in ("captioning", "config", "model", "preprocessing"):
            raise
        return _refused(f"{error.name} is not installed; {INSTALL_ALL}")
    except Exception as error:
        if not (found := user_error_in(error)):
            raise
        return _refused(found)


def _refused(error: UserError | str) -> int:
    _say(f"error: {error}")
    return 2


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the disk that stderr goes to may be full, too
        print(printable_lines(text), file=sys.stderr, flush=True)


def _finish_stdout() -> None:
    """Flush stdout. Where that is impossible, what is left goes nowhere: Python flushes once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
