"""Molecules in files of any program, record by record: SDF, multi-frame XYZ, SMILES, CSV, TSV and Parquet.

A record that cannot be read is a record all the same: it has a number, a place and the reason. A file of which nothing
can be read (missing, empty, binary, a web page) is a :class:`ReadError`. Only one record is in memory at a time.
"""

import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from moldiff.datasets.records import Kind, Record
from moldiff.errors import MoldiffError

Format = Literal["sdf", "xyz", "smiles", "table", "parquet"]
FORMATS: dict[str, Format] = {
    ".sdf": "sdf", ".sd": "sdf", ".mol": "sdf", ".xyz": "xyz", ".smi": "smiles", ".smiles": "smiles", ".txt": "smiles",
    ".csv": "table", ".tsv": "table", ".parquet": "parquet",
}  # fmt: skip
SMILES_COLUMNS = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "smiles_string", "structure", "molecule")
ID_COLUMNS = ("id", "name", "title", "molecule_id", "compound_id", "chembl_id", "molecule_chembl_id", "zinc_id")
MAX_LINE = 2**20  # characters; longer lines are read in pieces
MAX_RECORD = 2**24  # characters kept of a record
SNIFFED = 2**13  # bytes looked at to tell text from anything else
ROWS = 4096  # of a Parquet file in memory
MAX_ROW = csv.field_size_limit()  # characters in which a quote must be closed
OPEN = "unexpected end of data"  # what csv says of a quote that is not closed
_NUMBER = re.compile(r"\s*\d{1,18}\s*")
_CXSMILES = re.compile(r"\|.*\|")  # before the name: radicals, groups of stereocentres, coordinates


class ReadError(MoldiffError):
    """A file has no readable molecules as a whole; the message names it, what is wrong and the remedy."""


def format_of(path: Path) -> Format:
    """By suffix, ``.gz`` set aside. Raises :class:`ReadError` for one that is not known."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:]
    if not suffix or suffix[0] not in FORMATS:
        raise ReadError(f"{path}: format {''.join(suffix) or 'without suffix'} is not read; give {' '.join(FORMATS)}")
    return FORMATS[suffix[0]]


def kind_of(path: Path) -> Kind:
    """What the records of a file are: "sdf", "xyz" or "smiles"."""
    found = format_of(path)
    return found if found in ("sdf", "xyz") else "smiles"


def read_records(path: Path, column: str | None = None) -> Iterator[Record]:
    """The records of a file in its order. ``column``: the one with SMILES in a table, found by its name otherwise.

    Raises :class:`ReadError`, before the first record, if the file as a whole cannot be read.
    """
    path = Path(path)
    kind = format_of(path)
    if path.is_dir():
        raise ReadError(f"{path}: is a directory; give a file")
    if not path.is_file():
        raise ReadError(f"{path}: no such file")
    if column is not None and kind not in ("table", "parquet"):
        raise ReadError(f"--column {column}: only for CSV, TSV and Parquet; {path} is neither")
    if kind == "parquet":
        return _parquet(path, column)
    _check_text(path)
    if kind == "table":
        return _table(path, column)
    return {"sdf": _sdf, "xyz": _xyz, "smiles": _smiles}[kind](Lines(path))


class Lines:
    """The lines of a text file, plain or compressed; ``number`` is that of the last, ``problem`` an early end."""

    def __init__(self, path: Path):
        self.path, self.number, self.problem = path, 0, ""

    def __iter__(self) -> Iterator[str]:
        with _open(self.path) as file:
            while True:
                try:
                    line = file.readline(MAX_LINE)
                except (OSError, EOFError, zlib.error) as error:  # a damaged compressed file
                    self.problem = f"nothing can be read from here on ({error})"
                    return
                if not line:
                    return
                self.number += 1
                yield line


def _open(path: Path) -> TextIOWrapper:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors="replace", newline=None)


def _check_text(path: Path) -> None:
    """Raise :class:`ReadError` for what is no text."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            start = file.read(SNIFFED)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ReadError(f"{path}: is not compressed by gzip, or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise ReadError(f"{path}: {error.strerror or error}; check the file") from error
    if not start.strip():
        raise ReadError(f"{path}: is empty; give a file with at least one molecule")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ReadError(f"{path}: is UTF-16 text; save it as UTF-8")
    text = start.decode("utf-8", errors="replace")
    if b"\0" in start or text.count("\ufffd") > len(text) / 10:
        raise ReadError(f"{path}: is binary, not text; is its suffix right?")
    if re.match(r"\s*<(!doctype|html|\?xml|head|body)", text.lstrip("\ufeff"), re.IGNORECASE):
        raise ReadError(f"{path}: is a web page or XML, not molecules; fetch the file itself")


def _sdf(lines: Lines) -> Iterator[Record]:
    """Cut as :func:`moldiff.chem.sdf_records` does, with the place of each; of one too long only the start is in memory."""
    number, first, text, size = 1, 1, [], 0
    for line in lines:
        size += len(line)
        if size <= MAX_RECORD:
            text.append(line)
        if line.startswith("$$$$"):
            yield _record("sdf", number, first, text, size)
            number, first, text, size = number + 1, lines.number + 1, [], 0
    if lines.problem:
        yield Record(number, "", f"line {first}", "sdf", "", lines.problem)
    elif any(line.strip() for line in text):
        yield _record("sdf", number, first, text, size)


def _xyz(lines: Lines) -> Iterator[Record]:
    """Frames: a count, a comment, an atom a line. A lone number starts the next one, however the last one ended."""
    number, first, frame, size = 0, 1, [], 0
    for line in lines:
        is_comment = len(frame) == 1 and _NUMBER.fullmatch(frame[0])
        if frame and _NUMBER.fullmatch(line) and not is_comment:
            number += 1
            yield _record("xyz", number, first, frame, size)
            frame, size = [], 0
        if not frame:
            first = lines.number
        if frame or line.strip():
            size += len(line)
            frame += [line] if size <= MAX_RECORD else []
    if frame and not lines.problem:
        yield _record("xyz", number + 1, first, frame, size)
    elif lines.problem:
        yield Record(number + 1, "", f"line {first}", "xyz", "", lines.problem)


def _record(kind: Kind, number: int, first: int, text: list[str], size: int) -> Record:
    """``text``: its lines, whose title is the first, or of XYZ the second; ``size``: their characters, also where cut."""
    reason = f"a record of more than {MAX_RECORD} characters" if size > MAX_RECORD else ""
    at = 1 if kind == "xyz" else 0
    title = text[at].strip() if at < len(text) and not text[at].startswith("$$$$") else ""
    return Record(number, title, f"line {first}", kind, "" if reason else "".join(text), reason)


def _smiles(lines: Lines) -> Iterator[Record]:
    """A SMILES a line, and its name behind a blank; a first line that is the name of a column is a heading."""
    number, blank = 0, []
    for line in lines:
        words = line.split(maxsplit=1)
        if lines.number == 1 and words and words[0].lower() in SMILES_COLUMNS:
            continue
        if not words:
            blank.append(lines.number)  # no record if nothing follows
            continue
        for place in blank:
            number += 1
            yield Record(number, "", f"line {place}", "smiles", "", "an empty line")
        number, blank = number + 1, []
        name = words[1].strip() if len(words) > 1 else ""
        reason = "a CXSMILES: what stands between | and | is not read; leave it out" if _CXSMILES.match(name) else ""
        yield Record(number, name, f"line {lines.number}", "smiles", words[0], reason)
    if lines.problem:
        yield Record(number + 1, "", f"line {lines.number + 1}", "smiles", "", lines.problem)


def _table(path: Path, column: str | None) -> Iterator[Record]:
    lines = Lines(path)
    text = iter(lines)
    heading = next(text, "")
    delimiter = max("\t,;|", key=heading.count) if any(d in heading for d in "\t,;|") else ","
    names = [name.strip() for name in next(csv.reader([heading], delimiter=delimiter), [])]
    at, at_id = _column(path, names, column), _id_column(path, names)
    return _rows(_fields(lines, text, delimiter), lines, at, at_id)


def _fields(lines: Lines, text: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Of every row its first line, its fields, and why it is none.

    A quoted field may go on over lines. Where a quote is not closed within ``MAX_ROW`` characters, or closed in the wrong place,
    the line it stands in is no row, and those below are rows again: else one stray quote would swallow them all.
    """
    ahead: deque[tuple[int, str]] = deque()

    def take() -> tuple[int, str] | None:
        if ahead:
            return ahead.popleft()
        line = next(text, None)
        return None if line is None else (lines.number, line)

    while (taken := take()) is not None:
        held, size = [taken], len(taken[1])
        row, problem = _split(taken[1], delimiter)
        while problem == OPEN and size < MAX_ROW and (taken := take()) is not None:
            held.append(taken)
            size += len(taken[1])
            if '"' in taken[1]:
                row, problem = _split("".join(line for _, line in held), delimiter)
        if problem == OPEN or (problem and len(held) > 1):
            problem = "a quote that is not closed"
            ahead.extendleft(reversed(held[1:]))
        elif problem:
            row, problem = _split(held[0][1], delimiter, strict=False)
        yield held[0][0], row, problem


def _split(text: str, delimiter: str, strict: bool = True) -> tuple[list[str], str]:
    """Fields, or the reason why there are none."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict), []), ""
    except csv.Error as error:
        return [], str(error)


def _rows(fields: Iterator[tuple[int, list[str], str]], lines: Lines, at: int, at_id: int | None) -> Iterator[Record]:
    number, blank = 0, []
    for place, row, problem in fields:
        if problem:
            number += 1
            yield Record(number, "", f"line {place}", "smiles", "", f"not a row of a table ({problem})")
            continue
        if not any(field.strip() for field in row):
            blank.append(place)
            continue
        for empty in blank:
            number += 1
            yield Record(number, "", f"line {empty}", "smiles", "", "an empty row")
        number, blank = number + 1, []
        name = row[at_id].strip() if at_id is not None and at_id < len(row) else ""
        short = f"a row of {len(row)} fields; the SMILES should be field {at + 1}" if at >= len(row) else ""
        yield _of_table(number, name, f"line {place}", "" if short else row[at], short)
    if lines.problem:
        yield Record(number + 1, "", f"line {lines.number + 1}", "smiles", "", lines.problem)


def _parquet(path: Path, column: str | None) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ReadError(f"{path}: Parquet needs pyarrow; pip install 'moldiff[parquet]'") from error
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        text = str(error).splitlines()[0] if str(error) else "damaged"
        raise ReadError(f"{path}: is no Parquet file or damaged ({text})") from error
    names = file.schema_arrow.names
    at, at_id = _column(path, names, column), _id_column(path, names)
    wanted = [names[at]] + ([] if at_id is None or at_id == at else [names[at_id]])
    return _batches(file.iter_batches(ROWS, columns=wanted), *wanted)


def _batches(batches: Iterator, column: str, id_column: str | None = None) -> Iterator[Record]:
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except (ValueError, OSError) as error:  # what pyarrow's exceptions are
            reason = f"nothing can be read from here on ({str(error).splitlines()[0]})"
            yield Record(number + 1, "", f"row {number + 1}", "smiles", "", reason)
            return
        if batch is None:
            return
        names = batch.column(id_column).to_pylist() if id_column else [""] * len(batch)
        for smiles, name in zip(batch.column(column).to_pylist(), names, strict=True):
            number += 1
            yield _of_table(number, _as_text(name), f"row {number}", _as_text(smiles), "")


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)


def _of_table(number: int, name: str, where: str, smiles: str, reason: str) -> Record:
    text = smiles.strip()
    return Record(number, name, where, "smiles", text, reason or ("" if text else "no SMILES in this row"))


def _column(path: Path, names: list[str], wanted: str | None) -> int:
    """The index of the column with SMILES: ``wanted``, in whatever case, or the first of :data:`SMILES_COLUMNS`."""
    there = ", ".join(map(repr, names)) or "none"
    low = [name.lower() for name in names]
    if wanted is not None and wanted.lower() not in low:
        raise ReadError(f"--column {wanted}: {path} has no such column; there are {there}")
    name = next((name for name in SMILES_COLUMNS if name in low), None) if wanted is None else wanted
    if name is None:
        raise ReadError(f"{path}: none of its columns ({there}) is known to hold SMILES; name it with --column")
    return _single(path, names, names.index(name) if name in names else low.index(name.lower()))


def _id_column(path: Path, names: list[str]) -> int | None:
    low = [name.lower() for name in names]
    at = next((low.index(name) for name in ID_COLUMNS if name in low), None)
    return None if at is None else _single(path, names, at)


def _single(path: Path, names: list[str], at: int) -> int:
    if names.count(names[at]) > 1:
        raise ReadError(f"{path}: has several columns {names[at]!r}; rename all but one")
    return at
