"""Whatever is picked is far apart, and always the same."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

import moldiff
from moldiff.diversity import pick_diverse
from moldiff.errors import RequestError
from moldiff.outcomes import Record

SMILES = [
    "CCO",
    "CCCO",
    "c1ccccc1",
    "CCCCO",
    "Cc1ccccc1",
    "C#N",
    "CC#N",
    "C1CC1N",
    "C1CCC1N",
    "O=CF",
    "CCCCCO",
    "C[C@H](N)F",
]


def nearest_pair(picked: Sequence[int]) -> float:
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(SMILES[k])) for k in picked]
    return min(1 - DataStructs.TanimotoSimilarity(a, b) for a, b in combinations(prints, 2))


@pytest.mark.parametrize("count", [2, 5, 7])
def test_no_two_picked_are_near(count):
    """Compared with random choices, of which few do as well."""
    random = np.random.default_rng(0)
    others = [nearest_pair(random.choice(len(SMILES), count, replace=False)) for _ in range(200)]
    assert nearest_pair(pick_diverse(SMILES, count)) >= np.quantile(others, 0.95)


def test_one_of_each_family():
    families = ["CCCCCCO", "CCCCCCCO", "CCCCCCCCO", "c1ccccc1C", "c1ccccc1CC", "c1ccccc1CCC", "N#CF", "N#CCl"]
    assert [k // 3 for k in pick_diverse(families, 3)] == [0, 1, 2]
    assert list(pick_diverse(families, 3)) == list(pick_diverse(families, 3))


def test_all_are_picked_where_there_are_no_more():
    assert list(pick_diverse(SMILES[:3], 3)) == list(pick_diverse(SMILES[:3], 9)) == [0, 1, 2]
    assert list(pick_diverse([], 3)) == []


def test_the_fingerprints_are_those_of_the_smiles():
    """Hydrogens that are implied count: without them, another of these would be picked."""
    texts = ["C#CC1CC1C#C", "CCC(O)CCC#N", "N#Cc1ccccc1", "CCN(C)C(N)=O", "CC1=CCOCC1C", "C1=NCCCO1"]
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    vectors = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in texts]
    assert pick_diverse(texts, 3) == sorted(MaxMinPicker().LazyBitVectorPick(vectors, len(vectors), 3, seed=0))


def test_stereo_and_hydrogens_do_not_matter():
    pair = ["C[C@H](N)F", "C[C@@H](N)F", "[H]/N=C/C", "C/C=N/[H]"]
    assert len(pick_diverse([*pair, "CCCCCC"], 3)) == 3
    picked = {pair[k][:3] for k in pick_diverse([*pair, "CCCCCC"], 3) if k < 4}
    assert len(picked) == 2  # never both of a pair


def test_records():
    mol = Chem.MolFromSmiles("C")
    records = [Record(str(k), mol, smiles, 0, k) for k, smiles in enumerate(SMILES)]
    assert [r.index for r in moldiff.diverse(iter(records), 4)] == list(pick_diverse(SMILES, 4))
    with pytest.raises(RequestError, match="--diverse 0: pick at least one"):
        moldiff.diverse(records, 0)
