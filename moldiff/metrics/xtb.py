"""Strain by GFN2-xTB (Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652, 10.1021/acs.jctc.8b01176).

The semi-empirical method comes from the library ``tblite``, the optimiser from ``ase``: pip install 'moldiff[xtb]'.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rdkit import Chem
from rdkit.Chem import Mol

from moldiff.metrics.strain import Relaxation, ready, relaxation

MAX_STEPS = 200  # of L-BFGS
MAX_FORCE = 0.05  # eV/Å on every atom, where the relaxation ends
KCAL_PER_EV = 23.060547830619026
GFN2 = f"GFN2-xTB relaxation to forces below {MAX_FORCE} eV/Å in at most {MAX_STEPS} steps (10.1021/acs.jctc.8b01176)"


def xtb_relaxation(mol: Mol | None) -> Relaxation:
    """GFN2-xTB relaxation of a copy of ``mol`` in vacuum, with its charge and unpaired electrons, on one thread.

    The failures are "not valid", "no coordinates", "not computable" (no self-consistent electrons, no parameters,
    coinciding atoms), "not converged" and "energy". Raises :class:`ImportError` without ``tblite`` and ``ase``.
    """
    atoms_of, calculator, optimizer = _libraries()
    copy, failure = ready(mol)
    if copy is None:
        return Relaxation(failure=failure)
    positions = copy.GetConformer().GetPositions()
    atoms = atoms_of(numbers=[atom.GetAtomicNum() for atom in copy.GetAtoms()], positions=positions)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in copy.GetAtoms())
    atoms.calc = calculator(
        method="GFN2-xTB", charge=Chem.GetFormalCharge(copy), multiplicity=unpaired + 1, verbosity=0
    )
    try:
        start = atoms.get_potential_energy()
        converged = optimizer(atoms, logfile=None).run(fmax=MAX_FORCE, steps=MAX_STEPS)
        released = start - atoms.get_potential_energy()
    except (RuntimeError, ValueError):  # all that tblite and ase raise
        return Relaxation(failure="not computable")
    if not converged:
        return Relaxation(failure="not converged")
    after = Chem.Mol(copy)
    after.GetConformer().SetPositions(atoms.get_positions())
    return relaxation(copy, after, float(released) * KCAL_PER_EV)


@cache
def _libraries() -> tuple[Callable, Callable, Callable]:
    """Constructors of atoms, calculator and optimiser."""
    try:
        with _one_thread():
            from ase import Atoms
            from ase.optimize import LBFGS
            from tblite.ase import TBLite
    except ImportError as error:
        raise ImportError("GFN2-xTB strain needs tblite and ase; pip install 'moldiff[xtb]'") from error
    return Atoms, TBLite, LBFGS


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenMP reads its number of threads as its library is loaded; more than one only costs time on small molecules."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
