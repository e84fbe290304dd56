"""QM9: 130,831 small molecules with DFT geometries and properties (Ramakrishnan et al. 2014, 10.1038/sdata.2014.22).

Read from the tables of the PyPI package ``qm9pack`` (a wheel, or installed), or from the original figshare archive.
Bonds come from the SMILES of the source, laid onto the DFT coordinates; nothing is guessed from distances except
which heavy atom holds each hydrogen, and every match is verified (:func:`convert`).
"""

import csv
import hashlib
import importlib.util
import io
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moldiff.chem import Graph, graph_from_smiles, token_name
from moldiff.datasets.prepared import SPLITS, Split, Structure, learned_from, sort_kinds, write_prepared
from moldiff.datasets.shards import WORK, discard
from moldiff.errors import MoldiffError
from moldiff.files import alone_in
from moldiff.molecule import HYDROGENS
from moldiff.workers import Here, Workers, in_order

HARTREE = 27.211386245988  # eV
# name, unit, column of qm9pack, position in the second line of an archive's file, factor to the unit
PROPERTIES = (
    ("alpha", "Bohr^3", "Polarizability_bohr3", 6, 1.0),
    ("gap", "eV", "HOMO_LUMO_gap_au", 9, HARTREE),
    ("homo", "eV", "HOMO_au", 7, HARTREE),
    ("lumo", "eV", "LUMO_au", 8, HARTREE),
    ("mu", "D", "Dipole_debye", 5, 1.0),
    ("Cv", "cal/mol/K", "Heatcapacity_Cv_cal_mol_K", 16, 1.0),
)
COLUMNS = ("Index", "SMILES", "Elements", "XYZ_Ang", *(p[2] for p in PROPERTIES))
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
NUMBERS = {symbol: number for number, symbol in SYMBOLS.items()}
STANDARD_SIZE, STANDARD_TRAIN = 130_831, 100_000
SPLIT_RULE = (
    "molecules by QM9 index, numpy RandomState(0).permutation, then train : valid : test = 100000 : 17748 : 13083 of "
    "130831, test = int(0.1 N) (Hoogeboom et al. 2022); split before any molecule is dropped"
)
LICENCE = "qm9pack: MIT licence, (c) 2024 its author; cite Ramakrishnan et al. 2014, 10.1038/sdata.2014.22"
FIGSHARE_LICENCE = "as stated at 10.6084/m9.figshare.c.978904; cite Ramakrishnan et al. 2014, 10.1038/sdata.2014.22"
QM9PACK_SHA256 = {  # of the tables in qm9pack 1.0.3
    "qm9_part1.csv": "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3",
    "qm9_part2.csv": "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61",
    "qm9_part3.csv": "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43",
}

# Covalent radii in Å (Cordero et al. 2008, 10.1039/b801115j); distances are judged as multiples of their sum.
RADII = np.zeros(10)
RADII[[1, 6, 7, 8, 9]] = 0.31, 0.76, 0.71, 0.66, 0.57
# Measured over all of QM9: bonds span 0.78 (C≡C) to 1.29 (N–O of a strained ring, 1.77 Å), misplaced ones begin at
# 1.39; pairs not bonded begin at 1.15 (across bicyclobutanes, 1.74 Å), below it only misplaced ones, up to 1.03.
BOND_RANGE = 0.75, 1.3
MIN_CONTACT = 1.12
CHUNK = 1000
MAX_LISTED = 100
UNREADABLE = (  # what a damaged source raises
    tarfile.TarError, zipfile.BadZipFile, zlib.error, csv.Error, EOFError, OSError, UnicodeDecodeError,
)  # fmt: skip


class QM9Error(MoldiffError):
    """The source is missing or not what it should be; the message names the file and the remedy."""


class Row(NamedTuple):
    """One molecule as the source has it; the lists are still text, so that workers do the parsing."""

    index: int  # QM9's own, from 1
    smiles: str
    elements: str
    xyz: str  # Å
    properties: tuple[float, ...]  # in the order and units of PROPERTIES


def prepare_qm9(
    archive: Path | None,
    directory: Path,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    hydrogens: str = "explicit",
) -> dict:
    """Build the prepared set in ``directory`` and return its metadata, with the counts of read, kept and dropped.

    ``archive``: a qm9pack wheel, a CSV file in its format, or figshare's ``dsgdb9nsd.xyz.tar.bz2``; None reads the
    installed package's files. ``jobs``: processes (default: one per CPU); the result does not depend on it.
    ``progress``: called with (done, total). ``force``: remove first what another set, or work on one, has left there.
    ``hydrogens``: "implicit" leaves them out; in all of QM9 the valences of the others imply them. Molecules of fewer than two
    atoms are then dropped as ``too small``.
    Raises :class:`QM9Error` when there is no readable source, and for another ``hydrogens``; :class:`RequestError` when
    another call prepares a set there.
    """
    if hydrogens not in HYDROGENS:
        raise QM9Error(f"hydrogens {hydrogens!r}: {' or '.join(HYDROGENS)}")
    rows, source = read_rows(archive)
    names = split_names(len(rows))
    with alone_in(Path(directory)):
        records = convert_all(rows, jobs or os.cpu_count() or 1, progress)
        if hydrogens == "implicit":
            records = [record if isinstance(record, str) else _heavy(record) for record in records]
        if force:
            discard(Path(directory))
        work = Path(directory) / WORK  # by which the same command knows what was interrupted here for its own
        work.mkdir(parents=True, exist_ok=True)
        meta = write_set(Path(directory), rows, names, records, source, hydrogens)
        shutil.rmtree(work)
    return meta


def _heavy(record: Structure) -> Structure | str:
    heavy = record.without_hydrogens()
    return heavy if len(heavy.number) > 1 else "too small"


def read_rows(archive: Path | None) -> tuple[list[Row], dict]:
    """All molecules by QM9 index, and the part of the metadata that says where they are from."""
    if archive is not None and not Path(archive).is_file():
        raise QM9Error(f"{archive}: no such file; give a qm9pack wheel or dsgdb9nsd.xyz.tar.bz2")
    try:
        is_tar = archive is not None and ".tar" in Path(archive).name
        rows, source = _read_tar(Path(archive)) if is_tar else _read_tables(archive)
    except UNREADABLE as error:
        text = str(error).partition("\n")[0].rstrip(":")  # tarfile goes on about every compression
        raise QM9Error(f"{archive or 'qm9pack'}: cannot be read ({text}); fetch it again") from error
    if not rows:
        raise QM9Error(f"{archive or 'qm9pack'}: no molecules in it; give a qm9pack wheel or dsgdb9nsd.xyz.tar.bz2")
    return sorted(rows), {**source, "split": SPLIT_RULE, "standard_split": len(rows) == STANDARD_SIZE}


def _read_tables(archive: Path | None) -> tuple[list[Row], dict]:
    rows, hashes = [], {}
    for name, data in csv_files(archive):
        hashes[name] = hashlib.sha256(data).hexdigest()
        rows += _read_csv(name, data)
    known = "qm9pack 1.0.3 (PyPI)" if hashes == QM9PACK_SHA256 else "tables other than those of qm9pack 1.0.3"
    return rows, {"source": known, "source_sha256": hashes, "licence": LICENCE}


def csv_files(archive: Path | None) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the molecule tables, without installing or importing the package that holds them."""
    if archive is None:
        spec = importlib.util.find_spec("qm9pack")
        if spec is None or not spec.submodule_search_locations:
            raise QM9Error(
                "qm9pack is not installed; `pip install 'moldiff[qm9]'`, or give a downloaded wheel with --archive"
            )
        folder = Path(spec.submodule_search_locations[0]) / "data"
        yield from ((p.name, p.read_bytes()) for p in sorted(folder.glob("qm9_part*.csv")))
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(wheel.namelist()):
                if re.fullmatch(r"(.*/)?qm9_part\d+\.csv", name):
                    yield Path(name).name, wheel.read(name)
    elif Path(archive).suffix == ".csv":
        yield Path(archive).name, Path(archive).read_bytes()
    else:
        raise QM9Error(f"{archive}: neither a wheel, a CSV file nor dsgdb9nsd.xyz.tar.bz2")


def _read_csv(name: str, data: bytes) -> Iterator[Row]:
    table = csv.DictReader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""))
    missing = [c for c in COLUMNS if c not in (table.fieldnames or ())]
    if missing:
        raise QM9Error(f"{name}: no column {', '.join(missing)}; it should be a table of qm9pack 1.0.3")
    for number, line in enumerate(table, start=2):
        try:
            properties = tuple(float(line[column]) * factor for _, _, column, _, factor in PROPERTIES)
            yield Row(int(line["Index"]), line["SMILES"], line["Elements"], line["XYZ_Ang"], properties)
        except (TypeError, ValueError) as error:
            raise QM9Error(f"{name}, line {number}: {error}; the file is damaged, fetch it again") from error


def _read_tar(archive: Path) -> tuple[list[Row], dict]:
    """The figshare archive holds 133,885 files. Its companion ``uncharacterized.txt``, beside it, names the 3,054 to
    leave out for the standard 130,831; without it all are read, only :func:`convert` guards consistency, and the split
    is not the standard one (the metadata says so)."""
    excluded, note = set(), "all molecules, for want of uncharacterized.txt beside the archive"
    listing = archive.with_name("uncharacterized.txt")
    if listing.is_file():
        lines = listing.read_text().splitlines()[9:]  # a heading of nine lines, then "index SMILES SMILES ..."
        excluded = {int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()}
        note = f"without the {len(excluded)} molecules of uncharacterized.txt"
    rows = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".xyz"):
                rows.append(_read_xyz(member.name, tar.extractfile(member).read()))
    hashes = {archive.name: hashlib.sha256(archive.read_bytes()).hexdigest()}
    source = {"source": f"QM9 (figshare), {note}", "source_sha256": hashes, "licence": FIGSHARE_LICENCE}
    return [r for r in rows if r.index not in excluded], source


def _read_xyz(name: str, content: bytes) -> Row:
    """One file: atom count, ``gdb index`` and 15 properties, atoms with a charge, frequencies, SMILES, InChI.

    Of the two SMILES the first, GDB-17's, is taken: it carries no stereo and its order is the order of the atoms, as in
    qm9pack's column; the second is perceived from the geometry and only repeats what the coordinates say.
    """
    try:
        lines = content.decode().splitlines()
        n, words = int(lines[0]), lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + n]]
        properties = tuple(_number(words[place]) * factor for *_, place, factor in PROPERTIES)
        xyz = " ".join(word for atom in atoms for word in atom[1:4])
        return Row(int(words[1]), lines[3 + n].split()[0], " ".join(a[0] for a in atoms), xyz, properties)
    except (IndexError, ValueError) as error:
        raise QM9Error(f"{name}: not a QM9 file ({error}); fetch the archive again") from error


def _number(text: str) -> float:
    """A float, also in Mathematica's notation (``1.5*^-6``), which QM9 uses in places."""
    return float(text.replace("*^", "e"))


def split_names(n: int) -> np.ndarray:
    """(n,) index into SPLITS for molecules in QM9 order; exactly EDM's split for the 130,831 of the standard set."""
    n_train = n * STANDARD_TRAIN // STANDARD_SIZE
    n_test = int(0.1 * n)
    n_valid = n - n_train - n_test
    order = np.random.RandomState(0).permutation(n)
    names = np.empty(n, dtype=np.int64)
    names[order] = np.repeat([0, 1, 2], [n_train, n_valid, n_test])
    return names


def convert_all(
    rows: Sequence[Row], jobs: int = 1, progress: Callable[[int, int], None] | None = None
) -> list[Structure | str]:
    """:func:`convert` of every row, in order, by ``jobs`` processes."""
    starts = range(0, len(rows), CHUNK)
    tasks = ((rows[start : start + CHUNK],) for start in starts)
    count = min(jobs, len(starts))
    crew = Workers(count, _converter) if count > 1 else Here(_converter())
    results: list[Structure | str] = []
    with closing(in_order(crew, lambda: next(tasks, None), lambda: None)) as answers:
        for _, converted in answers:
            results += converted
            if progress:
                progress(len(results), len(rows))
    return results


def _converter() -> Callable[[Sequence[Row]], list[Structure | str]]:
    return lambda rows: [convert(row) for row in rows]


def convert(row: Row) -> Structure | str:
    """The graph of the row's SMILES laid onto its coordinates, or the reason why they do not belong together.

    Reasons: ``smiles`` (RDKit cannot read it), ``composition`` (other atoms than the coordinates), ``element order``,
    ``hydrogens`` (a heavy atom is nearest to more or fewer than the graph gives it), ``bond length`` (outside 0.75 to
    1.3 times the sum of covalent radii), ``contact`` (heavy atoms without a bond as near as one: under 1.12 times).
    """
    graph = graph_from_smiles(row.smiles)
    if graph is None:
        return "smiles"
    number = np.array([NUMBERS.get(s, 0) for s in re.findall("[A-Z][a-z]?", row.elements)])
    pos = np.array([_number(x) for x in re.findall(r"[^\s,\[\]]+", row.xyz)]).reshape(-1, 3)
    heavy, hydrogen = np.flatnonzero(number != 1), np.flatnonzero(number == 1)
    same_atoms = sorted(number[heavy]) == sorted(graph.number) and len(hydrogen) == graph.hydrogens.sum()
    if not same_atoms or len(pos) != len(number):
        return "composition"
    to_heavy = np.linalg.norm(pos[hydrogen, None] - pos[heavy], axis=-1)
    nearest = to_heavy.argmin(1)
    if not _is_bond(to_heavy.min(1) / (RADII[1] + RADII[number[heavy[nearest]]])).all():
        return "bond length"
    count = np.bincount(nearest, minlength=len(heavy))
    order = _place(graph, number[heavy], count, pos[heavy])
    return order if isinstance(order, str) else _record(graph, number, pos, heavy[order], hydrogen, heavy[nearest])


def _is_bond(ratio: np.ndarray) -> np.ndarray:
    return (ratio > BOND_RANGE[0]) & (ratio < BOND_RANGE[1])


def _place(graph: Graph, number: np.ndarray, count: np.ndarray, pos: np.ndarray) -> np.ndarray | str:
    """Which heavy atom of the file each atom of the graph is: (N,) order, or the reason why there is none.

    Graph and file almost always share one order. A handful are numbered differently: for those every assignment that
    meets the same demands is tried, and the one taken puts the highest bond orders on the shortest distances.
    """
    distance = np.linalg.norm(pos[:, None] - pos, axis=-1)
    ratio = distance / (RADII[number][:, None] + RADII[number])
    bonded = np.zeros(ratio.shape, dtype=bool)
    first, second = graph.bond_index.T
    bonded[first, second] = bonded[second, first] = True
    reason = _misfit(graph, number, count, bonded, ratio)
    if reason is None:
        return np.arange(len(number))
    kinds = (number == graph.number[:, None]) & (count == graph.hydrogens[:, None])
    orders = list(_assignments(kinds, bonded, _is_bond(ratio), ratio > MIN_CONTACT))
    return min(orders, key=lambda o: (graph.bond_order * distance[o[first], o[second]]).sum()) if orders else reason


def _misfit(graph: Graph, number: np.ndarray, count: np.ndarray, bonded: np.ndarray, ratio: np.ndarray) -> str | None:
    """Why the file's heavy atoms, in their own order, are not those of the graph; None where they are."""
    if (number != graph.number).any():
        return "element order"
    if (count != graph.hydrogens).any():
        return "hydrogens"
    if not _is_bond(ratio[bonded]).all():
        return "bond length"
    apart = ~bonded & ~np.eye(len(number), dtype=bool)
    return None if (ratio[apart] > MIN_CONTACT).all() else "contact"


def _assignments(
    kinds: np.ndarray, bonded: np.ndarray, near: np.ndarray, apart: np.ndarray, chosen: tuple[int, ...] = ()
) -> Iterator[np.ndarray]:
    """Every order of the file's atoms in which bonded atoms of the graph are ``near`` and all others ``apart``."""
    k = len(chosen)
    if k == len(kinds):
        yield np.array(chosen)
        return
    for candidate in np.flatnonzero(kinds[k]).tolist():
        if candidate not in chosen and all(
            near[candidate, c] if bonded[k, i] else apart[candidate, c] for i, c in enumerate(chosen)
        ):
            yield from _assignments(kinds, bonded, near, apart, (*chosen, candidate))


def _record(
    graph: Graph, number: np.ndarray, pos: np.ndarray, place: np.ndarray, hydrogen: np.ndarray, parent: np.ndarray
) -> Structure:
    """``place``: (N,) file index of each graph atom; ``parent``: file index of the atom that each hydrogen is on."""
    charge = np.zeros(len(number), dtype=np.int8)
    charge[place] = graph.charge
    ends = np.concatenate([place[graph.bond_index], np.stack([hydrogen, parent], 1)])
    bond_order = np.concatenate([graph.bond_order, np.ones(len(hydrogen), dtype=int)])
    ends = np.sort(ends, 1)
    by_atom = np.lexsort((ends[:, 1], ends[:, 0]))
    return Structure(
        number.astype(np.uint8),
        charge,
        pos.astype(np.float32),
        ends[by_atom].astype(np.int16),
        bond_order[by_atom].astype(np.uint8),
        graph.smiles,
    )


def write_set(
    directory: Path, rows: Sequence[Row], names: np.ndarray, records: Sequence[Structure | str], source: dict,
    hydrogens: str = "explicit",
) -> dict:  # fmt: skip
    """Write the prepared set of the records that are no drop reasons; returns its metadata.

    ``names``: (rows,) index into SPLITS. ``source``: what the metadata says of the origin, as from :func:`read_rows`.
    """
    kept = [k for k, record in enumerate(records) if not isinstance(record, str)]
    if not kept:
        raise QM9Error(f"none of the {len(rows)} molecules could be used (first: {records[0]}); check the source")
    kinds = sort_kinds({kind for k in kept for kind in records[k].kinds})
    chunks = {}
    for number, name in enumerate(SPLITS):
        members = [k for k in kept if names[k] == number]
        properties = np.array([rows[k].properties for k in members]).reshape(-1, len(PROPERTIES))
        split = Split.pack([records[k] for k in members], kinds, properties, [rows[k].index for k in members])
        chunks[name] = [(split, [records[k].smiles for k in members])]
    train = chunks["train"][0][0]
    vocabulary = [token_name(SYMBOLS[number], charge) for number, charge in kinds]
    meta = {
        "name": "qm9",
        "vocabulary": vocabulary,
        **learned_from([train], vocabulary, [(name, unit) for name, unit, *_ in PROPERTIES], hydrogens),
        **source,
        "counts": _counts(rows, records),
    }
    return write_prepared(directory, chunks, meta)


def _counts(rows: Sequence[Row], records: Sequence[Structure | str]) -> dict:
    dropped: dict[str, list[int]] = {}
    for row, record in zip(rows, records, strict=True):
        if isinstance(record, str):
            dropped.setdefault(record, []).append(row.index)
    return {
        "read": len(rows),
        "kept": len(rows) - sum(map(len, dropped.values())),
        "dropped": {reason: len(indices) for reason, indices in sorted(dropped.items())},
        "dropped_rows": {reason: indices[:MAX_LISTED] for reason, indices in sorted(dropped.items())},
    }
