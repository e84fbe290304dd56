"""The on-disk training set: flat arrays in safetensors, statistics in JSON. Needs neither RDKit nor pandas.

A prepared set is a directory::

    meta.json              vocabulary, compositions, marginals, coordinate scale, property units, counts, hashes
    train.safetensors      and valid / test: the flat arrays of :class:`Split`
    train.smi              and valid / test: canonical SMILES, one a line, same order (for novelty and FCD)
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from moldiff.errors import MoldiffError
from moldiff.files import write_atomically
from moldiff.molecule import BOND_CLASSES, Molecules, by_element
from moldiff.valences import implied_hydrogens

FORMAT = 3
SPLITS = ("train", "valid", "test")
COMPOSITIONS = 20_000  # the most that are told apart; of more, the most frequent
EXAMPLES = 20_000  # molecules, at most, whose properties are kept together; of more, as many at random


class PreparedDataError(MoldiffError):
    """A prepared set is missing, incomplete or of another format; the message names the file and the remedy."""


class Structure(NamedTuple):
    """One molecule of n atoms and b bonds."""

    number: np.ndarray  # (n,) uint8, atomic numbers
    charge: np.ndarray  # (n,) int8, formal charges, e
    pos: np.ndarray  # (n, 3) float32, Å
    bond_index: np.ndarray  # (b, 2) int16, i < j, sorted
    bond_order: np.ndarray  # (b,) uint8, Kekulé orders 1–3
    smiles: str  # canonical, without stereo

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """(atomic number, charge) of every atom."""
        return list(zip(self.number.tolist(), self.charge.tolist(), strict=True))

    def without_hydrogens(self) -> "Structure":
        """The other atoms, in their order, and the bonds between them."""
        heavy = self.number > 1
        place = np.cumsum(heavy) - 1
        bonds = heavy[self.bond_index].all(1)
        return self._replace(
            number=self.number[heavy],
            charge=self.charge[heavy],
            pos=self.pos[heavy],
            bond_index=place[self.bond_index[bonds]].astype(np.int16),
            bond_order=self.bond_order[bonds],
        )


@dataclass(frozen=True)
class Split:
    """Molecules as flat arrays: those of molecule k follow those of molecule k-1 (M molecules, A atoms, B bonds)."""

    n_atoms: np.ndarray  # (M,) int32
    n_bonds: np.ndarray  # (M,) int32
    atom: np.ndarray  # (A,) uint8, vocabulary index
    pos: np.ndarray  # (A, 3) float32, Å
    bond_index: np.ndarray  # (B, 2) int16, atom indices within the molecule, i < j
    bond_order: np.ndarray  # (B,) uint8, 1–3
    properties: np.ndarray  # (M, P) float32, physical units; NaN where unknown
    source: np.ndarray  # (M,) int64, row or index in the source

    def __len__(self) -> int:
        return len(self.n_atoms)

    @classmethod
    def pack(
        cls,
        molecules: Sequence[Structure],
        kinds: Sequence[tuple[int, int]],
        properties: np.ndarray,
        source: Sequence[int],
    ) -> "Split":
        """``kinds``: (atomic number, charge) of each token; ``properties``: (M, P)."""
        token = {kind: k for k, kind in enumerate(kinds)}
        return cls(
            n_atoms=np.array([len(m.number) for m in molecules], dtype=np.int32),
            n_bonds=np.array([len(m.bond_order) for m in molecules], dtype=np.int32),
            atom=np.array([token[kind] for m in molecules for kind in m.kinds], dtype=np.uint8),
            pos=np.concatenate([np.zeros((0, 3), np.float32), *(m.pos for m in molecules)]),
            bond_index=np.concatenate([np.zeros((0, 2), np.int16), *(m.bond_index for m in molecules)]),
            bond_order=np.concatenate([np.zeros(0, np.uint8), *(m.bond_order for m in molecules)]),
            properties=np.asarray(properties, dtype=np.float32),
            source=np.array(source, dtype=np.int64),
        )

    def select(self, chosen: np.ndarray) -> "Split":
        """The molecules where ``chosen``, (M,) bool, is True."""
        atoms, bonds = np.repeat(chosen, self.n_atoms), np.repeat(chosen, self.n_bonds)
        return Split(
            self.n_atoms[chosen], self.n_bonds[chosen], self.atom[atoms], self.pos[atoms], self.bond_index[bonds],
            self.bond_order[bonds], self.properties[chosen], self.source[chosen],
        )  # fmt: skip

    def draw(self, n: int, seed: int) -> "Split":
        """At most ``n`` of the molecules, drawn at random, in the order that they have here."""
        chosen = np.zeros(len(self), bool)
        chosen[np.random.default_rng(seed).permutation(len(self))[:n]] = True
        return self.select(chosen)

    def with_vocabulary(self, old: Sequence[str], new: Sequence[str]) -> "Split":
        """The same molecules with tokens of ``new``, matched by name; every token that occurs must be in it."""
        place = np.array([new.index(name) if name in new else -1 for name in old])
        atom = place[self.atom]
        assert (atom >= 0).all(), "a token that the new vocabulary lacks"
        return replace(self, atom=atom.astype(np.uint8))

    def having(self, tokens: Sequence[int]) -> np.ndarray:
        """(M,) bool: which molecules hold any of the tokens."""
        molecule = np.repeat(np.arange(len(self)), self.n_atoms)
        return np.bincount(molecule, np.isin(self.atom, tokens), len(self)) > 0

    def compositions(self, vocabulary: Sequence[str], hydrogens: str = "explicit") -> np.ndarray:
        """(M, elements) int: atoms of each element of the vocabulary, in their order there; before them the hydrogens that
        are left to valence, where ``hydrogens`` are "implicit"."""
        elements, place = by_element(vocabulary, hydrogens)
        molecule = np.repeat(np.arange(len(self)), self.n_atoms)
        flat = molecule * len(elements) + np.array(place)[self.atom]
        found = np.bincount(flat, minlength=len(self) * len(elements)).reshape(len(self), len(elements))
        if hydrogens == "implicit":
            for molecules, rows in self.buckets().values():
                found[rows.numpy(), 0] = implied_hydrogens(molecules, vocabulary).numpy()
        return found

    def molecules(self) -> Molecules:
        """All, at least one, in the order of the rows, padded to the largest; tokens stay uint8."""
        batches, rows = zip(*self.buckets().values(), strict=True)
        return Molecules.collate(list(batches)).select(torch.cat(rows).argsort())

    def buckets(self) -> dict[int, tuple[Molecules, torch.Tensor]]:
        """Exact-size batches: {n: (all molecules of n atoms, their rows in this split)}; tokens stay uint8."""
        atom_start = np.concatenate([[0], np.cumsum(self.n_atoms, dtype=np.int64)])
        bond_start = np.concatenate([[0], np.cumsum(self.n_bonds, dtype=np.int64)])
        molecule_of_bond = np.repeat(np.arange(len(self)), self.n_bonds)
        buckets = {}
        for n in np.unique(self.n_atoms).tolist():
            rows = np.flatnonzero(self.n_atoms == n)
            atoms = atom_start[rows][:, None] + np.arange(n)
            bond = np.zeros((len(rows), n, n), dtype=np.uint8)
            slot = np.full(len(self), -1)
            slot[rows] = np.arange(len(rows))
            of_bucket = np.flatnonzero(slot[molecule_of_bond] >= 0)
            b, (i, j) = slot[molecule_of_bond[of_bucket]], self.bond_index[of_bucket].T
            bond[b, i, j] = bond[b, j, i] = self.bond_order[of_bucket]
            molecules = Molecules(
                mask=torch.ones(len(rows), n, dtype=torch.bool),
                pos=torch.from_numpy(self.pos[atoms]),
                atom=torch.from_numpy(self.atom[atoms]),
                bond=torch.from_numpy(bond),
            )
            buckets[n] = (molecules, torch.from_numpy(rows))
        assert bond_start[-1] == len(self.bond_order)
        return buckets


def sort_kinds(kinds: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(atomic number, charge) in the order of a vocabulary: elements in order, of each the neutral first, then by charge."""
    return sorted(kinds, key=lambda kind: (kind[0], kind[1] != 0, kind[1]))


Chunk = tuple[Split, Sequence[str]]  # some molecules and their canonical SMILES


def learned_from(
    splits: Iterable[Split],
    vocabulary: Sequence[str],
    properties: Sequence[tuple[str, str]],
    hydrogens: str = "explicit",
) -> dict[str, Any]:
    """What a model must know of its training molecules, which come in pieces. ``properties``: (name, unit) of each.

    ``coordinate_std`` is the root mean square of a coordinate about the molecule's centre (Å);
    marginals are over atoms and over unordered pairs of different atoms; ``compositions`` are atoms of each element and, last,
    molecules; ``examples`` are properties that occur together, after the row of their composition (None: unknown).
    Raises :class:`PreparedDataError` for a property that has nothing to be learned from.
    """
    squares, tokens, orders = 0.0, np.zeros(len(vocabulary), dtype=np.int64), np.zeros(BOND_CLASSES, dtype=np.int64)
    values, of = [], []
    for split in splits:
        squares += float((_deviation(split).astype(np.float64) ** 2).sum())
        tokens += np.bincount(split.atom, minlength=len(vocabulary))
        found = np.bincount(split.bond_order, minlength=BOND_CLASSES)
        found[0] = (split.n_atoms.astype(np.int64) * (split.n_atoms - 1) // 2).sum() - found.sum()
        orders += found
        values.append(split.properties)
        of.append(split.compositions(vocabulary, hydrogens).astype(np.int16))
    values, of = np.concatenate(values), np.concatenate(of)
    rows, count = np.unique(of, axis=0, return_counts=True)
    rows, count = (array[np.sort(np.argsort(-count, kind="stable")[:COMPOSITIONS])] for array in (rows, count))
    return {
        "hydrogens": hydrogens,
        "properties": property_statistics(values, properties),
        "coordinate_std": float(np.sqrt(squares / (3 * tokens.sum()))),
        "atom_marginal": (tokens / tokens.sum()).tolist(),
        "bond_marginal": (orders / orders.sum()).tolist(),
        "compositions": np.column_stack([rows, count]).tolist(),
        "examples": _examples(values, of, rows),
    }


def _examples(values: np.ndarray, of: np.ndarray, compositions: np.ndarray) -> list[list[int | float | None]]:
    """[row of ``compositions``, values] of molecules drawn at random, in the order of their compositions."""
    if not values.shape[1]:
        return []
    place = {tuple(row): k for k, row in enumerate(compositions.tolist())}
    row = np.array([place.get(tuple(composition), -1) for composition in of.tolist()])
    usable = np.flatnonzero((row >= 0) & ~np.isnan(values).all(1))
    chosen = np.random.default_rng(0).permutation(usable)[:EXAMPLES]
    chosen = np.sort(chosen)[np.argsort(row[np.sort(chosen)], kind="stable")]
    short = lambda x: None if np.isnan(x) else float(f"{x:.4g}")  # noqa: E731
    return [[int(row[k]), *map(short, values[k])] for k in chosen.tolist()]


def _deviation(split: Split) -> np.ndarray:
    """(A, 3) positions about the centre of their molecule, Å."""
    molecule = np.repeat(np.arange(len(split)), split.n_atoms)
    centre = np.stack([np.bincount(molecule, split.pos[:, k], len(split)) for k in range(3)], 1)
    centre = centre / split.n_atoms[:, None]
    return split.pos - centre[molecule]


def property_statistics(values: np.ndarray, properties: Sequence[tuple[str, str]]) -> list[dict]:
    """Mean, standard deviation (population), least and greatest of the known values of each (name, unit).

    ``values``: (M, P), NaN where unknown. Raises :class:`PreparedDataError` where there is nothing to learn from.
    """
    rows = []
    for (name, unit), column in zip(properties, values.astype(np.float64).T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) == 0 or known.std() == 0:
            text = f"is {known[0]:g} everywhere" if len(known) else "has no values"
            raise PreparedDataError(f"property {name}: {text} in the training split; leave it out")
        rows.append(
            {"name": name, "unit": unit, **{of: float(getattr(known, of)()) for of in ("mean", "std", "min", "max")}}
        )
    return rows


def write_prepared(directory: Path, splits: Mapping[str, Iterable[Chunk]], meta: dict) -> dict:
    """Write all splits and the metadata, last: a directory with ``meta.json`` is complete. Returns the metadata.

    Only one chunk of a split is in memory at a time; each has at least one, empty if need be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counts, hashes = {}, {}
    for name, chunks in splits.items():
        path = directory / f"{name}.safetensors"
        with write_atomically(path) as arrays, write_atomically(directory / f"{name}.smi") as smiles:
            counts[name] = _write_split(arrays, smiles, chunks)
        with open(path, "rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    meta = {"format": FORMAT, **meta, "molecules": counts, "sha256": hashes}
    with write_atomically(directory / "meta.json") as temporary:
        temporary.write_text(json.dumps(meta, indent=1))
    return meta


def _write_split(path: Path, smiles_path: Path, chunks: Iterable[Chunk]) -> int:
    """Number of molecules. Every array grows in a file of its own, for safetensors has them one after the other."""
    with ExitStack() as stack:
        files = {f.name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for f in fields(Split)}
        lines = stack.enter_context(open(smiles_path, "w", encoding="utf-8"))
        rows = dict.fromkeys(files, 0)
        for split, smiles in chunks:
            for name, file in files.items():
                array = np.ascontiguousarray(getattr(split, name))
                file.write(array.data)
                rows[name] += len(array)
            lines.writelines(f"{s}\n" for s in smiles)
        shapes = {name: (array.dtype, (rows[name], *array.shape[1:])) for name, array in vars(split).items()}
        with open(path, "wb") as out:
            _concatenate(out, files, shapes)
    return rows["n_atoms"]


def _concatenate(out: IO[bytes], files: Mapping[str, IO[bytes]], shapes: Mapping[str, tuple[np.dtype, tuple]]) -> None:
    """As :func:`safetensors.numpy.save` writes it, byte for byte: wide types first, floats before integers."""
    names = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, shapes[name][0].kind != "f", name))
    header, end = {}, 0
    for name in names:
        dtype, shape = shapes[name]
        start, end = end, end + dtype.itemsize * prod(shape)
        kind = dtype.kind.upper() + str(8 * dtype.itemsize)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        files[name].seek(0)
        shutil.copyfileobj(files[name], out)


def read_meta(directory: Path) -> dict:
    path = Path(directory) / "meta.json"
    if not path.is_file():
        raise PreparedDataError(f"{directory}: no meta.json here; make a set with `moldiff data prepare qm9 -o DIR`")
    try:
        meta = json.loads(path.read_text())
    except ValueError as error:
        raise PreparedDataError(f"{path}: cannot be read ({error}); prepare the set again") from error
    if not isinstance(meta, dict):
        raise PreparedDataError(f"{path}: is not the metadata of a set; prepare the set again")
    if meta.get("format") != FORMAT:
        raise PreparedDataError(f"{path}: format {meta.get('format')}, this version reads {FORMAT}; prepare it again")
    return meta


def read_split(directory: Path, name: str) -> Split:
    path = Path(directory) / f"{name}.safetensors"
    if not path.is_file():
        raise PreparedDataError(f"{path}: missing; prepare the set again")
    try:
        return Split(**load_file(path))
    except Exception as error:  # safetensors raises its own and plain exceptions for truncated files
        raise PreparedDataError(f"{path}: cannot be read ({error}); prepare the set again") from error
