"""A chemist's own files as a training set: what is kept and how, what is dropped and why, and what changes nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.Scaffolds import MurckoScaffold

from moldiff.chem import check, to_rdkit
from moldiff.datasets import preparing
from moldiff.datasets.curation import Curation, Unusable, curate, from_json, to_json
from moldiff.datasets.library import Library, survey
from moldiff.datasets.prepared import SPLITS, PreparedDataError, read_meta, read_split
from moldiff.datasets.preparing import prepare_library
from moldiff.datasets.readers import ReadError
from moldiff.datasets.records import Record
from moldiff.datasets.shards import discard
from moldiff.datasets.splits import random_split, scaffold_split
from moldiff.errors import RequestError

GOOD = [
    "Oc1ccccc1", "Cc1ccccc1", "CCc1ccccc1", "c1ccncc1", "Cc1ccncc1", "C1CCCC1", "OC1CCCC1", "CCO", "CCN", "CC(C)=O",
    "C[N+](=O)[O-]", "CCF",
]  # fmt: skip


def of_smiles(text: str) -> Record:
    return Record(1, "", "line 1", "smiles", text)


def of_mol(mol: Chem.Mol) -> Record:
    return Record(1, "", "line 1", "sdf", Chem.MolToMolBlock(mol) + "$$$$\n")


def in_space(text: str, hydrogens: bool = True) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol if hydrogens else Chem.RemoveHs(mol)


def water_at(distance: float) -> Record:
    text = f"3\nwater\nO 0 0 0\nH {distance} 0 0\nH -0.24 0.93 0\n"
    return Record(1, "water", "line 1", "xyz", text)


def write_table(path: Path, smiles: list[str], **columns: list[str]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", *columns])
        writer.writerows(zip(smiles, *columns.values(), strict=True))
    return path


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_dropped(folder: Path) -> list[dict[str, str]]:
    with open(folder / "dropped.csv", newline="") as file:
        return list(csv.DictReader(file))


class TestRecords:
    @pytest.mark.parametrize(
        ("record", "options", "reason", "detail"),
        [
            (of_smiles("C1CC"), {}, "unreadable", "not a SMILES: 'C1CC'"),
            (Record(1, "", "line 1", "smiles", "", "no SMILES in this row"), {}, "unreadable", "no SMILES in this row"),
            (water_at(0.96), {"charge": 4}, "bonds", "none fit a charge of 4"),
            (of_smiles("C(C)(C)(C)(C)C"), {}, "valence", "greater than permitted"),
            (of_smiles("c1cccc1"), {}, "sanitisation", "Can't kekulize mol"),
            (of_smiles("CC(=O)[O-].[Na+]"), {}, "salt", "CC(=O)[O-].[Na+]; see --largest-fragment"),
            (of_smiles("CCO.CCN"), {}, "mixture", "CCN.CCO; see --largest-fragment"),
            (of_smiles("[13CH4]"), {}, "isotope", "atom 1, C of mass 13"),
            (of_smiles("[CH3]"), {}, "radical", "atom 1, C with 1 unpaired electrons"),
            (of_smiles("*CC"), {}, "element", "atom 1, * stands for any of several"),
            (of_smiles("CBr"), {"vocabulary": ["H", "C"]}, "element", "atom 2 is Br, known are H C"),
            (of_smiles("[H][H]"), {}, "too small", "0 heavy atoms"),
            (of_smiles("C"), {"hydrogens": "implicit"}, "too small", "1 heavy atom"),
            (of_smiles("CCCC"), {"max_heavy": 3}, "too large", "4 heavy atoms, --max-heavy 3"),
            (of_smiles("C[PH4]"), {"hydrogens": "implicit"}, "hydrogens", "P, has 4, its valence implies 2"),
        ],
        ids=lambda value: value.text[:20] if isinstance(value, Record) else None,
    )
    def test_why_there_is_no_molecule(self, record, options, reason, detail):
        with pytest.raises(Unusable) as error:
            curate(record, Curation(**options))
        assert error.value.reason == reason
        assert detail in error.value.detail

    def test_atoms_in_one_place(self):
        mol = in_space("CCO")
        mol.GetConformer().SetAtomPosition(1, mol.GetConformer().GetAtomPosition(0))
        with pytest.raises(Unusable, match=r"coordinates: two atoms closer than 0\.5 Å"):
            curate(of_mol(mol), Curation())

    def test_coordinates_of_the_source_stay(self):
        mol = in_space("CC(=O)Nc1ccccc1")
        found = curate(of_mol(mol), Curation())
        assert found.origin == "source"
        np.testing.assert_allclose(found.structure.pos, mol.GetConformer().GetPositions(), atol=1e-4)
        assert found.structure.smiles == "CC(=O)Nc1ccccc1"
        assert found.scaffold == "c1ccccc1"

    def test_missing_hydrogens_are_put_on_heavy_atoms_that_stay(self):
        mol = in_space("CCO", hydrogens=False)
        found = curate(of_mol(mol), Curation())
        assert found.structure.number.tolist() == [6, 6, 8] + [1] * 6
        np.testing.assert_allclose(found.structure.pos[:3], mol.GetConformer().GetPositions(), atol=1e-4)

    def test_without_3d_a_conformer_is_made_with_the_stereo_of_the_source(self):
        for text in ("C[C@H](N)O", "C[C@@H](N)O", "C/C=C/C", "C/C=C\\C"):
            found = curate(of_smiles(text), Curation())
            assert found.origin == "MMFF94s"
            mol = Chem.AddHs(Chem.MolFromSmiles(text))
            mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
            for k, position in enumerate(found.structure.pos.tolist()):
                mol.GetConformer().SetAtomPosition(k, position)
            mol.GetConformer().Set3D(True)
            Chem.AssignStereochemistryFrom3D(mol)
            assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(text)

    def test_bonds_of_xyz_are_found(self):
        found = curate(water_at(0.96), Curation())
        assert found.structure.smiles == "O"
        assert found.structure.bond_index.tolist() == [[0, 1], [0, 2]]

    def test_fragments_and_charges_only_when_asked(self):
        salt = of_smiles("CC(=O)[O-].[Na+]")
        assert curate(salt, Curation(largest_fragment=True)).structure.smiles == "CC(=O)[O-]"
        assert curate(salt, Curation(largest_fragment=True, neutralise=True)).structure.smiles == "CC(=O)O"
        nitro = curate(of_smiles("C[N+](=O)[O-]"), Curation(neutralise=True))
        assert nitro.structure.smiles == "C[N+](=O)[O-]"

    def test_implicit_hydrogens_leave_heavy_atoms_and_their_bonds(self):
        found = curate(of_smiles("CC=O"), Curation(hydrogens="implicit"))
        assert found.structure.number.tolist() == [6, 6, 8]
        assert found.structure.bond_index.tolist() == [[0, 1], [1, 2]]
        assert found.structure.bond_order.tolist() == [1, 2]

    def test_a_molecule_survives_the_way_between_processes(self):
        found = curate(of_smiles("CC=O"), Curation())
        again = from_json(json.loads(json.dumps(to_json(found))))
        for ours, theirs in zip(found.structure, again.structure, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert again._replace(structure=found.structure) == found


class TestComputedProperties:
    """Of the graph, where no file has them."""

    @pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
    def test_values(self, hydrogens):
        names = ["weight", "rings", "aromatic_rings", "hbd", "hba", "rotatable_bonds", "fsp3", "tpsa", "largest_ring"]
        found = curate(of_smiles("OCc1ccccc1"), Curation(hydrogens=hydrogens), computed=names)
        values = [found.computed[name] for name in names]
        assert values == pytest.approx([108.14, 1, 1, 1, 1, 1, 1 / 7, 20.23, 6], abs=1e-3)

    def test_are_of_the_molecule_that_is_kept(self):
        salt = curate(of_smiles("CC(=O)[O-].[Na+]"), Curation(largest_fragment=True, neutralise=True), (), ["weight"])
        assert salt.computed == {"weight": pytest.approx(60.052, abs=1e-3)}

    def test_a_file_that_has_them_wins_whatever_their_case(self, tmp_path):
        sdf = tmp_path / "a.sdf"
        sdf.write_text(of_mol(in_space("CCO")).text.replace("$$$$", ">  <Weight>\n7\n\n$$$$"))
        table = write_table(tmp_path / "b.csv", ["CCO"], WEIGHT=["8"])
        for path in (sdf, table):
            library, counts = survey(Library([path], properties=[("weight", "stone"), ("QED", "")]))
            assert (library.properties, library.computed) == ([("weight", "stone"), ("qed", "")], ["qed"])
            assert counts == [1]
        fields = curate(Record(1, "", "line 1", "sdf", sdf.read_text()), Curation(), ["weight"]).fields
        assert fields == ["7"]

    def test_for_files_without_columns(self, tmp_path):
        (tmp_path / "a.smi").write_text("CCO\n")
        (tmp_path / "a.xyz").write_text(water_at(0.96).text)
        for name in ("a.smi", "a.xyz"):
            library, _ = survey(Library([tmp_path / name], properties=[("tpsa", "")]))
            assert library.properties == [("tpsa", "Å²")]

    def test_one_file_of_several_has_them(self, tmp_path):
        """Values of two origins in one column would not be one property."""
        (tmp_path / "a.smi").write_text("CCO\n")
        files = [write_table(tmp_path / "b.csv", ["CCO"], weight=["8"]), tmp_path / "a.smi"]
        with pytest.raises(ReadError, match=r"--property weight: .*a.smi has no properties; give an SDF or a table"):
            survey(Library(files, properties=[("weight", "")]))

    @pytest.mark.parametrize(
        ("properties", "message"),
        [
            ([("weight", "kg")], "--property weight:kg: is computed in g/mol; leave it out"),
            ([("QED", "eV")], "--property QED:eV: is computed in no unit; leave it out"),
            ([("qed", ""), ("QED", "")], "--property qed: given twice; give it once"),
        ],
    )
    def test_refusals(self, tmp_path, properties, message):
        (tmp_path / "a.smi").write_text("CCO\n")
        with pytest.raises(RequestError, match=message):
            survey(Library([tmp_path / "a.smi"], properties=properties))


class TestSplits:
    def test_shares(self):
        names = random_split(50, 0.1, 0.2, 3)
        assert np.bincount(names).tolist() == [35, 5, 10]
        assert (names == random_split(50, 0.1, 0.2, 3)).all()
        assert (names != random_split(50, 0.1, 0.2, 4)).any()

    def test_none_left_for_training(self):
        with pytest.raises(
            PreparedDataError, match=r"--valid 0\.5 --test 0\.499: of 7 molecules none is left for training"
        ):
            random_split(7, 0.5, 0.499, 0)

    def test_a_scaffold_is_in_one_part(self):
        scaffold = np.array([b"a"] * 6 + [b"b"] * 2 + [b"c", b"d"])
        names = scaffold_split(scaffold, 0.2, 0.1)
        assert names.tolist() == [0] * 6 + [1, 1] + [0, 2]

    def test_one_scaffold_cannot_be_split(self):
        with pytest.raises(PreparedDataError, match="the 1 scaffolds leave no molecule for valid; use --split random"):
            scaffold_split(np.array([b"a"] * 9), 0.2, 0.2)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Twelve usable molecules among others."""
    smiles = [*GOOD[:5], "OCC", *GOOD[5:], "C1CC", "CCO.CCN", "CCCl", "CCCCCC"]
    activity = ["5.5", "6", "", "4.5", "7", "1", "2", "3", "8", "4", "6.5", "5", "5.1", "1", "1", "high", "9e9999"]
    return write_table(tmp_path_factory.mktemp("table") / "own.csv", smiles, activity=activity)


@pytest.fixture(scope="module")
def library(table) -> Library:
    return Library([table], properties=[("activity", "kcal/mol")])


@pytest.fixture(scope="module")
def small_shards() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SIZE", 4)
        patch.setattr(preparing, "CHUNK", 2)
        yield


@pytest.fixture(scope="module")
def straight(library, small_shards, tmp_path_factory) -> Path:
    """Prepared without interruption by one process."""
    folder = tmp_path_factory.mktemp("straight") / "set"
    seen = []
    prepare_library(library, folder, jobs=1, progress=lambda *counts: seen.append(counts))
    assert seen == [(k, 17) for k in range(1, 18)]
    return folder


class TestSets:
    def test_is_read_back(self, straight):
        meta = read_meta(straight)
        mols = {}
        for name in SPLITS:
            split = read_split(straight, name)
            buckets = split.buckets().values()
            found = [mol for molecules, _ in buckets for mol in to_rdkit(molecules, meta["vocabulary"])]
            mols[name] = sorted(Chem.MolToSmiles(Chem.RemoveHs(check(mol).mol)) for mol in found)
            assert mols[name] == sorted((straight / f"{name}.smi").read_text().split())
        assert sorted(chain.from_iterable(mols.values())) == sorted(map(Chem.CanonSmiles, GOOD))
        assert meta["molecules"] == {"train": 10, "valid": 1, "test": 1}
        compositions = Counter(map(tuple, read_split(straight, "train").compositions(meta["vocabulary"]).tolist()))
        assert compositions.total() == 10
        assert meta["compositions"] == [[*row, count] for row, count in sorted(compositions.items())]
        assert set(meta["vocabulary"]) == {"H", "C", "N", "N+", "O", "O-", "F"}

    def test_properties_belong_to_their_molecules(self, straight, table):
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
        for name in SPLITS:
            split = read_split(straight, name)
            for source, value in zip(split.source.tolist(), split.properties[:, 0].tolist(), strict=True):
                text = rows[source - 1]["activity"]
                assert np.isnan(value) if text == "" else value == pytest.approx(float(text))
        meta = read_meta(straight)
        assert [(p["name"], p["unit"]) for p in meta["properties"]] == [("activity", "kcal/mol")]
        assert meta["counts"]["unknown"] == {"activity": 1}

    def test_what_is_dropped_is_named(self, straight):
        rows = [(row["file"], row["row"], row["where"], row["reason"]) for row in read_dropped(straight)]
        assert rows == [
            ("own.csv", "9", "line 10", "duplicate"), ("own.csv", "14", "line 15", "unreadable"),
            ("own.csv", "15", "line 16", "mixture"), ("own.csv", "16", "line 17", "property"),
            ("own.csv", "17", "line 18", "property"),
        ]  # fmt: skip
        details = [row["detail"] for row in read_dropped(straight)]
        assert details[0] == "of own.csv row 6"
        assert details[3] == "activity is 'high', no number up to 3.4e+38; leave it empty where it is unknown"
        counts = read_meta(straight)["counts"]
        assert (counts["read"], counts["kept"]) == (17, 12)
        assert counts["dropped"] == {"duplicate": 1, "mixture": 1, "property": 2, "unreadable": 1}

    def test_what_float32_cannot_hold_is_no_number(self, tmp_path):
        texts = ["1e39", "-1e39", "1_0", "3e38", *map(str, range(len(GOOD) - 4))]
        table = write_table(tmp_path / "own.csv", GOOD, activity=texts)
        meta = prepare_library(Library([table], properties=[("activity", "")]), tmp_path / "set", jobs=1)
        assert [row["row"] for row in read_dropped(tmp_path / "set") if row["reason"] == "property"] == ["1", "2", "3"]
        assert all(np.isfinite(meta["properties"][0][key]) for key in ("mean", "std"))

    def test_processes_change_nothing(self, library, small_shards, straight, tmp_path):
        prepare_library(library, tmp_path / "set", jobs=2)
        assert content_of(tmp_path / "set") == content_of(straight)

    def test_one_call_at_a_time(self, library, small_shards, straight, tmp_path):
        refused = []

        def again(*_: int) -> None:
            with pytest.raises(RequestError, match=r"-o .*set: another run is writing there"):
                prepare_library(library, tmp_path / "set", jobs=1, force=True)
            refused.append(True)

        prepare_library(library, tmp_path / "set", jobs=1, progress=again)
        assert refused and content_of(tmp_path / "set") == content_of(straight)

    def test_a_killed_run_goes_on_to_the_same_bytes(self, table, library, small_shards, straight, tmp_path):
        script = f"""
import os, signal
from pathlib import Path
from moldiff.datasets import preparing
from moldiff.datasets.library import Library
preparing.SIZE, preparing.CHUNK = 4, 2
kill = lambda done, total: done == 10 and os.kill(os.getpid(), signal.SIGKILL)
library = Library([Path({str(table)!r})], properties=[("activity", "kcal/mol")])
preparing.prepare_library(library, Path({str(tmp_path / "set")!r}), 1, kill)
"""
        done = subprocess.run([sys.executable, "-c", script], check=False)
        assert done.returncode == -signal.SIGKILL
        assert sorted(os.listdir(tmp_path / "set" / ".work")) == [
            "000000.safetensors", "000001.safetensors", "request.json",
        ]  # fmt: skip
        (tmp_path / "set" / ".train.smi.1.tmp").write_text("of a run that was killed while writing")
        (tmp_path / "set" / ".molecules.sdf.1.tmp").write_text("of another program")
        other = Library([table])
        with pytest.raises(PreparedDataError, match=r"other settings \(properties\) is there; use the same .* --force"):
            prepare_library(other, tmp_path / "set")
        seen = []
        prepare_library(library, tmp_path / "set", jobs=1, progress=lambda done, _: seen.append(done))
        assert seen[0] == 9
        (tmp_path / "set" / ".molecules.sdf.1.tmp").unlink()  # not ours to remove
        assert content_of(tmp_path / "set") == content_of(straight)

    def test_files_of_several_formats_in_one_set(self, tmp_path):
        """Split by scaffold, which no two parts share."""
        with Chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
            for k, text in enumerate(GOOD[:6]):
                mol = in_space(text)
                mol.SetProp("mass", str(k))
                writer.write(mol)
        write_table(tmp_path / "b.tsv", GOOD[4:], mass=["7"] * 8)
        library = Library(
            [tmp_path / "a.sdf", tmp_path / "b.tsv"], properties=[("mass", "")], split="scaffold", test=0.3
        )
        meta = prepare_library(library, tmp_path / "set", jobs=1)
        assert [row["detail"] for row in read_dropped(tmp_path / "set")] == ["of a.sdf row 5", "of a.sdf row 6"]
        assert meta["counts"]["coordinates"] == {"MMFF94s": 6, "source": 6}
        assert meta["first_row"] == {"a.sdf": 1, "b.tsv": 7}
        scaffolds = []
        for name in SPLITS:
            smiles = (tmp_path / "set" / f"{name}.smi").read_text().split()
            scaffolds.append({MurckoScaffold.MurckoScaffoldSmiles(text) for text in smiles} - {""})
        assert set.union(*scaffolds) == {"c1ccccc1", "c1ccncc1", "C1CCCC1"}
        assert not any(one & other for one, other in combinations(scaffolds, 2))

    def test_nothing_left(self, tmp_path):
        path = write_table(tmp_path / "salts.csv", ["[Na+].[Cl-]", "C1CC"])
        says = (
            r"0 different usable molecules; at least 3 are needed \(dropped: salt 1, unreadable 1; the first, .* line 2"
        )
        with pytest.raises(PreparedDataError, match=says):
            prepare_library(Library([path]), tmp_path / "set", jobs=1)
        (tmp_path / "set" / "meta.json").write_text("{}")
        with pytest.raises(ReadError, match="--property nope"):
            prepare_library(Library([path], properties=[("nope", "")]), tmp_path / "set", force=True)
        assert (tmp_path / "set" / "meta.json").exists(), "refused before anything is removed"
        discard(tmp_path / "set")
        assert list((tmp_path / "set").iterdir()) == []

    @pytest.mark.parametrize(
        ("rows", "activity", "says"),
        [(2, ["1", "2"], "2 different usable molecules"), (12, ["1"] * 12, "property activity: is 1 everywhere")],
    )
    def test_a_file_is_corrected(self, tmp_path, rows, activity, says):
        table = write_table(tmp_path / "own.csv", GOOD[:rows], activity=activity)
        library = Library([table], properties=[("activity", "")])
        with pytest.raises(PreparedDataError, match=says):
            prepare_library(library, tmp_path / "set", jobs=1)
        assert list((tmp_path / "set").iterdir()) == [], "nothing that the next attempt would be refused for"
        write_table(table, GOOD, activity=[str(k) for k in range(len(GOOD))])
        assert prepare_library(library, tmp_path / "set", jobs=1)["counts"]["kept"] == len(GOOD)

    def test_no_record(self, tmp_path):
        path = write_table(tmp_path / "heading.csv", [])
        with pytest.raises(ReadError, match=r"heading\.csv: no record in it; give a file with molecules"):
            prepare_library(Library([path]), tmp_path / "set", jobs=1)

    def test_a_molecule_that_takes_too_long(self, tmp_path):
        path = write_table(tmp_path / "slow.csv", ["C" * 45])
        with pytest.raises(
            PreparedDataError, match=r"dropped: timeout 1; .* line 2: more than 0\.001 s; see --timeout"
        ):
            prepare_library(Library([path], timeout=0.001), tmp_path / "set", jobs=1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"valid": 0.6, "test": 0.5}, "--valid 0.6 --test 0.5: shares above 0 that leave some for training"),
            ({"timeout": 0.0}, "--timeout 0: must be positive"),
            ({"curation": Curation(seed=-1)}, "--seed -1: must be between 0 and"),
            ({"split": "odd"}, "--split odd: choose random or scaffold"),
            ({"curation": Curation(hydrogens="some")}, "--hydrogens some: choose explicit or implicit"),
            ({"properties": [("activity", ""), ("activity", "nM")]}, "--property activity: given twice; give it once"),
        ],
    )
    def test_settings(self, table, tmp_path, options, message):
        with pytest.raises(RequestError, match=message.replace("(", r"\(")):
            prepare_library(Library([table], **options), tmp_path / "set")
        assert not (tmp_path / "set").exists()

    def test_properties_that_are_not_there(self, table, tmp_path):
        sdf = tmp_path / "a.sdf"
        sdf.write_text(of_mol(in_space("CCO")).text)
        smi = tmp_path / "a.smi"
        smi.write_text("CCO\n")
        for path, message in (
            (table, "--property nope: .* has no such column"),
            (sdf, "--property nope: no record of .* has such a data field"),
            (smi, "--property nope: .* has no properties; give an SDF or a table"),
        ):
            with pytest.raises(ReadError, match=message):
                prepare_library(Library([path], properties=[("nope", "")]), tmp_path / "set")
        assert not (tmp_path / "set").exists()
