"""The flat arrays: what is written is read, buckets are right, damage is named."""

import json
import shutil
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from moldiff.datasets import prepared
from moldiff.datasets.prepared import (
    SPLITS,
    PreparedDataError,
    Split,
    learned_from,
    property_statistics,
    read_meta,
    read_split,
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


def without_properties(split: Split) -> Split:
    return replace(split, properties=split.properties[:, :0])


def piece(split: Split, *rows: int) -> Split:
    return split.select(np.isin(np.arange(len(split)), rows))


def test_what_is_learned_from_two_molecules_by_hand():
    found = learned_from([without_properties(water_and_acid())], ["H", "C", "N", "O"], [])
    assert found["atom_marginal"] == pytest.approx([3 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert found["bond_marginal"] == pytest.approx([2 / 6, 3 / 6, 0, 1 / 6])
    assert found["compositions"] == [[1, 1, 1, 0, 1], [2, 0, 0, 1, 1]]
    assert found["coordinate_std"] == pytest.approx(np.sqrt((4 / 3 + 2) / 18))
    assert (found["properties"], found["examples"]) == ([], [])


def test_properties_are_those_of_the_composition():
    split = replace(water_and_acid(), properties=np.array([[1.0, 5.0], [3.0, -5.0]], np.float32))
    found = learned_from([split], ["H", "C", "N", "O"], [("a", "eV"), ("b", "")])
    assert found["properties"][0] == {"name": "a", "unit": "eV", "mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}
    assert found["properties"][1]["name"] == "b"
    assert found["examples"] == [[0, 3.0, -5.0], [1, 1.0, 5.0]]  # the acid is first


def test_compositions_count_elements_not_tokens():
    split = water_and_acid()
    found = split.compositions(["N+", "O", "N", "O-"])
    assert found.tolist() == [[2, 1], [2, 1]]
    assert split.compositions(["H", "C", "N", "O"]).tolist() == [[2, 0, 0, 1], [1, 1, 1, 0]]
    assert piece(split).compositions(["H", "C", "N", "O"]).shape == (0, 4)


def test_what_is_learned_does_not_depend_on_the_pieces():
    """None of which need hold a molecule."""
    split = read_split(SAMPLE, "valid")
    meta = read_meta(SAMPLE)
    told = meta["vocabulary"], [(p["name"], p["unit"]) for p in meta["properties"]]
    parts = [piece(split, *range(0, 31)), piece(split), piece(split, *range(31, 100))]
    whole, pieces = learned_from([split], *told), learned_from(iter(parts), *told)
    assert len(whole["compositions"]) > 10
    assert pieces.pop("coordinate_std") == pytest.approx(whole.pop("coordinate_std"))
    assert pieces == whole


def test_only_the_most_frequent_compositions_are_told_apart(monkeypatch):
    """In their order, with their properties; whatever else is learned is learned from all."""
    split = water_and_acid()
    values = np.array([[1.0], [2.0]], np.float32)
    water, acid = (replace(piece(split, k), properties=values[[k]]) for k in range(2))
    nitrogen = replace(acid, atom=np.array([2, 2, 2], np.uint8))  # N3
    splits = [water] * 3 + [nitrogen] + [acid] * 2
    told = ["H", "C", "N", "O"], [("a", "")]
    whole = learned_from(splits, *told)
    assert whole["compositions"] == [[0, 0, 3, 0, 1], [1, 1, 1, 0, 2], [2, 0, 0, 1, 3]]
    monkeypatch.setattr(prepared, "COMPOSITIONS", 2)
    found = learned_from(splits, *told)
    assert found["compositions"] == whole["compositions"][1:]
    assert found["examples"] == [[row - 1, value] for row, value in whole["examples"] if row > 0]
    others = whole.keys() - {"compositions", "examples"}
    assert len(others) == 5 and {k: found[k] for k in others} == {k: whole[k] for k in others}


def test_examples_are_properties_that_occur_together(monkeypatch):
    """In the order of the compositions, which is the acid first; a molecule of which nothing is known is none."""
    split = water_and_acid()
    both = [replace(split, properties=np.array(values, np.float32)) for values in (
        [[1.23456, np.nan], [3.0, -5.0]], [[np.nan, np.nan], [4.0, 6.0]],
    )]  # fmt: skip
    told = ["H", "C", "N", "O"], [("a", "eV"), ("b", "")]
    assert learned_from(both, *told)["examples"] == [[0, 3.0, -5.0], [0, 4.0, 6.0], [1, 1.235, None]]
    monkeypatch.setattr(prepared, "EXAMPLES", 2)
    few = learned_from(both, *told)["examples"]
    assert len(few) == 2 and [row for row in learned_from(both, *told)["examples"] if row in few] == few


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


def test_molecules_are_in_the_order_of_the_rows():
    split = read_split(SAMPLE, "train")
    molecules = split.molecules()
    assert molecules.size.tolist() == split.n_atoms.tolist() and molecules.mask.shape[1] == split.n_atoms.max()
    assert np.array_equal(molecules.atom[molecules.mask], split.atom)
    assert np.array_equal(molecules.pos[molecules.mask], split.pos)
    assert ((molecules.bond > 0).sum((1, 2)).numpy() == 2 * split.n_bonds).all()


def test_a_draw_keeps_the_order_and_never_repeats():
    split = read_split(SAMPLE, "train")
    drawn = split.draw(20, seed=1)
    kept = np.isin(split.source, drawn.source)
    assert len(drawn) == 20 == kept.sum() and np.array_equal(drawn.source, split.source[kept])
    assert np.array_equal(drawn.source, split.draw(20, seed=1).source)
    assert not np.array_equal(drawn.source, split.draw(20, seed=2).source)
    assert np.array_equal(split.draw(10**6, seed=1).source, split.source)


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


@pytest.mark.parametrize("number", [1, 99])
def test_other_formats_are_refused(tmp_path, number):
    meta = json.loads((SAMPLE / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "format": number}))
    with pytest.raises(PreparedDataError, match=f"format {number}, this version reads 3; prepare it again"):
        read_meta(tmp_path)


@pytest.mark.parametrize("text", ['{"format": 3', "[]"])
def test_damaged_metadata_are_refused(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(PreparedDataError, match=r"meta\.json: .*; prepare the set again"):
        read_meta(tmp_path)


def test_truncated_arrays_are_refused(tmp_path):
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(PreparedDataError, match=r"train.safetensors: cannot be read"):
        read_split(tmp_path, "train")
