"""QM9's own water, recomputed."""

import pytest
from rdkit import Chem

from moldiff.metrics.dft import dft_properties

WATER = """3

O -0.0343604951 0.9775395708 0.0076015923
H  0.0647664923 0.0205721989 0.0015346341
H  0.8717903737 1.3007924048 0.0006931336
"""


def test_water_is_that_of_qm9():
    """gdb 3: dipole moment 1.8511 D, HOMO -0.2928 and LUMO 0.0687 Hartree."""
    pytest.importorskip("pyscf")
    found = dft_properties(Chem.MolFromXYZBlock(WATER))
    assert found["mu"] == pytest.approx(1.8511, abs=0.006)
    assert found["homo"] == pytest.approx(-7.9675, abs=0.003)
    assert found["lumo"] == pytest.approx(1.8694, abs=0.07)
    assert found["gap"] == found["lumo"] - found["homo"]


def test_what_is_not_computed_is_said():
    pytest.importorskip("pyscf")
    for smiles, what in (("S", "not S"), ("[CH3]", "not radicals")):
        with pytest.raises(ValueError, match=what):
            dft_properties(Chem.AddHs(Chem.MolFromSmiles(smiles)))
