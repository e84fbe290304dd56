"""Evaluation of files: what is counted, what is named, what is refused, what is shown."""

import io
import json
import math
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rich.console import Console
from typer.testing import CliRunner

from moldiff import chem, report
from moldiff.cli import app
from moldiff.metrics import describe, evaluate
from moldiff.report import FileEvaluation, ReportError, evaluate_file

GOOD = ("CCO", "c1ccccc1", "C[N+](=O)[O-]", "CC(=O)[O-].[NH4+]", "CCO")


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


def test_the_metrics_are_those_of_the_molecules_as_written(sdf):
    result = evaluate_file(sdf)
    mols = [chem.parse_sdf_record(text, sanitize=False) for text in chem.sdf_records(sdf)]
    assert result.evaluation.to_frame().equals(evaluate(mols).to_frame())
    metrics = result.to_dict()["metrics"]
    assert (metrics["valid"]["numerator"], metrics["valid"]["denominator"]) == (5, 5)
    assert (metrics["valid_connected"]["numerator"], metrics["unique"]["numerator"]) == (4, 3)


def test_bad_records_are_counted_and_named_and_take_no_good_one_with_them(broken):
    result = evaluate_file(broken)
    assert result.unreadable == [2, 5]
    assert result.table["id"].tolist()[::5] == ["CCO", "CO"]
    assert result.table.loc[3, "failure"] == "properties"
    valid = result.evaluation["valid"]
    assert (valid.numerator, valid.denominator) == (3, 6)
    assert result.evaluation["radical"].numerator == 1
    assert "records 2, 5" in shown(result)


def test_nothing_is_repaired(tmp_path):
    """RDKit's usual reading turns pentavalent nitro groups into charged ones."""
    path = tmp_path / "nitro.sdf"
    text = record("C[N+](=O)[O-]").replace("M  CHG  2   2   1   4  -1\n", "").replace("  2  4  1  0", "  2  4  2  0")
    path.write_text(text)
    assert chem.parse_sdf_record(text) is not None
    assert evaluate_file(path).evaluation["valid"].numerator == 0


def test_the_result_does_not_depend_on_the_number_of_processes(sdf, broken, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CHUNK", 4)
    path = tmp_path / "all.sdf"
    path.write_text(sdf.read_text() + broken.read_text())
    one, two = evaluate_file(path, strain=3), evaluate_file(path, strain=3, jobs=2)
    assert one.to_dict() == two.to_dict()
    assert one.table.equals(two.table)


def test_the_table_has_a_row_for_every_record(broken):
    table = evaluate_file(broken).table
    assert table["record"].tolist() == [1, 2, 3, 4, 5, 6]
    facts = describe([chem.parse_sdf_record(text, sanitize=False) for text in chem.sdf_records(broken)])
    assert table[facts.columns].astype(object).equals(facts.astype(object))


def test_the_reference_is_made_canonical_named_and_hashed(sdf, smi):
    result = evaluate_file(sdf, smi)
    novel = result.evaluation["novel"]
    assert (novel.numerator, novel.denominator) == (1, 3)
    reference = result.to_dict()["reference"]
    assert reference["name"] == "known.smi"
    assert reference["distinct_smiles"] == 2
    assert reference["sha256"] in novel.definition


def test_reference_lines_that_are_no_smiles_are_named(sdf, smi):
    smi.write_text(smi.read_text() + "not a molecule\n")
    result = evaluate_file(sdf, smi)
    assert "reference: line 4: not readable by RDKit, left out" in result.notes
    assert result.evaluation["novel"].numerator == 1


def test_a_canonical_reference_is_taken_as_it_is(sdf):
    sample = Path(__file__).parents[1] / "data" / "qm9_sample" / "train.smi"
    result = evaluate_file(sdf, sample)
    assert result.to_dict()["reference"]["distinct_smiles"] == len(set(sample.read_text().split()))
    assert result.evaluation["novel"].denominator == 3


def test_strain_only_on_request(sdf):
    assert "strain" not in evaluate_file(sdf).to_dict()["metrics"]
    result = evaluate_file(sdf, strain=2)
    assert result.evaluation["strain"].denominator == 2
    assert result.table["strain"].notna().sum() == 2


def test_every_number_has_counts_an_interval_and_a_definition(sdf, smi):
    for name, metric in evaluate_file(sdf, smi, strain=2).to_dict()["metrics"].items():
        assert metric["definition"], name
        assert metric["denominator"] >= 0
        if metric["numerator"] is not None:
            low, high = metric["interval_95"]
            assert low - 1e-9 <= metric["value"] <= high + 1e-9


def test_what_cannot_be_computed_is_null_in_strict_json(broken):
    broken.write_text(truncated(record("CC")) + record("CC").replace("  1  2  1  0", "  1  2  2  0"))
    text = json.dumps(evaluate_file(broken).to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["radical"]["value"] is None


@pytest.mark.parametrize("width", [80, 100])
def test_the_screen_shows_every_metric_with_its_counts(sdf, smi, width):
    result = evaluate_file(sdf, smi, strain=2)
    text = shown(result, width)
    assert max(map(len, text.splitlines())) <= width
    shown_names = {name for rows in report.SECTIONS.values() for name in rows}
    for metric in result.evaluation.metrics:
        assert metric.name in shown_names
        counts = "n =" if metric.numerator is None else f"{metric.numerator}/"
        assert f"{counts}{metric.denominator}" in text.replace("n = ", "n =")


def test_a_metric_without_a_section_is_shown_under_its_own_name(sdf, smi):
    result = evaluate_file(sdf, smi)
    extra = evaluate([], None)["valid"].__class__("brand_new", 0.5, 1, 2, "a rule")
    result.evaluation.metrics.append(extra)
    assert "brand_new" in shown(result)


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "is empty"), ("\n\n", "is empty"), ("some text\n", "no record of 1"), ("CCO\nCCC\n", "no record of 1"),
     ("$$$$\n$$$$\n", "no record of 2")],
)  # fmt: skip
def test_what_is_no_sdf_gets_one_clear_error(tmp_path, content, says):
    path = tmp_path / "file.sdf"
    path.write_text(content)
    with pytest.raises(ReportError, match=says) as error:
        evaluate_file(path)
    assert str(path) in str(error.value)


def test_binary_files_missing_files_and_directories_are_refused(tmp_path):
    (tmp_path / "noise.sdf").write_bytes(bytes(range(256)) * 20)
    for name in ("noise.sdf", "missing.sdf", "."):
        with pytest.raises(ReportError, match=r"noise|no such file|is a directory"):
            evaluate_file(tmp_path / name)


def test_bad_references_are_refused(sdf, tmp_path):
    with pytest.raises(ReportError, match="no such file"):
        evaluate_file(sdf, tmp_path / "none.smi")
    for content in ("", "hello\nworld\n"):
        (tmp_path / "bad.smi").write_text(content)
        with pytest.raises(ReportError, match="of SMILES, one a line"):
            evaluate_file(sdf, tmp_path / "bad.smi")


def test_fcd_needs_a_reference_and_its_package(sdf, smi, monkeypatch):
    with pytest.raises(ReportError, match="--reference"):
        evaluate_file(sdf, with_fcd=True)

    def missing():
        raise ImportError("FCD needs fcd_torch; pip install 'moldiff[eval]'")

    monkeypatch.setattr("moldiff.metrics.chemnet._fcd_torch", missing)
    with pytest.raises(ReportError, match="pip install"):
        evaluate_file(sdf, smi, with_fcd=True)


def test_missing_hydrogens_and_flat_coordinates_are_pointed_out(tmp_path):
    path = tmp_path / "flat.sdf"
    path.write_text(record("CCO", hydrogens=False, embed=False))
    notes = " ".join(evaluate_file(path).notes)
    assert "1 molecule without hydrogen atoms" in notes
    assert "1 molecule without 3D coordinates" in notes


def test_line_ends_of_other_systems_and_a_missing_last_separator(sdf, tmp_path):
    path = tmp_path / "crlf.sdf"
    path.write_bytes(sdf.read_bytes().removesuffix(b"$$$$\n").replace(b"\n", b"\r\n"))
    one, two = evaluate_file(sdf), evaluate_file(path)
    assert one.table.equals(two.table)


def test_command_writes_json_and_csv(broken, smi, tmp_path):
    out, table = tmp_path / "out.json", tmp_path / "out.csv"
    options = ["--reference", str(smi), "--strain", "1", "--json", str(out), "--csv", str(table)]
    result = CliRunner().invoke(app, ["evaluate", str(broken), *options])
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["records"] == 6
    assert math.isclose(written["metrics"]["valid"]["value"], 0.5)
    assert len(table.read_text().splitlines()) == 7


def test_command_says_what_is_wrong_in_one_line(tmp_path):
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "none.sdf")])
    assert result.exit_code == 2
    assert result.stderr == f"moldiff: {tmp_path / 'none.sdf'}: no such file\n"
