"""Check an SDF that ``moldiff generate`` wrote, with RDKit alone: ``check.py FILE N``."""

import json
import sys
from pathlib import Path

from rdkit import Chem


def check_record(number: int, mol: Chem.Mol | None) -> None:
    where = f"record {number}"
    assert mol is not None, f"{where}: RDKit cannot read or sanitise it"
    assert len(Chem.GetMolFrags(mol)) == 1, f"{where}: not connected"
    assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()), f"{where}: a radical"
    assert not any(atom.GetTotalNumHs() for atom in mol.GetAtoms()), f"{where}: hydrogens that are not atoms"
    assert mol.GetConformer().Is3D(), f"{where}: no 3D coordinates"


def main(path: Path, n: int) -> None:
    mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    assert len(mols) == n, f"{len(mols)} records, expected {n}"
    for number, mol in enumerate(mols, 1):
        check_record(number, mol)
    ids = {mol.GetProp("_Name") for mol in mols}
    assert len(ids) == n, f"{n - len(ids)} ids occur more than once"
    summary = json.loads(path.with_name(f"{path.name}.summary.json").read_text())
    funnel = list(summary["funnel"].values())
    assert summary["asked"] == summary["kept"] == funnel[-1] == n, f"the summary says {summary}"
    assert funnel == sorted(funnel, reverse=True), f"the funnel widens: {summary['funnel']}"
    assert funnel[0] - sum(summary["rejected"].values()) == n, f"rejects do not add up: {summary}"
    heavy = sum(mol.GetNumHeavyAtoms() for mol in mols) / n
    print(f"{path.name}: {n} molecules as they should be, {heavy:.1f} heavy atoms on average, of {funnel[0]} sampled")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
