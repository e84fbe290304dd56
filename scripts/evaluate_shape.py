"""What guidance to a shape, a pharmacophore or both gives over sampling without it, at the same sizes and seeds.

    python scripts/evaluate_shape.py shape qm9 --model qm9 -n 30 --factor 0 0.5 1 2

References are random molecules of a prepared set's test split. Rows: factors on the weights of the guides, 0 for none. Shape:
Tanimoto of Gaussian volumes of the heavy atoms. Matched: share of the reference's features (donors, acceptors, atoms of
aromatic rings) with one of the same kind within 1.5 Å. Both as the molecules lie, and after RDKit (rdShapeAlign) has laid
each on its reference, for the best shape Tanimoto or, for what is matched, the best mean of it and the colour's. Means over
references of means over accepted molecules.
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

from moldiff import chem, force_field
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.fragments import Wishes
from moldiff.generation import Generator, load
from moldiff.outcomes import Record
from moldiff.overlay import Overlay, features
from moldiff.requests import Request, choose_sampler, with_molecules


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    generator = load(options.model, options.device)
    mols = references(options.data, options.references, options.seed)
    rows = (measure(generator, mols, factor, options) for factor in options.factor)
    show_rows(rows, options, generator.hash)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guide", choices=["shape", "pharmacophore", "both"])
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--model", default="qm9", help="a shipped model's name or a weights file")
    parser.add_argument("--references", type=int, default=10, help="[default: 10]")
    parser.add_argument("-n", type=int, default=30, help="attempts for each reference [default: 30]")
    parser.add_argument("--factor", type=float, nargs="+", default=[0.0, 1.0], help="[default: 0 1]")
    parser.add_argument("--quality", help="fast, balanced or best [default: balanced]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def references(data: Path, count: int, seed: int) -> list[Mol]:
    """Random valid test molecules with a feature, in the geometry of the set, from small to large."""
    meta, split = read_meta(data), read_split(data, "test")
    chosen = np.zeros(len(split), bool)
    chosen[np.random.default_rng(seed).choice(len(split), 2 * count, replace=False)] = True
    molecules = split.select(chosen).molecules()
    by_size = molecules.select(molecules.size.argsort(stable=True))
    mols = [chem.check(mol).mol for mol in force_field.whole_mols(by_size, meta["vocabulary"], meta["hydrogens"])]
    usable = [mol for mol in mols if mol is not None and features(mol)]
    return [usable[k] for k in np.linspace(0, len(usable) - 1, count).astype(int)]


def measure(generator: Generator, mols: list[Mol], factor: float, options: argparse.Namespace) -> Row:
    rejected, of_reference = Counter(), []
    for mol in track(mols, f"factor {factor:g}", transient=True):
        made, reasons = generate(generator, mol, factor, options)
        rejected += reasons
        if made:
            of_reference.append(np.nanmean([similarities(mol, other) for other in made], 0))
    shape, laid_shape, matched, laid_matched, strain = np.nanmean(of_reference, 0)
    return {
        "factor": factor, "accepted %": round(100 - 100 * rejected.total() / (options.n * len(mols)), 1),
        "rejected": ", ".join(f"{reason} {count}" for reason, count in rejected.most_common()),
        "shape": round(shape, 3), "aligned": round(laid_shape, 3),
        "matched": round(matched, 3), "aligned ": round(laid_matched, 3), "mean strain": round(strain, 1),
    }  # fmt: skip


def generate(generator: Generator, mol: Mol, factor: float, options: argparse.Namespace) -> tuple[list[Mol], Counter]:
    """The accepted of so many attempts, and why the others were not."""
    data, sampler = generator.model.data, choose_sampler(generator.model.config, options.quality, None)
    shape, pharmacophore = options.guide != "pharmacophore", options.guide != "shape"
    overlay = Overlay(mol if shape else None, (mol,) if pharmacophore else ())
    draft = Request(options.n, options.seed, sampler=sampler, max_attempts=options.n)
    request, _ = with_molecules(draft, data, Wishes(), overlay)
    guides = tuple(replace(guide, weight=factor * guide.weight) for guide in request.guides) if factor else ()
    outcomes = list(generator.outcomes(replace(request, guides=guides)))
    accepted = [o.mol for o in outcomes if isinstance(o, Record)]
    return accepted, Counter(o.reason for o in outcomes if not isinstance(o, Record))


def similarities(reference: Mol, mol: Mol) -> tuple[float, float, float, float, float]:
    """Shape Tanimoto and share of matched features, each as the molecule lies and laid on; and strain, kcal/mol, if known."""
    by_shape, by_colour, overlay = Mol(mol), Mol(mol), Overlay(reference, (reference,))
    rdShapeAlign.AlignMol(reference, by_shape, useColors=False, opt_param=1.0)
    rdShapeAlign.AlignMol(reference, by_colour, useColors=True, opt_param=0.5)
    shape, matched = overlay.scores(mol).values()
    laid_shape, laid_matched = overlay.scores(by_shape)["shape_tanimoto"], overlay.scores(by_colour)["features_matched"]
    strain = force_field.strain(mol)
    return shape, laid_shape, matched, laid_matched, np.nan if strain is None else strain


if __name__ == "__main__":
    main()
