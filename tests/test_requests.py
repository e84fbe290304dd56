"""Molecules asked for → fields of a request: whose word counts for its sizes, sampler and guides."""

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from moldiff.fragments import Wishes
from moldiff.overlay import Overlay
from moldiff.overlay_guides import ShapeGuide
from moldiff.requests import Request, with_molecules
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


def test_analogues_have_the_size_of_their_seed_and_begin_at_it(info, ether):
    request, _ = with_molecules(Request(1, sampler=Sampler(20)), info, Wishes(like=ether), Overlay(ether))
    assert (request.heavy_atoms, request.sampler.steps, request.sampler.from_template) == (None, 20, True)
    assert len(request.known) == ether.GetNumAtoms()


def test_guides_follow_those_of_the_draft(info, ether):
    def own(x0, noisy, level):
        return x0

    request, _ = with_molecules(Request(1, guides=(own,)), info, Wishes(), Overlay(ether))
    assert request.guides[0] is own and isinstance(request.guides[1], ShapeGuide)
