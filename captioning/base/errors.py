"""The error that a user can mend, the end by a signal, and what other errors say in short."""

from collections import deque


class UserError(Exception):
    """A problem that the user can mend. The message names the file or setting, what is wrong and what to do."""

    def __init__(self, *parts: object):
        super().__init__(*parts)
        _latest.append(str(self))


_latest: deque[str] = deque(maxlen=8)  # messages


def user_error_in(error: BaseException) -> str | None:
    """The message of the UserError that another library has made ``error`` of; None if there was none.

    An error in a thread that reads batches comes out of TensorFlow as one of its own, which holds the text of the
    first.
    """
    return next((message for message in reversed(_latest) if message and message in str(error)), None)


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM), as schedulers do. It ends like after Ctrl-C."""


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not blank; the name of its type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
