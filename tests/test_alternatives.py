"""Errors name the shipped model that can do what was asked for, if there is one, and no other."""

import re
from pathlib import Path

import pytest
from conftest import embedded
from rdkit import Chem
from typer.testing import CliRunner

from moldiff import cli
from moldiff.alternatives import fitting_model, need_of, property_of, remedies
from moldiff.errors import RequestError
from moldiff.generation import load
from moldiff.weights import ALIASES, shipped_models

pytestmark = pytest.mark.skipif(not set(ALIASES) <= set(shipped_models()), reason="not all weights in the package")
DRUG = "O=C(NCc1ccncc1)c1ccc(F)cc1"  # 17 heavy atoms
NITRO = "O=C(NCc1ccncc1)c1ccc([N+](=O)[O-])cc1"


@pytest.mark.parametrize(
    ("need", "name"),
    [
        ({"heavy": (2, 9)}, "qm9"), ({"heavy": (17, 17)}, "leads"), ({"heavy": (5, 17)}, None), ({"heavy": (27, 27)}, None),
        ({"tokens": ["C", "H", "N+"]}, "qm9"), ({"tokens": ["C", "Cl"]}, "leads"), ({"tokens": ["N+", "Cl"]}, None),
        ({"tokens": ["C", "N+"], "heavy": (17, 17)}, None), ({"property": "logP"}, "leads"), ({"property": "gap"}, "qm9"),
        ({"property": "pIC50"}, None), ({}, "qm9"),
    ],
)  # fmt: skip
def test_which_model_fits(need, name):
    assert fitting_model(**need) == name


def test_what_a_molecule_needs():
    assert need_of(Chem.MolFromSmiles("C[NH3+]").GetAtoms(), grows=True) == {
        "heavy": (2, 2), "tokens": ["C", "N+"], "grows": True,
    }  # fmt: skip
    assert remedies("stay", property="logp") == "; stay, or take --model leads"
    assert remedies(property="nothing") == ""


def test_a_property_that_another_model_knows():
    data = load("qm9", "cpu").model.data
    assert property_of("GAP", data).unit == "eV"
    with pytest.raises(RequestError, match=r"--target logp: .* it knows alpha .*; take --model leads$"):
        property_of("logp", data)


@pytest.mark.parametrize(
    ("model", "request_", "message"),
    [
        ("qm9", {"fix": DRUG}, "the known part has 17 heavy atoms, and molecules of model qm9 have at most 9: no room for more; "
         "take a smaller part, or take --model leads"),
        ("qm9", {"fix": DRUG, "heavy_atoms": 9}, "have at most 9: no room for more; take a smaller part, or take --model leads"),
        ("leads", {"fix": DRUG, "heavy_atoms": 12},
         "the molecules asked for have at most 12: no room for more; allow more with --n-atoms"),
        ("qm9", {"like": DRUG}, "--like: 17 heavy atoms; model qm9 knows 2 to 9; take --model leads"),
        ("leads", {"like": "CCO"}, "--like: 3 heavy atoms; model leads knows 9 to 26; take --model qm9"),
        ("qm9", {"like": DRUG.replace("F", "Cl")},
         "the model knows C, C-, N, N-, N+, O, O-, F; leave it out, or take --model leads"),
        ("leads", {"like": NITRO}, "atom 15 (N+), counted from 1: the model knows C, N, O, F, S, Cl, Br, none with a formal "
         "charge, as nitro groups and N-oxides have; leave it out"),
        ("leads", {"like": "CC[N+](=O)[O-]"}, "as nitro groups and N-oxides have; leave it out, or take --model qm9"),
        ("qm9", {"shape": DRUG}, "knows molecules of 2 to 9 heavy atoms; give --n-atoms, or take --model leads"),
        ("qm9", {"heavy_atoms": 20},
         "--n-atoms 20: model qm9 knows molecules of 2 to 9 heavy atoms; stay within, or take --model leads"),
        ("leads", {"heavy_atoms": (5, 30)}, "knows molecules of 9 to 26 heavy atoms; stay within"),
        ("qm9", {"formula": "C17H18N2O3"}, "--formula C17H18N2O3: 22 heavy atoms, model qm9 knows 2 to 9; take --model leads"),
        ("qm9", {"formula": "C9H11Cl"}, "Cl, and model qm9 knows H C N O F; take --model leads"),
    ],
)  # fmt: skip
def test_errors_end_with_what_to_do(model, request_, message):
    wishes = {k: embedded(v) if k in ("fix", "like", "shape") else v for k, v in request_.items()}
    with pytest.raises(RequestError, match=f"{re.escape(message)}$"):
        load(model, "cpu").generate(1, **wishes)


def test_conformers_of_what_another_model_can_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.smi").write_text(f"{DRUG}\nC[Si]\n{DRUG.replace('F', 'Cl')}\n{NITRO}\n")
    errors = CliRunner().invoke(cli.app, ["conformers", "a.smi", "-n", "1"]).stderr.splitlines()
    assert errors[0].endswith("size: 17 heavy atoms, model qm9 knows 2 to 9; take --model leads")
    assert errors[2].endswith("F; take --model leads") and "--model" not in errors[1] + errors[3]
