"""How good conformers and perceived bonds are, beside RDKit's, on held-out molecules with known geometry and graph.

    python scripts/evaluate_completion.py conformers DATA -n 150 --conformers 10
    python scripts/evaluate_completion.py bonds DATA -n 1000 --steps 5 10 20 50 --noise 0 0.05

DATA: a prepared set. ``conformers``: random molecules of its test split, each with one reference geometry; every method
makes the same number of conformers from the graph with the reference's stereo. Coverage is the share of molecules with a
conformer within a threshold of heavy-atom RMSD (symmetry considered) from the reference, matching the mean and median of
the smallest RMSD; a molecule without conformers is not covered, and is left out of the mean.

``bonds``: random uncharged molecules of the test split, and all with formal charges of test and validation split. Exact:
the SMILES without stereo is that of the reference; resonance: the same atoms are bonded, the molecule is valid and its net
charge is right, whatever the bond orders and charges. Times are process CPU seconds on one thread.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import Mol, rdDetermineBonds, rdDistGeom, rdMolAlign
from rows import Row, show_rows

from moldiff import chem, force_field, load
from moldiff.conformers import conformers_request, ensembles
from moldiff.datasets.prepared import read_meta, read_split
from moldiff.datasets.records import records_of
from moldiff.generation import Generator
from moldiff.perception import bonds_request, frames_of, perceptions

THRESHOLDS = (0.1, 0.25, 0.5)  # Å; 0.5 is usual for QM9 (GeoMol, arXiv 2106.07802)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    generator = load(options.model, options.device)
    rows = evaluate_conformers if options.task == "conformers" else evaluate_bonds
    show_rows(rows(generator, options), options, generator.hash)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["conformers", "bonds"])
    parser.add_argument("data", type=Path, help="a prepared set with explicit hydrogens")
    parser.add_argument("--model", default="qm9-atoms", help="a shipped model's name or a weights file")
    parser.add_argument("-n", type=int, default=100, help="molecules [default: 100]")
    parser.add_argument("--conformers", type=int, default=10, help="of each [default: 10]")
    parser.add_argument("--steps", type=int, nargs="+", default=None, help="[default: as the commands have it]")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="bonds: Å added to the coordinates")
    parser.add_argument("--attempts", type=int, default=10, help="bonds: for each molecule [default: 10]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def held_out(data: Path, split: str, choose: Callable[[np.ndarray], np.ndarray]) -> list[Mol]:
    """Valid molecules of a split with their reference geometries; ``choose``: which rows, told which are charged."""
    meta = read_meta(data)
    every = read_split(data, split)
    charged = every.having([k for k, name in enumerate(meta["vocabulary"]) if chem.parse_token(name)[1]])
    chosen = np.zeros(len(every), bool)
    chosen[choose(charged)] = True
    mols = force_field.whole_mols(every.select(chosen).molecules(), meta["vocabulary"], meta["hydrogens"])
    verdicts = [chem.check(mol) for mol in mols]
    return [verdict.mol for verdict in verdicts if verdict.mol is not None]


def evaluate_conformers(generator: Generator, options: argparse.Namespace) -> Iterator[Row]:
    draw = lambda charged: np.random.default_rng(options.seed).choice(len(charged), options.n, replace=False)  # noqa: E731
    references = held_out(options.data, "test", draw)
    rotatable = [k for k, mol in enumerate(references) if Chem.rdMolDescriptors.CalcNumRotatableBonds(mol) > 0]
    strain = np.median([value for value in map(force_field.strain, references) if value is not None])
    print(
        f"{len(references)} references, {len(rotatable)} with rotatable bonds; their median strain {strain:.2f} kcal/mol"
    )
    methods: dict[str, Callable[[], list[list[Mol]]]] = {
        "ETKDGv3": lambda: [etkdg(mol, options.conformers, options.seed) for mol in references],
        "ETKDGv3 + MMFF94s": lambda: [
            [relaxed.mol if (relaxed := force_field.relax(mol)) else mol for mol in etkdg(mol, options.conformers, options.seed)]
            for mol in references
        ],
    } | {
        f"moldiff, {steps or 'default'} steps": lambda steps=steps: ours(generator, references, options, steps)
        for steps in options.steps or [None]
    }  # fmt: skip
    for name, make in methods.items():
        start = time.process_time()
        sets = make()
        yield scores(name, references, sets, (time.process_time() - start) / sum(map(len, sets)))


def ours(
    generator: Generator, references: list[Mol], options: argparse.Namespace, steps: int | None
) -> list[list[Mol]]:
    flat = [Chem.Mol(mol) for mol in references]
    for mol in flat:
        mol.RemoveAllConformers()
    request = conformers_request(generator.model.config, options.conformers, options.seed, steps=steps)
    found = list(ensembles(generator, records_of(flat), request))
    total = sum(e.attempts for e in found)
    rejected = {k: sum(e.rejected[k] for e in found) for k in sorted(set().union(*(e.rejected for e in found)))}
    short = sum(len(e.conformers) < options.conformers for e in found)
    print(f"{total} attempts, rejected {rejected}; {short} molecules with fewer conformers than asked")
    return [[one.mol for one in e.conformers] for e in found]


def etkdg(mol: Mol, count: int, seed: int) -> list[Mol]:
    """Conformers by RDKit, from random coordinates where its usual start gives none."""
    copy, parameters = Chem.Mol(mol), rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed + 1  # RDKit multiplies it by the number of the conformer: 0 gives them all alike
    with chem.quiet():
        ids = list(rdDistGeom.EmbedMultipleConfs(copy, count, parameters))
        if not ids:
            parameters.useRandomCoords = True
            ids = list(rdDistGeom.EmbedMultipleConfs(copy, count, parameters))
    return [chem.placed(mol, copy.GetConformer(k).GetPositions()) for k in ids]


def scores(name: str, references: list[Mol], sets: list[list[Mol]], seconds: float) -> Row:
    best = np.array([nearest(mol, found) for mol, found in zip(references, sets, strict=True)])
    strains = [value for found in sets if found and (value := force_field.strain(found[0])) is not None]
    return {
        "method": name, "molecules": len(references),
        **{f"covered at {t} Å": round(float((best <= t).mean()), 3) for t in THRESHOLDS},
        "mean RMSD": round(float(best[np.isfinite(best)].mean()), 3), "median RMSD": round(float(np.median(best)), 3),
        "without": int(np.isinf(best).sum()), "median strain": round(float(np.median(strains)), 2),
        "s/conformer": round(seconds, 4),
    }  # fmt: skip


def nearest(reference: Mol, found: Sequence[Mol]) -> float:
    """The smallest heavy-atom RMSD (Å), symmetry considered; infinite for no conformers."""
    heavy = Chem.RemoveAllHs(reference)
    return min((rdMolAlign.GetBestRMS(Chem.RemoveAllHs(mol), heavy) for mol in found), default=np.inf)


def evaluate_bonds(generator: Generator, options: argparse.Namespace) -> Iterator[Row]:
    random = np.random.default_rng(options.seed)
    plain = held_out(options.data, "test", lambda c: random.choice(np.flatnonzero(~c), options.n, replace=False))
    charged = [mol for split in ("test", "valid") for mol in held_out(options.data, split, np.flatnonzero)]
    for (kind, mols), noise in product((("uncharged", plain), ("charged", charged)), options.noise):
        random = np.random.default_rng(options.seed)
        shaken = [
            chem.placed(m, (p := m.GetConformer().GetPositions()) + noise * random.normal(size=p.shape)) for m in mols
        ]
        methods = {"RDKit DetermineBonds": lambda shaken=shaken: [determine_bonds(mol) for mol in shaken]}
        for steps in options.steps or [None]:
            request = bonds_request(options.seed, steps, options.attempts)
            methods[f"moldiff, {request.sampler.steps} steps"] = lambda shaken=shaken, request=request: [
                found.record and found.record.mol for found in perceptions(generator, frames_of(shaken), request)
            ]
        for name, make in methods.items():
            start = time.process_time()
            found = make()
            seconds = (time.process_time() - start) / len(mols)
            yield {
                "molecules": f"{len(mols)} {kind}",
                "noise": noise,
                "method": name,
                **agreement(mols, found, seconds),
            }


def determine_bonds(mol: Mol) -> Mol | None:
    """RDKit's perception of the same atoms, told the net charge; None if it finds nothing valid."""
    bare = Chem.RWMol()
    for atom in mol.GetAtoms():
        bare.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(True)
    bare.AddConformer(mol.GetConformer(), assignId=True)
    try:
        with chem.quiet():
            rdDetermineBonds.DetermineBonds(bare, charge=Chem.GetFormalCharge(mol))
    except (ValueError, RuntimeError):
        return None
    return chem.check(bare.GetMol()).mol


def agreement(mols: Sequence[Mol], found: Sequence[Mol | None], seconds: float) -> Row:
    pairs = [(mol, other) for mol, other in zip(mols, found, strict=True) if other is not None]
    exact = sum(chem.smiles(mol, stereo=False) == chem.smiles(other, stereo=False) for mol, other in pairs)
    same = sum(skeleton(mol) == skeleton(other) for mol, other in pairs)
    n = len(mols)
    return {"exact": round(exact / n, 4), "resonance": round(same / n, 4), "none valid": n - len(pairs),
            "s/molecule": round(seconds, 5)}  # fmt: skip


def skeleton(mol: Mol) -> tuple[int, frozenset[frozenset[int]]]:
    """Net charge and which atoms are bonded."""
    return Chem.GetFormalCharge(mol), frozenset(
        frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()
    )


if __name__ == "__main__":
    main()
