"""The one class of foreseen errors: each message names the value, the place and the remedy, in one line."""


class MoldiffError(ValueError):
    """Shown by the command line as one line, without a traceback."""

    exit_code = 2


class RequestError(MoldiffError):
    """A request that cannot be met; the message names the option, the value and the remedy."""
