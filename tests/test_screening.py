"""What is found out about accepted molecules, which are kept by it, and that it is all written and survives interruption."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import embedded
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner, Result

from moldiff import chem, cli, force_field, outputs, screening
from moldiff.errors import RequestError
from moldiff.generation import load
from moldiff.metrics.druglike import DRUGLIKE_COLUMNS, druglike_facts
from moldiff.outcomes import Record, Tally
from moldiff.requests import Request
from moldiff.screening import RELAXATION_COLUMNS, Screen, choose_screen

CONDITIONS = "MW<31 and heavy_atoms==1 and strain<40"


def accepted(smiles: str) -> Chem.Mol:
    return chem.check(embedded(smiles)).mol


ASPIRIN, BORATE = accepted("CC(=O)Oc1ccccc1C(=O)O"), accepted("OB(O)C")  # MMFF94s has no boron


class TestScores:
    def test_nothing_is_computed_unless_asked_for(self, monkeypatch):
        monkeypatch.setattr(screening, "_druglike", None)
        monkeypatch.setattr(screening, "_relaxation", None)
        assert Screen()(ASPIRIN) == ({}, None, None)
        assert choose_screen(filter="heavy_atoms>12 and C>8")(ASPIRIN) == ({"C": 9}, None, None)
        assert choose_screen("drug", "heavy_atoms>13 and strain<9", "mmff")(ASPIRIN) == ({}, None, "heavy_atoms>13")

    def test_drug(self):
        scores, relaxed, failed = choose_screen("drug")(ASPIRIN)
        assert (relaxed, failed) == (None, None)
        assert list(scores) == list(DRUGLIKE_COLUMNS)
        facts = druglike_facts(ASPIRIN)
        assert scores == {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
        assert scores["alerts"] == "BRENK: phenol_ester"

    def test_filters_see_what_is_written(self):
        """The number of alerts, rounded values, and a relaxation even where none is written."""
        assert choose_screen(filter="alerts==1 and brenk==1 and QED==0.5501 and veber==1")(ASPIRIN).failed is None
        assert choose_screen(filter="alerts==0")(ASPIRIN).failed == "alerts==0"
        scores, relaxed, failed = choose_screen(filter="strain>0")(ASPIRIN)
        assert (set(scores), relaxed, failed) == ({"strain"}, None, None)

    def test_what_a_filter_names_is_told(self):
        """The numbers that decided, whatever they are called there."""
        screen = choose_screen(filter="MW<400 and alerts<3 and 0<C<=9 and cl==0 and charge==0 and heavy_atoms>2")
        assert screen(ASPIRIN).scores == {
            "weight": 180.159, "alert_count": 1, "C": 9, "Cl": 0, "charge": 0,
        }  # fmt: skip
        assert list(screen.columns) == list(screen(ASPIRIN).scores)
        nitro = choose_screen(filter="charged_atoms==2 and charge==0 and N==1 and O==2")
        assert nitro(accepted("C[N+](=O)[O-]")).failed is None

    def test_scores_of_the_request_count_too(self):
        """Beside those of any molecule, and only where the request has them."""
        calls = []

        def own(facts: screening.Facts) -> dict[str, float]:
            calls.append(facts.mol)
            return {"similarity": 0.4, "predicted_Gap": 6.5, "qed": facts["qed"]}

        names = ("similarity", "predicted_Gap", "qed")
        screen = choose_screen("drug", "QED>0.5 and similarity>0.3 and PREDICTED_gap==6.5", own=names)
        assert list(screen(ASPIRIN, own).scores)[:3] == list(names)
        assert calls == [ASPIRIN]
        assert choose_screen(filter="similarity>0.5", own=names)(ASPIRIN, own).failed == "similarity>0.5"
        assert choose_screen(filter="heavy_atoms>12 and similarity>0.3", own=names)(ASPIRIN).failed == "similarity>0.3"
        with pytest.raises(RequestError, match=r"no score similarity;.*; similarity comes with --like"):
            choose_screen(filter="similarity>0.5")
        with pytest.raises(
            RequestError, match=r"no score x; there are similarity \(Tanimoto.*, predicted_Gap \(by a network\)"
        ):
            choose_screen(filter="x>0.5", own=names)

    def test_relaxation(self):
        before = ASPIRIN.GetConformer().GetPositions()
        scores, relaxed, _ = choose_screen(relax="mmff")(ASPIRIN)
        assert list(scores) == list(RELAXATION_COLUMNS)
        np.testing.assert_array_equal(ASPIRIN.GetConformer().GetPositions(), before)
        assert scores["strain"] == pytest.approx(scores["energy_before"] - scores["energy_after"], abs=2e-4)
        assert scores["strain"] == pytest.approx(force_field.strain(ASPIRIN), abs=1e-4)
        assert force_field.strain(relaxed) < 0.01
        heavy = Chem.RemoveHs(ASPIRIN)
        assert scores["rmsd_relaxed"] == pytest.approx(AllChem.GetBestRMS(Chem.RemoveHs(relaxed), heavy), abs=0.02)
        assert scores["relaxed"] == "MMFF94s"

    def test_why_there_is_no_relaxed_conformer(self, monkeypatch):
        scores, relaxed, _ = choose_screen(relax="mmff")(BORATE)
        assert relaxed is None
        assert scores == {**dict.fromkeys(RELAXATION_COLUMNS), "relaxed": "no: MMFF94s lacks parameters"}
        assert choose_screen(filter="strain<1e9")(BORATE).failed == "strain<1e9"
        monkeypatch.setattr(force_field, "MAX_RELAXATION_STEPS", 2)
        scores, relaxed, _ = choose_screen(relax="mmff")(ASPIRIN)
        assert relaxed is not None
        assert scores["relaxed"] == "MMFF94s, not converged in 2 steps"

    def test_hydrogen_alone(self):
        """No heavy atom, so no RMSD of them; and no parameters either."""
        assert choose_screen("drug", relax="mmff")(accepted("[H][H]")).scores["rmsd_relaxed"] is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scores": "all"}, "--scores all: there is only drug"),
            ({"relax": "uff"}, "--relax uff: there is only mmff"),
            (
                {"filter": "logD>3"},
                r"did you mean logp \(octanol.*\)\? there is no score logD; there are qed, sa, .*, Cl, .*, alerts; sim",
            ),
        ],
    )
    def test_refusals(self, options, message):
        with pytest.raises(RequestError, match=message):
            choose_screen(**options)

    def test_every_column_has_a_meaning_but_texts(self):
        meant = set(screening._meanings()) | {"alerts"}
        named = {**DRUGLIKE_COLUMNS, **RELAXATION_COLUMNS}
        assert {name for name in named if name not in meant} == {k for k in named if named[k] == "object"} - {"alerts"}


class TestGenerating:
    def test_the_funnel_shows_what_each_condition_removed(self, trained):
        generator = load(trained, "cpu")
        outcomes = list(generator.generate(5, steps=8, filter=CONDITIONS, unique=True, max_attempts=200, rejects=True))
        rejected = Counter(o.reason for o in outcomes if not isinstance(o, Record))
        tally = Tally()
        for each in outcomes:
            tally.add(each)
        screen = choose_screen(filter=CONDITIONS)
        funnel = tally.funnel(Request(5, unique=True, screen=screen))
        assert list(funnel)[-5:] == ["unique", "MW<31", "heavy_atoms==1", "strain<40", "kept"]
        assert funnel["unique"] - funnel["MW<31"] == rejected["not MW<31"]
        assert funnel["MW<31"] - funnel["heavy_atoms==1"] == rejected["not heavy_atoms==1"] > 0
        assert funnel["strain<40"] == funnel["kept"] == sum(isinstance(o, Record) for o in outcomes) > 0
        assert funnel["sampled"] - funnel["kept"] == rejected.total()

    def test_how_near_a_molecule_comes_can_be_asked_for(self, trained):
        """To a seed, or to a shape: it is in the funnel, and of every record."""
        generator, seed = load(trained, "cpu"), accepted("C=O")
        free = list(generator.generate(6, steps=8, like=seed, strength=0.9))
        least = sorted(record.scores["similarity"] for record in free)[3]
        wishes = {"like": seed, "strength": 0.9, "filter": f"similarity>={least}", "rejects": True}
        outcomes = list(generator.generate(3, steps=8, **wishes))
        kept = [o for o in outcomes if isinstance(o, Record)]
        assert [r.id for r in kept] == [r.id for r in free if r.scores["similarity"] >= least][:3]
        assert {o.reason for o in outcomes if not isinstance(o, Record)} <= {
            f"not similarity>={least}", "unchanged", "disconnected", "valence", "radical", "sanitisation",
        }  # fmt: skip
        laid = list(generator.generate(2, steps=8, shape=seed, filter="shape_tanimoto>0.3", max_attempts=60))
        assert all(r.scores["shape_tanimoto"] > 0.3 for r in laid) and len(laid) == 2

    def test_the_same_molecules_with_more_said(self, trained):
        generator = load(trained, "cpu")
        plain = list(generator.generate(6, steps=6))
        said = list(generator.generate(6, steps=6, scores="drug", relax="mmff"))
        assert [r.id for r in said] == [r.id for r in plain]
        for record, before in zip(said, plain, strict=True):
            assert before.scores == {} and before.relaxed is None
            positions = before.mol.GetConformer().GetPositions()
            np.testing.assert_array_equal(record.mol.GetConformer().GetPositions(), positions)
            assert set(record.scores) == {*DRUGLIKE_COLUMNS, *RELAXATION_COLUMNS}
            assert record.relaxed.GetNumConformers() == record.mol.GetNumConformers() == 1

    def test_as_many_as_asked_for(self, trained):
        records = list(load(trained, "cpu").generate(4, steps=6, filter="MW>17.5", max_attempts=200))
        assert len(records) == 4
        assert all(chem.smiles(r.mol) not in ("C", "N") for r in records)


@pytest.fixture
def generate(trained, tmp_path, monkeypatch):
    """``moldiff generate`` with the small model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        words = ["generate", "--model", str(trained), "--steps=6", *map(str, arguments)]
        result = CliRunner().invoke(cli.app, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def tags(path: str) -> list[dict[str, str]]:
    mols = Chem.SDMolSupplier(path, removeHs=False)
    return [{k: m.GetProp(k) for k in m.GetPropNames()} for m in mols]


class TestWriting:
    SCORED = ("-n", 4, "--scores", "drug", "--relax", "mmff")

    def test_every_format_says_the_same(self, generate, trained):
        for suffix in ("sdf", "csv", "parquet", "smi", "xyz"):
            assert generate(*self.SCORED, "-o", f"{suffix}.{suffix}").exit_code == 0
            assert Path(f"{suffix}.relaxed.sdf").read_bytes() == Path("sdf.relaxed.sdf").read_bytes()
        records = list(load(trained, "cpu").generate(4, steps=6, scores="drug", relax="mmff"))
        expected = pd.DataFrame([r.scores for r in records]).astype({**DRUGLIKE_COLUMNS, **RELAXATION_COLUMNS})
        columns = list(expected)
        parquet = pd.read_parquet("parquet.parquet")[columns]
        pd.testing.assert_frame_equal(parquet.astype(expected.dtypes), expected)
        assert parquet["qed"].dtype == float and parquet["veber"].dtype == bool and parquet["hbd"].dtype == "int64"
        table = pd.read_csv("csv.csv", keep_default_na=False)[columns]
        pd.testing.assert_frame_equal(table.astype(expected.dtypes), expected)
        for found, record in zip(tags("sdf.sdf"), records, strict=True):
            assert {k: found[k] for k in columns} == {k: str(v) for k, v in record.scores.items()}

    def test_what_a_filter_names_is_in_every_format(self, generate, monkeypatch):
        """Also where it is not known of a molecule."""
        monkeypatch.setattr(force_field, "relax", lambda mol: None)
        for suffix in ("sdf", "csv", "parquet"):
            options = ("--filter", "C>=0 and alerts<9 and (strain>0 or MW>0)", "-o", f"a.{suffix}")
            assert generate("-n", 4, *options).exit_code == 0
        parquet = pd.read_parquet("a.parquet")[["C", "alert_count", "strain", "weight"]]
        assert parquet["C"].dtype == parquet["alert_count"].dtype == "int64" and parquet["strain"].isna().all()
        table = pd.read_csv("a.csv")[list(parquet)]
        pd.testing.assert_frame_equal(table, parquet)
        assert [float(t["weight"]) for t in tags("a.sdf")] == parquet["weight"].tolist()
        assert all(t["C"] == str(n) and "strain" not in t for t, n in zip(tags("a.sdf"), parquet["C"], strict=True))

    def test_relaxed_conformers_have_a_file_of_their_own(self, generate):
        generate(*self.SCORED, "--seed", 3, "-o", "out.sdf")
        generate("-n", 4, "--seed", 3, "-o", "plain.sdf")
        given, relaxed, plain = (list(chem.read_sdf(Path(f"{k}.sdf"))) for k in ("out", "out.relaxed", "plain"))
        assert tags("out.relaxed.sdf") == tags("out.sdf")
        for mol, after, before in zip(given, relaxed, plain, strict=True):
            positions = mol.GetConformer().GetPositions()
            np.testing.assert_array_equal(positions, before.GetConformer().GetPositions())
            assert force_field.strain(after) == pytest.approx(0, abs=0.01)
            assert force_field.strain(mol) == pytest.approx(
                float(mol.GetProp("strain")), abs=0.05
            )  # of rounded coordinates
        assert "--relax: out.relaxed.sdf: exists already" in generate(*self.SCORED, "-o", "out.csv").stderr

    def test_without_parameters(self, generate, monkeypatch):
        monkeypatch.setattr(force_field, "relax", lambda mol: None)
        assert generate(*self.SCORED, "-o", "out.csv").exit_code == 0
        table = pd.read_csv("out.csv")
        assert set(table["relaxed"]) == {"no: MMFF94s lacks parameters"}
        assert table["strain"].isna().all()
        assert Path("out.relaxed.sdf").read_text() == ""

    def test_what_is_resumed_is_what_runs_straight(self, generate, monkeypatch):
        """Stopped before its end, then on with it, to the same bytes."""
        options = ("--filter", CONDITIONS, "--unique", "--scores", "drug", "--relax", "mmff", "--max-attempts", 40)
        with monkeypatch.context() as patch:
            patch.setattr(outputs.Output, "finish", lambda self, summary, ended: self.close())
            assert generate("-n", 1, "-o", "out.sdf", *options).exit_code == 0
        assert json.loads(Path(".out.sdf.partial.json").read_text())["progress"]["kept"] == 1
        wrong = generate("-n", 2, "-o", "out.sdf", "--resume", "--unique", "--scores", "drug", "--relax", "mmff")
        assert wrong.exit_code == 2
        assert f"had filter {CONDITIONS} (now None)" in wrong.stderr
        resumed = generate("-n", 2, "-o", "out.sdf", "--resume", *options)
        straight = generate("-n", 2, "-o", "straight.sdf", *options)
        assert resumed.exit_code == straight.exit_code
        assert Path("out.sdf").read_bytes() == Path("straight.sdf").read_bytes()
        assert Path("out.relaxed.sdf").read_bytes() == Path("straight.relaxed.sdf").read_bytes() != b""
        found = [json.loads(Path(f"{k}.summary.json").read_text()) for k in ("out.sdf", "straight.sdf")]
        assert found[0]["funnel"] == found[1]["funnel"]
        assert not list(Path().glob(".*"))

    def test_fewer_than_asked(self, generate):
        result = generate("-n", 9, "-o", "out.sdf", "--filter", "QED>0.99", "--max-attempts", 20)
        assert result.exit_code == 3
        assert "0 of 9 molecules: attempts ran out; raise --max-attempts" in result.stderr
        assert "not QED>0.99" in result.stderr


class TestDiverse:
    def test_picks_from_all_that_are_accepted(self, generate):
        assert generate("-n", 40, "-o", "all.sdf").exit_code == 0
        for suffix in ("sdf", "csv"):
            options = ("--diverse", 3, "--relax", "mmff", "-o", f"few.{suffix}", "--force")
            assert generate("-n", 40, *options).exit_code == 0
            assert len(tags("few.relaxed.sdf")) == 3
        every, few = tags("all.sdf"), tags("few.sdf")
        assert len({t["smiles"] for t in few}) == 3
        assert (
            pd.read_csv("few.csv")["id"].tolist()
            == [t["id"] for t in few]
            == [t["id"] for t in tags("few.relaxed.sdf")]
        )
        order = [t["id"] for t in every]
        assert [order.index(t["id"]) for t in few] == sorted(order.index(t["id"]) for t in few)
        summary = json.loads(Path("few.sdf.summary.json").read_text())
        assert (summary["kept"], summary["funnel"]["kept"], summary["funnel"]["diverse"]) == (40, 40, 3)
        assert list(summary["funnel"])[-1] == "diverse"
        again = generate("-n", 40, "--diverse", 3, "--relax", "mmff", "-o", "few.sdf", "--resume")
        assert again.stderr == "moldiff: few.sdf is complete already\n"

    def test_all_where_there_are_no_more(self, generate):
        result = generate("-n", 9, "--diverse", 8, "--unique", "--max-attempts", 24, "-o", "out.sdf")
        assert result.exit_code == 3
        summary = json.loads(Path("out.sdf.summary.json").read_text())
        assert summary["funnel"]["diverse"] == summary["kept"] == len(tags("out.sdf")) < 8

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("-n", 5, "--diverse", 6), "--diverse 6: must be between 1 and the 5 molecules that -n asks for"),
            (("-n", 5, "--diverse", 0), "--diverse 0: must be between 1 and"),
            (("--diverse", 2, "-o", "-"), "--diverse 2: not on standard output; write to a file"),
            (("--relax", "mmff", "-o", "-"), "--relax mmff: not on standard output; write to a file"),
            (("--scores", "all"), "--scores all: there is only drug"),
            (("--filter", "QED=3"), "--filter 'QED=3': is not an expression"),
            (
                ("--relax", "mmff", "--rejects", "molecules.relaxed.sdf"),
                "--rejects molecules.relaxed.sdf: is another file",
            ),
        ],
    )
    def test_refusals(self, generate, arguments, message):
        result = generate(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"moldiff: {message}")
        assert result.stderr.count("\n") == 1
        assert not list(Path().iterdir())
