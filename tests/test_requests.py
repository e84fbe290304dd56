"""Molecules asked for → fields of a request: whose word counts for its sizes, sampler and guides."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff.config import Config
from moldiff.errors import RequestError
from moldiff.fragments import Wishes
from moldiff.overlay import Overlay
from moldiff.overlay_guides import ShapeGuide
from moldiff.requests import Request, choose_sampler, with_molecules
from moldiff.samplers import Sampler


@pytest.fixture(scope="module")
def ether() -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles("CCOC"))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def test_without_molecules_the_draft_stays_as_it_is(info):
    draft = Request(3, seed=7, heavy_atoms=(3, 4), unique=True)
    request, plan = with_molecules(draft, info, Wishes(), Overlay())
    assert (request, plan.known, plan.notes) == (draft, None, ())


@pytest.mark.parametrize(("asked", "taken"), [(None, (3, 4)), ((3, 3), (3, 3))])
def test_a_shape_gives_the_sizes_that_are_left_open(info, ether, asked, taken):
    request, _ = with_molecules(Request(1, heavy_atoms=asked), info, Wishes(), Overlay(ether))
    assert request.heavy_atoms == taken


def test_a_shape_without_heavy_atoms_is_none(info, ether):
    """Also where the size is asked for."""
    hydrogens = Chem.RWMol(ether)
    for atom in reversed([a.GetIdx() for a in ether.GetAtoms() if a.GetAtomicNum() > 1]):
        hydrogens.RemoveAtom(atom)
    with pytest.raises(RequestError, match="--shape: has no heavy atoms"):
        with_molecules(Request(1, heavy_atoms=(3, 3)), info, Wishes(), Overlay(hydrogens))


def test_a_formula_gives_the_size_of_what_is_made_anew(info, ether):
    wishes = Wishes(fix=ether, replace="O")
    open_size, _ = with_molecules(Request(1), info, wishes, Overlay())
    request, _ = with_molecules(Request(1, formula="C3H6O"), info, wishes, Overlay())
    assert (open_size.heavy_atoms, request.heavy_atoms) == ((4, 4), None)
    with pytest.raises(RequestError, match="it is --n-atoms that gives the size"):
        with_molecules(Request(1, formula="C3H6O", heavy_atoms=(4, 4)), info, wishes, Overlay())[0].size_draw(info)


def test_numbers_of_any_type_are_one_request(info, ether):
    pairs = [
        [Request(1, sampler=choose_sampler(Config(), None, steps)) for steps in (20, np.int64(20))],
        [Request(1, guidance=weight) for weight in (3.0, np.float64(3))],
        [
            with_molecules(Request(1), info, Wishes(like=ether, strength=s), Overlay())[0]
            for s in (0.5, np.float64(0.5))
        ],
    ]
    for same in pairs:
        assert len({request.key("weights") for request in same}) == 1


def test_analogues_have_the_size_of_their_seed_and_begin_at_it(info, ether):
    request, _ = with_molecules(Request(1, sampler=Sampler(20)), info, Wishes(like=ether), Overlay(ether))
    assert (request.heavy_atoms, request.sampler.steps, request.sampler.from_template) == (None, 20, True)
    assert len(request.known) == ether.GetNumAtoms()


def test_guides_follow_those_of_the_draft(info, ether):
    def own(x0, noisy, level):
        return x0

    request, _ = with_molecules(Request(1, guides=(own,)), info, Wishes(), Overlay(ether))
    assert request.guides[0] is own and isinstance(request.guides[1], ShapeGuide)
