"""Make the reference data that the package ships: python scripts/make_references.py qm9 (a prepared set).

QM9: canonical SMILES of the training and test splits, and the statistics of the test split: the moments of its ChemNet
activations, its properties, fragments and scaffolds, histograms of its bond lengths, angles and torsions; the ring
systems are those of the training split. Needs moldiff[eval] and about a minute.

MOSES: the statistics of its two test sets as published in the distribution ``molsets`` (pip install --no-deps molsets), so
that distances are those of its own program; ChemNet's moments computed anew from the SMILES are within a Fréchet distance of
1e-6 of them. They are pickled there, so they are read here, once, and never by the package.
"""

import argparse
import lzma
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from moldiff.chem import to_rdkit
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.metrics.chemnet import Moments
from moldiff.metrics.distributions import count_all, distribution_facts
from moldiff.metrics.fingerprints import BYTES
from moldiff.metrics.profiles import Profile, profile, read_graph
from moldiff.metrics.rings import ring_systems
from moldiff.references import FOLDER, pack

PUBLISHED = {"logp": "logP", "sa": "SA", "qed": "QED", "weight": "weight"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qm9", type=Path, help="the prepared set")
    make_qm9(parser.parse_args().qm9)
    for split in ("test", "test_scaffolds"):
        write(f"moses_{split}.safetensors.xz", pack(published(split), {}))


def make_qm9(prepared: Path) -> None:
    for split in ("train", "test"):
        write(f"qm9_{split}.smi.xz", lzma.compress((prepared / f"{split}.smi").read_bytes(), preset=9))
    vocabulary = read_meta(prepared)["vocabulary"]
    buckets = read_split(prepared, "test").buckets().values()
    mols = (mol for molecules, _ in buckets for mol in to_rdkit(molecules, vocabulary))
    found = profile((prepared / "test.smi").read_text().split(), chemnet=True)
    train = (prepared / "train.smi").read_text().split()
    rings = {system: 1 for smiles in train for system in ring_systems(read_graph(smiles))}
    found = Profile(found.values, found.fingerprints, found.fragments, found.scaffolds, rings, found.chemnet)
    write("qm9_test.safetensors.xz", pack(found, count_all(map(distribution_facts, mols))))


def published(split: str) -> Profile:
    path = distribution("molsets").locate_file(f"moses/dataset/data/{split}_stats.npz")
    found = np.load(str(path), allow_pickle=True)["stats"].item()
    values = np.stack([found[PUBLISHED[key]]["values"] for key in PUBLISHED], 1)
    mean, covariance = (np.asarray(found["FCD"][key], dtype=float) for key in ("mu", "sigma"))
    moments = Moments(len(values), mean, covariance * (len(values) - 1))
    return Profile(
        values, np.empty((0, BYTES), np.uint8), dict(found["Frag"]["frag"]), dict(found["Scaf"]["scaf"]), {}, moments
    )


def write(name: str, content: bytes) -> None:
    (FOLDER / name).write_bytes(content)
    print(f"{name}: {len(content) / 1024:.0f} kB")


if __name__ == "__main__":
    main()
