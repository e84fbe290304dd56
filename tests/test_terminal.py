"""An interruption leaves the block as such, whatever it breaks on its way; errors that have nothing to do with it do not."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import StringIO
from pathlib import Path
from types import FrameType

import pytest
from rdkit import Chem
from rich.progress import SpinnerColumn

from moldiff import terminal
from moldiff.errors import RequestError
from moldiff.files import write_atomically
from moldiff.terminal import Interrupted, interruptible, one_line_errors


def interrupted(then: Callable[[], None], number: int = signal.SIGINT) -> None:
    """A block that a signal ends, with something to do on its way out."""
    with interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            then()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [RuntimeError("cannot release un-acquired lock"), KeyboardInterrupt()], ids=type)
def test_what_an_interruption_broke_is_an_interruption(number, error):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as caught:
        interrupted(partial(fail, error), number)
    assert caught.value.code == 128 + number
    assert caught.value.__context__ is error
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_one_does_not_break_the_saving():
    saved = []

    def save() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        saved.append(True)

    with pytest.raises(Interrupted) as caught:
        interrupted(save)
    assert saved and caught.value.code == 130


def test_a_disk_that_is_full_when_saving_is_told():
    with pytest.raises(RequestError, match="No space"):
        interrupted(partial(fail, RequestError("No space left on device")))


def test_what_a_library_swallowed_is_raised_again():
    with interruptible() as check:
        check()
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            check()
    assert caught.value.code == 143


def test_one_within_a_library_that_answers_with_its_own_error():
    """RDKit asks Python whether this is a stream; where that is interrupted, it ends in a SystemError."""
    seen, before = [], sys.gettrace()

    def at_the_question(frame: FrameType, *_: object) -> None:
        if frame.f_code.co_name == "__instancecheck__":
            sys.settrace(before)
            os.kill(os.getpid(), signal.SIGINT)

    def write() -> None:
        with interruptible():
            try:
                sys.settrace(at_the_question)
                Chem.SDWriter(StringIO())
            except BaseException as error:
                seen.append(type(error))
                raise
            finally:
                sys.settrace(before)

    with pytest.raises(Interrupted) as caught:
        write()
    assert (seen, caught.value.code) == ([SystemError], 130)


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError), interruptible():
        {}["nothing"]


@pytest.mark.parametrize(("named", "says"), [("", "out.csv"), ("temporary", "out.csv"), ("other.csv", "other.csv")])
def test_an_error_of_the_system_names_what_was_to_be_written(tmp_path, monkeypatch, capsys, named, says):
    """As the user calls it, not the temporary file."""
    monkeypatch.chdir(tmp_path)

    def write() -> None:
        with one_line_errors(), write_atomically(Path("out.csv")) as temporary:
            temporary.write_text("half")
            name = str(temporary) if named == "temporary" else named or None
            raise OSError(errno.ENOSPC, "No space left on device", name)

    with pytest.raises(SystemExit):
        write()
    assert capsys.readouterr().err == f"moldiff: {says}: No space left on device; check the path and the free space\n"
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0)
    with terminal.bar(SpinnerColumn(), "{task.fields[kept]}/9 molecules") as shown:
        task = shown.add_task("", total=9, kept=0)
        shown.update(task, completed=4, kept=4)
    assert "4/9 molecules left" in capsys.readouterr().err
    for quiet in ({"lines": False}, {}):
        monkeypatch.setattr(terminal, "LINE_SECONDS", 60)
        with terminal.bar("{task.description}", **quiet) as shown:
            shown.update(shown.add_task("x", total=9), completed=4)
        assert capsys.readouterr().err == ""
