"""How records are written: the text of a record in an SDF, and the other formats, all made from such texts."""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.outcomes import Record, Reject

# of every record, with their pandas types; scores follow
COLUMNS = {
    "id": "object", "smiles": "object", "heavy_atoms": "Int64", "seed": "Int64", "index": "Int64", "model": "object",
    "model_sha256": "object", "evaluations": "Int64", "moldiff": "object", "torch": "object", "rdkit": "object",
}  # fmt: skip
PARQUET_ROWS = 10_000  # held in memory at a time


def sdf_text(record: Record, provenance: dict[str, Any], mol: Any = None) -> str:
    """The record as an SDF has it, unknown scores left out; ``mol``: another conformer of its molecule to write."""
    row = {**record_row(record), **of_outcome(record, provenance)}
    scores = {name: value for name, value in record.scores.items() if value is not None}
    return chem.sdf_record(record.mol if mol is None else mol, record.id, {k: row[k] for k in COLUMNS} | scores)


def reject_text(reject: Reject, provenance: dict[str, Any]) -> str:
    tags = {"reason": reject.reason, "seed": reject.seed, "index": reject.index, **of_outcome(reject, provenance)}
    return chem.sdf_record(reject.mol, reject.id, tags)


def of_outcome(outcome: Record | Reject, provenance: dict[str, Any]) -> dict[str, Any]:
    """``provenance`` tells the network evaluations of one try; with those of all tries of an attempt."""
    return provenance | {"evaluations": provenance["evaluations"] * outcome.tries}


def record_row(record: Record) -> dict[str, Any]:
    """What is said of a record in every format, besides its provenance."""
    return {
        "id": record.id, "smiles": record.smiles, "heavy_atoms": record.heavy_atoms,
        "seed": record.seed, "index": record.index,
    }  # fmt: skip


def records(texts: Iterable[str], columns: Iterable[str] = COLUMNS) -> Iterator[tuple[dict[str, str], str]]:
    """The columns and the text of every record; a column that a record lacks is empty."""
    for text in texts:
        mol = chem.parse_sdf_record(text, sanitize=False)
        yield {k: mol.GetProp(k) if mol.HasProp(k) else "" for k in columns}, text


def title(text: str) -> str:
    """Of the text of a record: the identifier."""
    return text.partition("\n")[0]


def _write_sdf(texts: Iterable[str], path: Path, columns: dict[str, str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(texts)


def _write_smi(texts: Iterable[str], path: Path, columns: dict[str, str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row, _ in records(texts):
            file.write(f"{row['smiles']} {row['id']}\n")


def _write_csv(texts: Iterable[str], path: Path, columns: dict[str, str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(row for row, _ in records(texts, columns))


def _write_xyz(texts: Iterable[str], path: Path, columns: dict[str, str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row, text in records(texts):
            mol = chem.parse_sdf_record(text, sanitize=False)
            file.write(chem.xyz_block(mol, f"{row['id']} {row['smiles']}"))


def _write_parquet(texts: Iterable[str], path: Path, columns: dict[str, str]) -> None:
    """The columns of the CSV, and in ``sdf`` the record as an SDF has it."""
    pa, pq = require_pyarrow()
    types = {"object": pa.string(), "Int64": pa.int64(), "float64": pa.float64(), "boolean": pa.bool_()}
    schema = pa.schema([*((name, types[kind]) for name, kind in columns.items()), ("sdf", pa.string())])
    rows = (
        {name: _value(row[name], kind) for name, kind in columns.items()} | {"sdf": text}
        for row, text in records(texts, columns)
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while piece := list(itertools.islice(rows, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(piece, schema=schema))


def _value(text: str, kind: str) -> Any:
    """What a column holds, from its text in an SDF; None for an empty one, unless it is of texts."""
    read = {"object": str, "Int64": int, "float64": float, "boolean": "True".__eq__}[kind]
    return read(text) if text or kind == "object" else None


def require_pyarrow() -> tuple[Any, Any]:
    """The library and its Parquet part. Raises :class:`RequestError` where it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError("-o *.parquet needs pyarrow: pip install 'moldiff[parquet]'") from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Iterable[str], Path, dict[str, str]], None]] = {
    ".sdf": _write_sdf, ".smi": _write_smi, ".csv": _write_csv, ".xyz": _write_xyz, ".parquet": _write_parquet,
}  # fmt: skip
