"""Make the reference data that the package ships: python scripts/make_references.py qm9 (a prepared set).

QM9: canonical SMILES of the training and test splits, and the statistics of the test split: the moments of its ChemNet
activations, its properties, fragments and scaffolds, histograms of its bond lengths, angles and torsions; the ring
systems are those of the training split. Needs moldiff[eval] and about a minute.

MOSES: the same statistics of its two test sets, from the SMILES in the distribution ``molsets`` (pip install --no-deps
molsets); about 25 CPU-minutes. To try it: --limit 1000 --output FOLDER.
"""

import argparse
import lzma
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from moldiff.chem import to_rdkit
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.files import write_atomically
from moldiff.metrics.distributions import count_all, distribution_facts
from moldiff.metrics.profiles import profile, read_graph
from moldiff.metrics.rings import ring_systems
from moldiff.references import FOLDER, moses_smiles, pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qm9", type=Path, help="the prepared set")
    parser.add_argument("--limit", type=int, help="only the first molecules of each set, to try it")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder [default: the package's]")
    asked = parser.parse_args()
    for name, content in chain(qm9(asked.qm9, asked.limit), moses(asked.limit)):
        with write_atomically(asked.output / name) as temporary:
            temporary.write_bytes(content)
        print(f"{name}: {len(content) / 1024:.0f} kB", flush=True)


def qm9(prepared: Path, limit: int | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files."""
    smiles = {split: (prepared / f"{split}.smi").read_text().split()[:limit] for split in ("train", "test")}
    for split, lines in smiles.items():
        yield f"qm9_{split}.smi.xz", lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9)
    molecules = read_split(prepared, "test").molecules()
    mols = to_rdkit(molecules.select(slice(limit)), read_meta(prepared)["vocabulary"])
    rings = {system: 1 for line in smiles["train"] for system in ring_systems(read_graph(line))}
    found = replace(profile(smiles["test"], chemnet=True), ring_systems=rings)
    yield "qm9_test.safetensors.xz", pack(found, count_all(map(distribution_facts, mols)))


def moses(limit: int | None) -> Iterator[tuple[str, bytes]]:
    for split in ("test", "test_scaffolds"):
        found = replace(profile(moses_smiles(split)[:limit], chemnet=True), ring_systems={})
        yield f"moses_{split}.safetensors.xz", pack(found, {})


if __name__ == "__main__":
    main()
