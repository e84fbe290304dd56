"""The flat arrays: what is written is read, buckets are right, damage is named."""

import json
import shutil
import stat
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from moldiff.datasets.prepared import (
    SPLITS,
    PreparedDataError,
    Split,
    property_statistics,
    read_meta,
    read_split,
    statistics,
    write_prepared,
)

SAMPLE = Path(__file__).parents[2] / "data" / "qm9_sample"


def water_and_acid() -> Split:
    """H–O–H and H–C≡N, tokens H C N O."""
    return Split(
        n_atoms=np.array([3, 3], np.int32),
        n_bonds=np.array([2, 2], np.int32),
        atom=np.array([3, 0, 0, 0, 1, 2], np.uint8),
        pos=np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 0], [1, 0, 0]], np.float32),
        bond_index=np.array([[0, 1], [0, 2], [0, 1], [1, 2]], np.int16),
        bond_order=np.array([1, 1, 1, 3], np.uint8),
        properties=np.array([[1.0], [np.nan]], np.float32),
        source=np.array([3, 5], np.int64),
    )


def test_statistics_of_two_molecules_by_hand():
    found = statistics([water_and_acid()], 4, np.array([False, True, True, True]))
    assert found["atom_marginal"] == pytest.approx([3 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert found["bond_marginal"] == pytest.approx([2 / 6, 3 / 6, 0, 1 / 6])
    assert found["size_histogram"] == [[1, 3, 1], [2, 3, 1]]
    assert found["coordinate_std"] == pytest.approx(np.sqrt((4 / 3 + 2) / 18))


def test_statistics_do_not_depend_on_the_pieces():
    split = water_and_acid()
    parts = [split.select(np.array([True, False])), split.select(np.array([False, True]))]
    heavy = np.array([False, True, True, True])
    whole, pieces = statistics([split], 4, heavy), statistics(parts, 4, heavy)
    assert pieces.pop("coordinate_std") == pytest.approx(whole.pop("coordinate_std"))
    assert pieces == whole


def test_unknown_values_do_not_count_and_constants_are_refused():
    rows = property_statistics(np.array([[1.0, 2.0], [np.nan, 2.0], [3.0, 2.0]])[:, :1], [("a", "eV")])
    assert rows == [{"name": "a", "unit": "eV", "mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}]
    with pytest.raises(PreparedDataError, match="property b: is 2 everywhere in the training split; leave it out"):
        property_statistics(np.full((3, 1), 2.0), [("b", "")])
    with pytest.raises(PreparedDataError, match="property c: has no values"):
        property_statistics(np.full((3, 1), np.nan), [("c", "")])


def test_buckets_of_two_molecules_by_hand():
    buckets = water_and_acid().buckets()
    assert list(buckets) == [3]
    molecules, rows = buckets[3]
    assert rows.tolist() == [0, 1]
    assert molecules.bond[0].tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert molecules.bond[1].tolist() == [[0, 1, 0], [1, 0, 3], [0, 3, 0]]
    assert molecules.atom.tolist() == [[3, 0, 0], [0, 1, 2]]
    assert molecules.mask.all()


def test_buckets_hold_every_molecule_once():
    split = read_split(SAMPLE, "train")
    buckets = split.buckets()
    rows = np.concatenate([rows.numpy() for _, rows in buckets.values()])
    assert sorted(rows) == list(range(len(split)))
    for n, (molecules, rows) in buckets.items():
        assert (split.n_atoms[rows] == n).all()
        assert ((molecules.bond > 0).sum((1, 2)).numpy() == 2 * split.n_bonds[rows]).all()


def test_written_is_read(tmp_path):
    split, smiles = water_and_acid(), ["O", "C#N"]
    meta = write_prepared(tmp_path, {name: [(split, smiles)] for name in SPLITS}, {"name": "two"})
    assert read_meta(tmp_path) == meta
    assert meta["molecules"] == dict.fromkeys(SPLITS, 2)
    again = read_split(tmp_path, "valid")
    for field in fields(Split):
        mine, theirs = getattr(split, field.name), getattr(again, field.name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert (tmp_path / "train.smi").read_text() == "O\nC#N\n"
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert len(modes) == 1, "all files as readable as the metadata"


def test_pieces_are_written_as_a_whole_is(tmp_path):
    """And as the library of the format writes it."""
    split = water_and_acid()
    one = (split.select(np.array([True, False])), ["O"])
    two = (split.select(np.array([False, True])), ["C#N"])
    write_prepared(tmp_path, {"train": [one, two]}, {})
    assert (tmp_path / "train.safetensors").read_bytes() == save(vars(split))
    assert (tmp_path / "train.smi").read_text() == "O\nC#N\n"
    assert not list(tmp_path.glob(".*"))


def test_tokens_are_matched_by_name():
    split = water_and_acid()
    again = split.with_vocabulary(["H", "C", "N", "O"], ["O", "F", "N", "C", "H"])
    assert again.atom.tolist() == [0, 4, 4, 4, 3, 2]
    assert split.having([2, 3]).tolist() == [True, True]
    assert split.having([3]).tolist() == [True, False]


def test_absent_sets_name_the_remedy(tmp_path):
    with pytest.raises(PreparedDataError, match="moldiff data prepare"):
        read_meta(tmp_path)
    with pytest.raises(PreparedDataError, match="missing; prepare"):
        read_split(tmp_path, "train")


def test_other_formats_are_refused(tmp_path):
    meta = json.loads((SAMPLE / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(PreparedDataError, match="format 99"):
        read_meta(tmp_path)


def test_truncated_arrays_are_refused(tmp_path):
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(PreparedDataError, match=r"train.safetensors: cannot be read"):
        read_split(tmp_path, "train")
