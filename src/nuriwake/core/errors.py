"""The two kinds of failure a user sees; both carry one complete sentence."""


class UserError(ValueError):
    """Something the user gave is wrong (a file, a field, an option). The command line exits with 2.

    The message says which file, field or value, what was expected, what was found and what to do.
    """

    exit_code = 2


class RunError(RuntimeError):
    """The work itself failed (the loss is not finite, the disk is full). The command line exits with 1."""

    exit_code = 1
