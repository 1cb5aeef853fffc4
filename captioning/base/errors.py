"""The error that a user can mend, and what other errors say in short."""


class UserError(Exception):
    """A problem that the user can mend. The message names the file or setting, what is wrong and what to do."""


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not blank; the name of its type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
