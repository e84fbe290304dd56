"""What guidance to a shape or a pharmacophore gives over sampling without it, at the same sizes and seeds.

    python scripts/evaluate_shape.py shape qm9 --model qm9 -n 30 --weight 0.5 1 2

References are random molecules of a prepared set's test split. Every accepted molecule is laid on its reference by RDKit
(rdShapeAlign), for the best shape Tanimoto and, apart from that, for the best mean of the shape's and that of the features
(colour). Each row: share of attempts accepted, and over references, means of the mean and of the best of both Tanimotos.
The weight 0 is no guidance.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rdkit.Chem import Mol, rdShapeAlign
from rich.progress import track
from rows import Row, show_rows

from moldiff import chem
from moldiff.attempts import Request, choose_sampler
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.generation import Generator, Record, load
from moldiff.overlay import Overlay, features

BALANCE = {"shape": 1.0, "features": 0.5}  # share of the shape in the score that is maximised


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    generator = load(options.model, options.device)
    mols = references(options.data, options.references, options.seed)
    rows = (measure(generator, mols, weight, options) for weight in [0.0, *options.weight])
    show_rows(rows, options, generator.hash)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guide", choices=["shape", "pharmacophore"])
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--model", default="qm9", help="a shipped model's name or a weights file")
    parser.add_argument("--references", type=int, default=10, help="[default: 10]")
    parser.add_argument("-n", type=int, default=30, help="attempts for each reference [default: 30]")
    parser.add_argument("--weight", type=float, nargs="+", default=[0.7])
    parser.add_argument("--quality", help="fast, balanced or best [default: balanced]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def references(data: Path, count: int, seed: int) -> list[Mol]:
    """Random valid test molecules with a feature, in the geometry of the set."""
    meta, split = read_meta(data), read_split(data, "test")
    chosen = np.zeros(len(split), bool)
    chosen[np.random.default_rng(seed).choice(len(split), 2 * count, replace=False)] = True
    batches = [batch for batch, _ in split.select(chosen).buckets().values()]
    tokens = [b.replace(atom=b.atom.long(), bond=b.bond.long()) for b in batches]
    made = (mol for batch in tokens for mol in chem.to_rdkit(batch, meta["vocabulary"], meta["hydrogens"]))
    mols = [chem.check(mol).mol for mol in made]
    usable = [mol for mol in mols if mol is not None and features(mol)]
    return [usable[k] for k in np.linspace(0, len(usable) - 1, count).astype(int)]


def measure(generator: Generator, mols: list[Mol], weight: float, options: argparse.Namespace) -> Row:
    rejected, of_reference = Counter(), []
    for mol in track(mols, f"weight {weight:g}", transient=True):
        made, reasons = generate(generator, mol, weight, options)
        rejected += reasons
        if made:
            scores = np.array([similarities(mol, other) for other in made])
            of_reference.append([*scores.mean(0), *scores.max(0)])
    shape, feature, best_shape, best_feature = np.mean(of_reference, 0)
    return {
        "weight": weight, "accepted %": round(100 - 100 * rejected.total() / (options.n * len(mols)), 1),
        "rejected": ", ".join(f"{reason} {count}" for reason, count in rejected.most_common()),
        "shape Tanimoto": round(shape, 3), "best": round(best_shape, 3),
        "feature Tanimoto": round(feature, 3), "best ": round(best_feature, 3),
    }  # fmt: skip


def generate(generator: Generator, mol: Mol, weight: float, options: argparse.Namespace) -> tuple[list[Mol], Counter]:
    """The accepted of so many attempts, and why the others were not."""
    data = generator.model.data
    overlay = Overlay(mol) if options.guide == "shape" else Overlay(None, (mol,))
    guides = tuple(replace(guide, weight=weight) for guide in overlay.guides(data)) if weight else ()
    sampler, sizes = choose_sampler(generator.model.config, options.quality, None), Overlay(mol).heavy_atoms(data)
    request = Request(
        options.n, options.seed, sampler=sampler, heavy_atoms=sizes, max_attempts=options.n, guides=guides
    )
    outcomes = list(generator.outcomes(request))
    accepted = [o.mol for o in outcomes if isinstance(o, Record)]
    return accepted, Counter(o.reason for o in outcomes if not isinstance(o, Record))


def similarities(reference: Mol, mol: Mol) -> tuple[float, float]:
    """Shape and feature Tanimoto, each in its own best pose."""
    shape, _ = rdShapeAlign.AlignMol(reference, Mol(mol), useColors=False, opt_param=BALANCE["shape"])
    _, feature = rdShapeAlign.AlignMol(reference, Mol(mol), useColors=True, opt_param=BALANCE["features"])
    return shape, feature


if __name__ == "__main__":
    main()
