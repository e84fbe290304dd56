"""How many attempts keep a fixed part and make a molecule around it, and how analogues move away from their seed.

    python scripts/evaluate_parts.py parts --model qm9 -n 100
    python scripts/evaluate_parts.py parts --model leads -n 50 --part "[cH:1]1cc[cH:2]cc1" --part C.O
    python scripts/evaluate_parts.py analogues --model qm9 --seed-smiles "CC1CC(O)CN1C" --strength 0.1 0.5 0.9

``parts``: SMILES, laid out in 3D by ETKDGv3. Atoms with a map number are where the part may grow, as `--attach` names them; in
a part without any it is every atom with a hydrogen. Pieces with a dot between them are laid 4.5 Å apart, to be linked. All
attempts count; accepted ones have the part's atoms unmoved, with their bonds and charges, in one connected molecule.

``analogues``: by strength, how many attempts are accepted, how many gave the seed again (rejected), and the mean Tanimoto
similarity of the accepted to the seed (Morgan fingerprints of radius 2, with its standard error).
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import Mol, rdDistGeom
from rdkit.Geometry import Point3D
from rows import Row, show_rows

from moldiff import load
from moldiff.generation import Generator
from moldiff.outcomes import Record

PARTS = ("c1cc[nH]c1", "[cH:1]1cc[nH]c1", "CC(N)=O", "C1CO1", "C1CCC1", "C.O")
GAP = 4.5  # Å between the nearest atoms of pieces that are to be linked
Counts = tuple[list[Record], Counter[str]]


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    generator = load(options.model, options.device)
    rows = part_rows if options.task == "parts" else analogue_rows
    show_rows(rows(generator, options), options, generator.hash)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["parts", "analogues"])
    parser.add_argument("--model", default="qm9", help="a shipped model's name or a weights file")
    parser.add_argument("-n", type=int, default=100, help="attempts for each row [default: 100]")
    parser.add_argument("--part", nargs="+", default=PARTS, help=f"SMILES [default: {' '.join(PARTS)}]")
    parser.add_argument("--seed-smiles", default="CC1CC(O)CN1C", help="[default: CC1CC(O)CN1C]")
    parser.add_argument("--strength", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--quality", help="fast, balanced or best [default: balanced]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def part_rows(generator: Generator, options: argparse.Namespace) -> Iterator[Row]:
    for smiles in options.part:
        part, attach = mapped(smiles)
        made, rejected = attempts(generator, options, fix=part, attach=attach or None)
        yield {
            "part": smiles, "attempts": options.n, "accepted %": round(100 * len(made) / options.n, 1),
            "distinct": len({record.smiles for record in made}),
            "rejected": ", ".join(f"{reason} {count}" for reason, count in rejected.most_common()),
        }  # fmt: skip


def analogue_rows(generator: Generator, options: argparse.Namespace) -> Iterator[Row]:
    seed = in_space(Chem.MolFromSmiles(options.seed_smiles))
    for strength in options.strength:
        made, rejected = attempts(generator, options, like=seed, strength=strength)
        near = np.array([record.scores["similarity"] for record in made])
        yield {
            "strength": strength, "attempts": options.n, "accepted %": round(100 * len(made) / options.n, 1),
            "the seed again": rejected["unchanged"],
            "similarity": round(near.mean(), 3) if len(near) else "",
            "±": round(near.std(ddof=1) / len(near) ** 0.5, 3) if len(near) > 1 else "",
        }  # fmt: skip


def attempts(generator: Generator, options: argparse.Namespace, **wishes) -> Counts:
    """The accepted of so many attempts, and why the others were not."""
    outcomes = generator.generate(
        options.n, seed=options.seed, quality=options.quality, rejects=True, max_attempts=options.n, **wishes
    )
    made, rejected = [], Counter()
    for outcome in outcomes:
        if isinstance(outcome, Record):
            made.append(outcome)
        else:
            rejected[outcome.reason] += 1
    return made, rejected


def mapped(smiles: str) -> tuple[Mol, list[int]]:
    """The part in 3D, its pieces side by side, and its atoms that bear a map number."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise SystemExit(f"--part {smiles}: not a SMILES")
    part, *others = (in_space(piece) for piece in Chem.GetMolFrags(mol, asMols=True))
    edge = heavy_x(part).max()
    for piece in others:
        x = heavy_x(piece)
        part = Chem.CombineMols(part, piece, Point3D(edge + GAP - x.min(), 0, 0))
        edge += GAP + np.ptp(x)
    attach = [atom.GetIdx() for atom in part.GetAtoms() if atom.GetAtomMapNum()]
    for atom in part.GetAtoms():
        atom.SetAtomMapNum(0)
    return part, attach


def heavy_x(mol: Mol) -> np.ndarray:
    return mol.GetConformer().GetPositions()[[atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()], 0]


def in_space(mol: Mol) -> Mol:
    """With hydrogens, behind the other atoms, and a conformer."""
    whole = Chem.AddHs(mol)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 1
    if rdDistGeom.EmbedMolecule(whole, parameters) < 0:
        raise SystemExit(f"{Chem.MolToSmiles(mol)}: RDKit finds no conformer")
    return whole


if __name__ == "__main__":
    main()
