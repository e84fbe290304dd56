"""What commands share at the terminal: errors in one line, orderly interruption, progress bars."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from moldiff.errors import MoldiffError

LINE_SECONDS = 60  # between two lines of progress where there is no bar


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Foreseen errors become one line on standard error and their exit code (2, or 1 for a failed training)."""
    try:
        yield
    except MoldiffError as error:
        fail(str(error), error.exit_code)
    except MemoryError:
        fail("not enough memory; ask for a smaller --batch-size or fewer processes")
    except BrokenPipeError:  # whoever read standard output has left: typer ends quietly
        raise
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}; check the path and the free space")


def fail(message: str, code: int = 2) -> NoReturn:
    print(f"moldiff: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; ``code`` is the exit code by which shells know it."""

    def __init__(self, number: int):
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM raise :class:`Interrupted`, once: a second one must not break the saving that follows.

    It is raised wherever the program happens to be. A library may answer with an exception of its own (RDKit's SDWriter with a
    SystemError), which leaves the block as the interruption that caused it; foreseen errors, such as a full disk, leave it
    as they are. Or it is swallowed, as in a finaliser: what is yielded, when it is called, raises it again.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    raised: list[Interrupted] = []

    def stop(number: int, _: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raised.append(Interrupted(number))
        raise raised[0]

    def check() -> None:
        if raised:
            raise raised[0]

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield check
    except (Interrupted, MoldiffError):
        raise
    except (Exception, KeyboardInterrupt):
        check()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def bar(*columns: Any, lines: bool = True) -> Iterator[Any]:
    """A rich progress bar, further columns and the time left, on standard error.

    Where that is no terminal, such as the log of a batch job, ``lines`` say the same once in :data:`LINE_SECONDS`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TimeRemainingColumn

    class Shown(Progress):
        told = time.monotonic()

        def update(self, *of: Any, **what: Any) -> None:
            super().update(*of, **what)
            if lines and self.disable and time.monotonic() - self.told >= LINE_SECONDS:
                self.told = time.monotonic()
                self.console.print(self)

    console = Console(stderr=True)
    every = (BarColumn(), *columns, "left", TimeRemainingColumn())
    if not console.is_terminal:
        every = tuple(column for column in every if not isinstance(column, BarColumn | SpinnerColumn))
    with Shown(*every, console=console, disable=not console.is_terminal) as progress:
        yield progress
