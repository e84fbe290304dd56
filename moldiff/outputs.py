"""Where generated molecules go: a journal that survives interruption, then one complete file in the format asked for.

While a run goes on, accepted molecules are appended to ``.<name>.partial.sdf`` beside the output and, after every flush,
``.<name>.partial.json`` records how much of it counts. A finished run turns the journal into the output in one step,
so that the output is either complete or absent.
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from moldiff import chem
from moldiff.files import write_atomically
from moldiff.generation import Record, Reject, RequestError, Tally

COLUMNS = ("id", "smiles", "heavy_atoms", "seed", "index", "model", "model_sha256", "evaluations", "moldiff", "torch", "rdkit")


class Output:
    """The output of one run. ``identity`` decides whether an interrupted run may be continued by this one."""

    def __init__(
        self, path: Path, provenance: dict[str, Any], identity: dict[str, Any], *, rejects: Path | None = None,
        force: bool = False, resume: bool = False,
    ):  # fmt: skip
        self.path, self.provenance, self.identity, self.rejects = path, provenance, identity, rejects
        self.journal = path.with_name(f".{path.name}.partial.sdf")
        self.state = path.with_name(f".{path.name}.partial.json")
        self.summary_path = path.with_name(f"{path.name}.summary.json")
        self.tally = Tally()
        self.seen: set[str] = set()
        check_writable(path, rejects, force=force or resume)
        if resume and self.state.exists():
            self._continue()
        elif resume and path.exists():
            raise RequestError(f"{path}: is complete already, there is nothing to resume; --force makes it again")
        elif self.state.exists() and not force:
            raise RequestError(f"{path}: an interrupted run is there; continue it with --resume or discard it with --force")
        mode = "a" if self.tally.next_index else "w"
        self.files = {self.journal: open(self.journal, mode)}  # noqa: SIM115: closed by finish and close
        if rejects:
            self.files[rejects] = open(rejects, mode)  # noqa: SIM115

    def _continue(self) -> None:
        saved = json.loads(self.state.read_text())
        different = [k for k in self.identity if saved["identity"].get(k) != self.identity[k]]
        if different:
            was = ", ".join(f"{k} {saved['identity'].get(k)!r}" for k in different)
            raise RequestError(f"{self.path}: the interrupted run had {was}; resume it with the same options, or --force")
        self.tally = Tally(saved["next_index"], saved["kept"], Counter(saved["rejected"]))
        for name, size in saved["bytes"].items():
            os.truncate(self.path.with_name(name), size)
        self.seen = {mol.GetProp("smiles") for mol in chem.read_sdf(self.journal)} if self.tally.kept else set()

    def write(self, outcome: Record | Reject) -> None:
        if isinstance(outcome, Record):
            self.files[self.journal].write(sdf_text(outcome, self.provenance))
        elif self.rejects:
            tags = {"reason": outcome.reason, "seed": outcome.seed, "index": outcome.index, **self.provenance}
            self.files[self.rejects].write(chem.sdf_record(outcome.mol, outcome.id, tags))

    def flush(self, tally: Tally) -> None:
        """Everything so far survives a crash from here on."""
        for file in self.files.values():
            file.flush()
        state = {
            "identity": self.identity, "next_index": tally.next_index, "kept": tally.kept, "rejected": tally.rejected,
            "bytes": {path.name: file.tell() for path, file in self.files.items()},
        }  # fmt: skip
        with write_atomically(self.state) as temporary:
            temporary.write_text(json.dumps(state))

    def finish(self, summary: dict[str, Any]) -> None:
        """Turn the journal into the output and write the summary beside it."""
        self.close()
        with write_atomically(self.path) as temporary:
            if self.path.suffix == ".sdf":
                os.replace(self.journal, temporary)
            else:
                WRITERS[self.path.suffix](self.journal, temporary)
        with write_atomically(self.summary_path) as temporary:
            temporary.write_text(json.dumps(summary, indent=1))
        self.journal.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


class StandardOutput:
    """SDF on standard output, each record as it comes."""

    def __init__(self, provenance: dict[str, Any], stream: TextIO = sys.stdout):
        self.provenance, self.stream = provenance, stream
        self.tally, self.seen = Tally(), set[str]()

    def write(self, outcome: Record | Reject) -> None:
        if isinstance(outcome, Record):
            self.stream.write(sdf_text(outcome, self.provenance))

    def flush(self, tally: Tally) -> None:
        self.stream.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


def check_writable(path: Path, rejects: Path | None, force: bool) -> None:
    """Refuse, before any work, what could not be written at the end."""
    if path.suffix not in WRITERS and path.suffix != ".sdf":
        raise RequestError(f"-o {path}: unknown format {path.suffix or '(none)'}; use .sdf {' '.join(WRITERS)} or - ")
    if rejects and rejects.suffix != ".sdf":
        raise RequestError(f"--rejects {rejects}: rejects are written as .sdf")
    if rejects and rejects.parent.resolve() != path.parent.resolve():
        raise RequestError(f"--rejects {rejects}: must lie in the folder of the output, {path.parent}")
    if path.suffix == ".parquet":
        _pyarrow()
    if path.exists() and not force:
        raise RequestError(f"-o {path}: exists already; --force overwrites it")
    if path.is_dir():
        raise RequestError(f"-o {path}: is a directory")
    if not path.parent.is_dir():
        raise RequestError(f"-o {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"-o {path}: no permission to write into {path.parent}")


def sdf_text(record: Record, provenance: dict[str, Any]) -> str:
    row = {**record_row(record), **provenance}
    return chem.sdf_record(record.mol, record.id, {k: row[k] for k in COLUMNS})


def record_row(record: Record) -> dict[str, Any]:
    """What is said of a record in every format, besides its provenance."""
    return {
        "id": record.id, "smiles": record.smiles, "heavy_atoms": record.heavy_atoms,
        "seed": record.seed, "index": record.index,
    }  # fmt: skip


def _rows(journal: Path) -> Iterator[dict[str, str]]:
    for mol in chem.read_sdf(journal):
        yield {k: mol.GetProp(k) for k in COLUMNS}


def _write_smi(journal: Path, path: Path) -> None:
    with open(path, "w") as file:
        for row in _rows(journal):
            file.write(f"{row['smiles']} {row['id']}\n")


def _write_csv(journal: Path, path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(_rows(journal))


def _write_xyz(journal: Path, path: Path) -> None:
    with open(path, "w") as file:
        for mol in chem.read_sdf(journal):
            file.write(chem.xyz_block(mol, f"{mol.GetProp('id')} {mol.GetProp('smiles')}"))


def _write_parquet(journal: Path, path: Path, batch: int = 10_000) -> None:
    """The columns of the CSV, and the molecule as an SDF record in ``sdf``."""
    pa, pq = _pyarrow()
    whole = {"heavy_atoms", "seed", "index", "evaluations"}
    fields = [(k, pa.int64() if k in whole else pa.string()) for k in (*COLUMNS, "sdf")]
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for mol in chem.read_sdf(journal):
            row: dict[str, Any] = {k: mol.GetProp(k) for k in COLUMNS}
            rows.append({**row, **{k: int(row[k]) for k in whole}, "sdf": chem.sdf_record(mol, row["id"], {})})
            if len(rows) == batch:
                writer.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)))
                rows.clear()
        writer.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError("-o *.parquet needs pyarrow: pip install 'moldiff[parquet]'") from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    ".smi": _write_smi, ".csv": _write_csv, ".xyz": _write_xyz, ".parquet": _write_parquet,
}  # fmt: skip
