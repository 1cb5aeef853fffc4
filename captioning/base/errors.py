"""The error that a user can mend."""


class UserError(Exception):
    """A problem the user can mend. The message names the file or setting, what is wrong and what to do."""
