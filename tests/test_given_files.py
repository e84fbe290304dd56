"""Molecules in files that options name: a SMILES is laid out in 3D, its dummies and stereo kept."""

import re
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from moldiff import chem
from moldiff.errors import RequestError
from moldiff.given_files import read_one
from moldiff.known import frame_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Chem.Mol:
    Path("a.smi").write_text(text)
    return read_one("--fix", Path("a.smi"))


@pytest.mark.parametrize(
    "smiles",
    ["CCO", "*c1ccc(*)cc1", "*[C@H](C)O", "*[C@@](F)(Cl)Br", "*/C=C/C", r"*/C=C\C", "*=C1CCCC1", "*C#N", "[1*]N1CCOCC1", "C*C",
     "C[C@H](N)C(=O)O"],
)  # fmt: skip
def test_graph_dummies_and_stereo_stay(smiles):
    mol = read(f"{smiles} name\n")
    assert mol.GetConformer().Is3D() and frame_of(mol) == smiles
    chem.assign_stereo(mol)
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)


def test_a_dummy_lies_where_a_carbon_would(capsys):
    mol = read("*c1ccccc1\n")
    pos = mol.GetConformer().GetPositions()
    assert np.linalg.norm(pos[1] - pos[0]) == pytest.approx(1.50, abs=0.03)
    assert mol.GetAtomWithIdx(0).GetAtomicNum() == 0 and mol.GetNumAtoms() == 12
    assert capsys.readouterr().err == "--fix a.smi: coordinates made from the SMILES by ETKDGv3 and MMFF94s\n"
    assert (read("*c1ccccc1\n").GetConformer().GetPositions() == pos).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CC\nCO\n", "--fix a.smi: holds several molecules; give a file with one"),
        ("C*.O*\n", "--fix a.smi: several parts, and a SMILES does not tell how they lie; give an SDF"),
        ("C1CC\n", "--fix a.smi: RDKit cannot read 'C1CC'; correct it"),
        ("*CC |$R1$|\n", "--fix a.smi: a CXSMILES"),
        ("*(C)(C)(C)(C)C\n", "--fix a.smi: no coordinates can be made"),
        ("\n", "--fix a.smi: is empty; give a file with at least one molecule"),
        ("smiles\n", "--fix a.smi: no molecule in it"),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_gives_no_molecule_is_refused(text, message):
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        read(text)


@pytest.mark.parametrize("smiles", ["CCO", "C(=O)(C)C.C", "F/C=C/F"])
def test_a_smiles_in_the_place_of_a_file_tells_what_to_do(smiles):
    with pytest.raises(RequestError, match=re.escape(f"--fix {smiles}: no file; to give a SMILES, write it into one")):
        read_one("--fix", Path(smiles))


def test_atoms_are_counted_as_they_are_written(tmp_path, capsys):
    """Hydrogens that a SMILES writes as atoms stay where they stand; a configuration that it leaves open is told of."""
    file = tmp_path / "a.smi"
    file.write_text("[H]OC\n")
    assert [atom.GetSymbol() for atom in read_one("--fix", file).GetAtoms()][:3] == ["H", "O", "C"]
    assert "leaves it open" not in capsys.readouterr().err
    file.write_text("CC(F)Cl\n")
    read_one("--fix", file)
    assert "which chose the configuration where the SMILES leaves it open" in capsys.readouterr().err
