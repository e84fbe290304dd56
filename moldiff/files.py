"""Places for new files, checked before any work, and kept for one run; files that are either complete or absent."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from moldiff.errors import RequestError


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it is flushed to disk and renamed over ``path``, or over the file that a link leads to.

    A pipe or a device is written to as it is. An error of the system that names no file, such as a full disk, or only the
    temporary one, gets the name of ``path``.
    """
    path = Path(path)
    as_it_is = path.exists() and not path.is_file()
    target = behind_links(path)
    temporary = path if as_it_is else target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if not as_it_is:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        if not as_it_is:
            temporary.unlink(missing_ok=True)


def behind_links(path: Path) -> Path:
    """The file that a link leads to: to be written where a plain ``open`` would write."""
    return path.resolve() if path.is_file() else path


def discard_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what :func:`write_atomically` left in a folder when its process was killed, of the file ``name`` or of all."""
    if name is not None:
        path = behind_links(folder / name)
        folder, name = path.parent, escape(path.name)
    for left in folder.glob(f".{name or '*'}.*.tmp"):
        if left.suffixes[-2][1:].isdigit() and left.is_file():
            left.unlink(missing_ok=True)


@contextmanager
def alone(named: str, lock: Path) -> Iterator[None]:
    """Refuse what another process does within such a block of the same ``lock``, a file that is there for so long.

    The lock ends with its process, however that ends: a file that is left over locks nothing. A system without such locks
    refuses nothing.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(lock, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):  # taken, or removed just now by who had it
            free = False
        except OSError:  # a file system without locks
            free = True
        if not free:
            raise RequestError(f"{named}: another run is writing there; wait for its end, or choose another place")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """:func:`alone` with a directory, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    with alone(f"-o {directory}", directory / ".lock"):
        yield


def check_is_sdf(option: str, path: Path) -> None:
    """Refuse another ending for what is always an SDF."""
    if path.suffix.lower() != ".sdf":
        raise RequestError(f"{option} {path}: is written as .sdf")


def check_sdf(option: str, path: Path, force: bool) -> None:
    """:func:`check_place` for what is always an SDF."""
    check_is_sdf(option, path)
    check_place(f"{option} {path}", path, force)


def check_place(named: str, path: Path, force: bool) -> None:
    """Refuse, before any work, a file that could not be written at the end. ``named``: how the user named it."""
    if path.is_dir():
        raise RequestError(f"{named}: is a folder; name a file")
    if path.exists() and not force:
        raise RequestError(f"{named}: exists already; --force overwrites it")
    if not path.parent.is_dir():
        raise RequestError(f"{named}: the folder {path.parent} does not exist; make it first")
    folder = behind_links(path).parent
    if not os.access(folder, os.W_OK):
        raise RequestError(f"{named}: no permission to write into {folder}; choose another place")


def check_apart(named: str, path: Path, others: Iterable[Path]) -> None:
    """Refuse, before any work, to write over another file of the same command, whatever link or name leads to it."""
    for other in others:
        if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
            raise RequestError(f"{named}: is another file of this command; choose another name")
