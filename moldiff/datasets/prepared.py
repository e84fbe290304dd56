"""The on-disk training set: flat arrays in safetensors, statistics in JSON. Needs neither RDKit nor pandas.

A prepared set is a directory::

    meta.json              vocabulary, histograms, marginals, coordinate scale, property units, counts, hashes
    train.safetensors      and valid / test: the flat arrays of :class:`Split`
    train.smi              and valid / test: canonical SMILES, one a line, same order (for novelty and FCD)
"""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save

from moldiff.errors import MoldiffError
from moldiff.files import write_atomically
from moldiff.molecule import BOND_CLASSES, Molecules

FORMAT = 1
SPLITS = ("train", "valid", "test")


class PreparedDataError(MoldiffError):
    """A prepared set is missing, incomplete or of another format; the message names the file and the remedy."""


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

    def statistics(self, n_tokens: int, heavy: np.ndarray) -> dict:
        """What a model must know of its data. ``heavy``: (tokens,) bool, False for hydrogen.

        ``coordinate_std`` is the root mean square of a coordinate about the molecule's centre (Å);
        marginals are over atoms and over unordered pairs of different atoms.
        """
        molecule = np.repeat(np.arange(len(self)), self.n_atoms)
        centre = np.stack([np.bincount(molecule, self.pos[:, k], len(self)) for k in range(3)], 1)
        centre /= self.n_atoms[:, None]
        deviation = self.pos - centre[molecule]
        n_heavy = np.bincount(molecule, heavy[self.atom], len(self)).astype(int)
        sizes, counts = np.unique(np.stack([n_heavy, self.n_atoms], 1), axis=0, return_counts=True)
        pairs = (self.n_atoms.astype(np.int64) * (self.n_atoms - 1) // 2).sum()
        orders = np.bincount(self.bond_order, minlength=BOND_CLASSES)
        orders[0] = pairs - orders[1:].sum()
        tokens = np.bincount(self.atom, minlength=n_tokens)
        return {
            "coordinate_std": float(np.sqrt((deviation.astype(np.float64) ** 2).mean())),
            "atom_marginal": (tokens / tokens.sum()).tolist(),
            "bond_marginal": (orders / orders.sum()).tolist(),
            "size_histogram": [[int(h), int(n), int(c)] for (h, n), c in zip(sizes, counts, strict=True)],
        }


def write_prepared(directory: Path, splits: dict[str, Split], smiles: dict[str, list[str]], meta: dict) -> dict:
    """Write all splits and the metadata, last: a directory with ``meta.json`` is complete. Returns the metadata."""
    directory.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name, split in splits.items():
        arrays = {f.name: np.ascontiguousarray(getattr(split, f.name)) for f in fields(Split)}
        path = directory / f"{name}.safetensors"
        with write_atomically(path) as temporary:
            temporary.write_bytes(save(arrays))  # save_file would deny other users of the machine to read it
        with write_atomically(directory / f"{name}.smi") as temporary:
            temporary.write_text("".join(f"{s}\n" for s in smiles[name]))
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    meta = {"format": FORMAT, **meta, "molecules": {k: len(v) for k, v in splits.items()}, "sha256": hashes}
    with write_atomically(directory / "meta.json") as temporary:
        temporary.write_text(json.dumps(meta, indent=1))
    return meta


def read_meta(directory: Path) -> dict:
    path = Path(directory) / "meta.json"
    if not path.is_file():
        raise PreparedDataError(f"{directory}: no meta.json here; make a set with `moldiff data prepare qm9 -o DIR`")
    meta = json.loads(path.read_text())
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
