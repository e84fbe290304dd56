"""What is written can be read again, and nothing that was saved is ever lost or written twice."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import embedded
from rdkit import Chem

from moldiff import chem, formats, journal
from moldiff.errors import RequestError
from moldiff.formats import COLUMNS
from moldiff.journal import summary_of_complete
from moldiff.outcomes import Record, Reject, Tally
from moldiff.outputs import Output, StandardOutput

SMILES = (
    "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "[NH3+]CC(=O)[O-]", "C/C=C\\C", "C[N+](=O)[O-]", "[H]/N=C/C", "c1cc[nH]c1", "FC(F)F",
)  # fmt: skip
PROVENANCE = {
    "model": "modèl", "model_sha256": "ab" * 32, "evaluations": 50, "moldiff": "0.1.0", "torch": "2.13", "rdkit": "2026.9",
}  # fmt: skip
IDENTITY = {"model": "ab" * 32, "seed": 3, "steps": 50, "n_atoms": None, "unique": True}


def accepted(smiles: str) -> Chem.Mol:
    return chem.check(embedded(smiles)).mol


MOLS = [accepted(smiles) for smiles in SMILES]


def outcome(index: int) -> Record | Reject:
    """Every third one is rejected; every second one was tried twice."""
    mol = MOLS[index % len(MOLS)]
    if index % 3 == 2:
        return Reject(f"m-s3-{index:08d}", mol, "radical", 3, index, tries=1 + index % 2)
    return Record(f"m-s3-{index:08d}", mol, chem.smiles(mol), 3, index, tries=1 + index % 2)


OUTCOMES = [outcome(k) for k in range(12)]
RECORDS = [o for o in OUTCOMES if isinstance(o, Record)]


def written(path: Path, outcomes=OUTCOMES, **options) -> Path:
    sink = Output(path, PROVENANCE, IDENTITY, **options)
    for each in outcomes:
        sink.write(each)
    sink.finish({"kept": sink.tally.kept, "request": IDENTITY})
    return path


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "out.sdf"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> bytes:
    return written(tmp_path_factory.mktemp("straight") / "out.sdf").read_bytes()


@pytest.fixture
def interrupted(path) -> Path:
    """A run that stopped after five attempts were saved and two more were written."""
    sink = Output(path, PROVENANCE, IDENTITY)
    for each in OUTCOMES[:5]:
        sink.write(each)
    sink.save()
    for each in OUTCOMES[5:7]:
        sink.write(each)
    sink.close()
    return path


class TestFormats:
    def test_sdf(self, path):
        written(path)
        assert files(path.parent) == ["out.sdf", "out.sdf.summary.json"]
        with Chem.SDMolSupplier(str(path), removeHs=False) as supplier:
            mols = list(supplier)
        assert len(mols) == len(RECORDS)
        for mol, record in zip(mols, RECORDS, strict=True):
            assert mol.GetProp("_Name") == mol.GetProp("id") == record.id
            assert chem.smiles(mol) == mol.GetProp("smiles") == record.smiles
            Chem.AssignStereochemistryFrom3D(mol)
            assert chem.smiles(mol) == record.smiles
            assert [a.GetSymbol() for a in mol.GetAtoms()] == [a.GetSymbol() for a in record.mol.GetAtoms()]
            assert [a.GetFormalCharge() for a in mol.GetAtoms()] == [a.GetFormalCharge() for a in record.mol.GetAtoms()]
            assert not any(a.GetNumImplicitHs() or a.GetNumRadicalElectrons() for a in mol.GetAtoms())
            positions = record.mol.GetConformer().GetPositions()
            np.testing.assert_allclose(mol.GetConformer().GetPositions(), positions, atol=6e-5)
            assert mol.GetConformer().Is3D()
            found = {k: mol.GetProp(k) for k in mol.GetPropNames()}
            assert list(found) == list(COLUMNS)
            assert found["index"] == str(record.index)
            assert found["heavy_atoms"] == str(mol.GetNumHeavyAtoms())
            expected = PROVENANCE | {"evaluations": 50 * (1 + record.index % 2)}
            assert {k: found[k] for k in PROVENANCE} == {k: str(v) for k, v in expected.items()}

    def test_smi(self, tmp_path):
        lines = written(tmp_path / "out.smi").read_text().splitlines()
        assert lines == [f"{r.smiles} {r.id}" for r in RECORDS]

    def table(self, table: pd.DataFrame) -> None:
        assert table["smiles"].tolist() == [r.smiles for r in RECORDS]
        assert table["index"].tolist() == [r.index for r in RECORDS]
        assert set(table["model"]) == {PROVENANCE["model"]}
        for column in ("heavy_atoms", "seed", "index", "evaluations"):
            assert pd.api.types.is_integer_dtype(table[column]), column

    def test_csv(self, tmp_path):
        table = pd.read_csv(written(tmp_path / "out.csv"))
        assert list(table.columns) == list(COLUMNS)
        self.table(table)

    def test_parquet(self, tmp_path, straight):
        table = pd.read_parquet(written(tmp_path / "out.parquet"))
        assert list(table.columns) == [*COLUMNS, "sdf"]
        self.table(table)
        assert "".join(table["sdf"]).encode() == straight

    def test_parquet_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formats, "PARQUET_ROWS", 3)
        self.table(pd.read_parquet(written(tmp_path / "out.parquet")))

    def test_xyz(self, tmp_path):
        lines = written(tmp_path / "out.xyz").read_text().splitlines()
        for record in RECORDS:
            n = record.mol.GetNumAtoms()
            frame, lines = lines[: n + 2], lines[n + 2 :]
            assert frame[:2] == [str(n), f"{record.id} {record.smiles}"]
            assert [line.split()[0] for line in frame[2:]] == [a.GetSymbol() for a in record.mol.GetAtoms()]
            xyz = np.array([line.split()[1:] for line in frame[2:]], dtype=float)
            np.testing.assert_allclose(xyz, record.mol.GetConformer().GetPositions(), atol=6e-5)
        assert not lines

    @pytest.mark.parametrize("suffix", [".sdf", ".smi", ".csv", ".xyz", ".parquet", ".SDF", ".Csv"])
    def test_no_molecules_at_all(self, tmp_path, suffix):
        path = written(tmp_path / f"out{suffix}", [OUTCOMES[2]])
        assert path.is_file()
        assert files(tmp_path) == [path.name, f"{path.name}.summary.json"]

    def test_rejects(self, path):
        rejects = path.with_name("no.sdf")
        written(path, rejects=rejects)
        mols = list(chem.read_sdf(rejects))
        assert [m.GetProp("_Name") for m in mols] == [o.id for o in OUTCOMES if isinstance(o, Reject)]
        assert {m.GetProp("reason") for m in mols} == {"radical"}
        assert len(list(chem.read_sdf(path))) == len(RECORDS)


class TestResuming:
    def test_continues_where_it_was_saved(self, interrupted, straight):
        assert not interrupted.exists()
        sink = Output(interrupted, PROVENANCE, IDENTITY, resume=True)
        assert sink.tally == tally_of(OUTCOMES[:5])
        assert sink.seen == {o.smiles for o in OUTCOMES[:5] if isinstance(o, Record)}
        for each in OUTCOMES[5:]:
            sink.write(each)
        sink.finish({})
        assert interrupted.read_bytes() == straight
        assert files(interrupted.parent) == ["out.sdf", "out.sdf.summary.json"]

    def test_what_a_killed_run_was_writing_is_removed(self, interrupted, straight):
        """Its temporary files, and no others."""
        left = [
            interrupted.with_name(name)
            for name in (f"..{interrupted.name}.partial.json.4242.tmp", f".{interrupted.name}.7.tmp")
        ]
        for each in (*left, own := interrupted.with_name(f".{interrupted.name}.backup.tmp")):
            each.write_text("half")
        written(interrupted, OUTCOMES[7:], resume=True)
        assert own.exists() and not any(each.exists() for each in left)

    def test_rejects_continue_too(self, path):
        rejects = path.with_name("no.sdf")
        written(path, rejects=rejects)
        once = rejects.read_bytes()
        sink = Output(path, PROVENANCE, IDENTITY, rejects=rejects, force=True)
        for each in OUTCOMES[:7]:
            sink.write(each)
            if each.index == 3:
                sink.save()
        sink.close()
        written(path, OUTCOMES[4:], rejects=rejects, resume=True)
        assert rejects.read_bytes() == once

    def test_old_rejects_stay_until_the_new_ones_are_complete(self, path):
        rejects = path.with_name("no.sdf")
        rejects.write_text("precious")
        for options in ({}, {"resume": True}):  # there is nothing to resume
            with pytest.raises(RequestError, match=r"--rejects .*no.sdf: exists already; --force overwrites it"):
                Output(path, PROVENANCE, IDENTITY, rejects=rejects, **options)
        sink = Output(path, PROVENANCE, IDENTITY, rejects=rejects, force=True)
        for each in OUTCOMES[:7]:
            sink.write(each)
        sink.save()
        sink.close()
        assert rejects.read_text() == "precious"
        written(path, OUTCOMES[7:], rejects=rejects, resume=True)
        assert rejects.read_text().count("$$$$") == len(OUTCOMES) - len(RECORDS)

    def test_nothing_stays_of_a_run_that_made_nothing(self, path):
        path.write_text("precious")
        sink = Output(path, PROVENANCE, IDENTITY, rejects=path.with_name("no.sdf"), force=True)
        assert sink.remedy == "nothing is made yet"
        sink.close()
        assert content_of(path.parent) == {"out.sdf": b"precious"}

    def test_closing_a_finished_run_leaves_the_next_one_alone(self, path):
        sink = Output(path, PROVENANCE, IDENTITY)
        sink.write(OUTCOMES[0])
        sink.finish({})
        following = Output(path, PROVENANCE, IDENTITY, force=True)
        sink.close()
        following.write(OUTCOMES[1])
        following.save()
        following.close()
        assert Output(path, PROVENANCE, IDENTITY, resume=True).tally.kept == 1

    def test_killed_before_anything_was_saved(self, path, straight):
        """The old output is not taken for the one that was asked for."""
        path.write_text("precious")
        path.with_name(".out.sdf.partial.sdf").write_text("half")
        written(path, resume=True)
        assert path.read_bytes() == straight

    def test_half_a_record_at_the_end(self, interrupted, straight):
        with open(interrupted.with_name(".out.sdf.partial.sdf"), "ab") as file:
            file.write(b"m-s3-0\n  RDKit")
        written(interrupted, OUTCOMES[5:], resume=True)
        assert interrupted.read_bytes() == straight

    def test_saved_in_the_middle_of_a_record(self, path, straight, monkeypatch):
        """Ctrl-C comes at any moment; what is saved then are whole molecules."""
        sink = Output(path, PROVENANCE, IDENTITY)
        for each in OUTCOMES[:4]:
            sink.write(each)

        class Breaking(io.BytesIO):
            def write(self, data: bytes) -> int:
                real.write(data[:40])
                raise KeyboardInterrupt

        real = sink.journal.files["records"]
        monkeypatch.setitem(sink.journal.files, "records", Breaking())
        with pytest.raises(KeyboardInterrupt):
            sink.write(OUTCOMES[4])
        sink.journal.files["records"] = real
        sink.save()
        sink.close()
        written(path, OUTCOMES[4:], resume=True)
        assert path.read_bytes() == straight

    def test_before_anything_was_saved(self, path, straight):
        Output(path, PROVENANCE, IDENTITY).close()
        written(path, resume=True)
        assert path.read_bytes() == straight

    @pytest.mark.parametrize("damage", ["short", "gone", "state", "list"])
    def test_damage_is_named(self, interrupted, damage):
        records, state = (interrupted.with_name(f".out.sdf.partial.{kind}") for kind in ("sdf", "json"))
        if damage == "short":
            os.truncate(records, 100)
        elif damage == "gone":
            records.unlink()
        else:
            state.write_text("[]" if damage == "list" else state.read_text()[:50])
        name = state.name if damage in ("state", "list") else records.name
        with pytest.raises(RequestError, match=f"cannot resume, .*{name} is damaged or missing; --force starts again"):
            Output(interrupted, PROVENANCE, IDENTITY, resume=True)
        written(interrupted, force=True)
        assert files(interrupted.parent) == ["out.sdf", "out.sdf.summary.json"]

    @pytest.mark.parametrize("other", [{"seed": 4}, {"steps": 10}, {"n_atoms": "5-9"}, {"unique": False}], ids=str)
    def test_other_options_are_refused(self, interrupted, other):
        (key, value), before = *other.items(), content_of(interrupted.parent)
        expected = f"the interrupted run had {key} {IDENTITY[key]} .now {value}.; use the same options"
        with pytest.raises(RequestError, match=expected):
            Output(interrupted, PROVENANCE, {**IDENTITY, **other}, resume=True)
        with pytest.raises(RequestError, match=r"had rejects None .now .*no.sdf."):
            Output(interrupted, PROVENANCE, IDENTITY, rejects=interrupted.with_name("no.sdf"), resume=True)
        assert content_of(interrupted.parent) == before

    def test_one_run_at_a_time(self, path):
        sink = Output(path, PROVENANCE, IDENTITY)
        sink.write(OUTCOMES[0])
        sink.save()
        before = content_of(path.parent)
        for options in ({}, {"force": True}, {"resume": True}):
            with pytest.raises(RequestError, match=r"-o .*out.sdf: another run is writing there; wait for its end, or"):
                Output(path, PROVENANCE, IDENTITY, **options)
        assert content_of(path.parent) == before
        Output(path.with_name("other.sdf"), PROVENANCE, IDENTITY).close()
        sink.close()
        written(path, OUTCOMES[1:], resume=True)

    def test_a_killed_run_locks_nothing(self, path, straight):
        code = """if True:
            import os, signal, sys
            from pathlib import Path
            from moldiff.outputs import Output
            sink = Output(Path(sys.argv[1]), {}, {})
            os.kill(os.getpid(), signal.SIGKILL)"""
        subprocess.run([sys.executable, "-c", code, path], check=False)
        assert ".out.sdf.partial.lock" in files(path.parent)
        written(path, resume=True)
        assert files(path.parent) == ["out.sdf", "out.sdf.summary.json"]
        assert path.read_bytes() == straight

    @pytest.mark.parametrize("further", ["rejects", "relaxed"])
    def test_what_else_is_there_does_not_hide_it(self, interrupted, further):
        other = interrupted.with_name("other.sdf")
        other.write_text("of this run")
        with pytest.raises(RequestError, match="interrupted run is there; --resume goes on with it, --force discards"):
            Output(interrupted, PROVENANCE, IDENTITY, **{further: other})

    def test_neither_resumed_nor_discarded(self, interrupted):
        with pytest.raises(RequestError, match="interrupted run is there; --resume goes on with it, --force discards"):
            Output(interrupted, PROVENANCE, IDENTITY)

    def test_force_discards_at_once(self, interrupted):
        """Else a crash before the first save would leave a state that fits another journal."""
        Output(interrupted, PROVENANCE, IDENTITY, force=True).close()
        assert not interrupted.with_name(".out.sdf.partial.json").exists()

    def test_the_old_output_stays_until_the_new_one_is_complete(self, path):
        path.write_text("precious")
        sink = Output(path, PROVENANCE, IDENTITY, force=True)
        sink.write(OUTCOMES[0])
        sink.save()
        assert path.read_text() == "precious"
        sink.finish({})
        assert path.read_text() != "precious"

    @pytest.mark.parametrize("suffix", [".sdf", ".smi"])
    def test_a_link_is_written_through(self, tmp_path, suffix):
        (tmp_path / "far").mkdir()
        real, link = tmp_path / "far" / f"real{suffix}", tmp_path / f"link{suffix}"
        link.symlink_to(real)
        left = real.with_name(f".{real.name}.1.tmp")  # of a run that was killed
        for path in (real, left):
            path.write_text("old")
        written(link, force=True)
        assert link.is_symlink() and real.read_bytes() == written(tmp_path / f"plain{suffix}").read_bytes()
        assert files(real.parent) == [real.name] and is_complete(link, len(RECORDS))

    def test_what_is_complete(self, path):
        assert not is_complete(path, 1)
        written(path)
        assert is_complete(path, len(RECORDS))
        assert not is_complete(path, len(RECORDS) + 1)
        assert not is_complete(path, 1, {**IDENTITY, "seed": 4})
        with pytest.raises(RequestError, match="is complete, there is nothing to resume; --force"):
            Output(path, PROVENANCE, IDENTITY, resume=True)
        Output(path, PROVENANCE, IDENTITY, force=True).write(OUTCOMES[0])
        path.with_name("out.sdf.summary.json").write_text("{")
        assert not is_complete(path, 1)

    def test_interrupted_while_tidying_up(self, path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(journal, "_tidy", lambda path: None)
            written(path)
        made = path.read_bytes()
        with pytest.raises(RequestError, match="is complete, there is nothing to resume"):
            Output(path, PROVENANCE, IDENTITY, resume=True)
        assert path.read_bytes() == made
        assert is_complete(path, len(RECORDS))

    @pytest.mark.parametrize("name", [".out.sdf.partial.sdf", ".out.sdf.partial.relaxed.sdf"])
    def test_rejects_are_not_written_into_journals(self, path, name):
        with pytest.raises(RequestError, match="is another file of this command"):
            Output(path, PROVENANCE, IDENTITY, rejects=path.with_name(name), force=True)

    def test_a_lost_journal_is_not_taken_for_an_output(self, path):
        path.write_text("precious")
        sink = Output(path, PROVENANCE, IDENTITY, force=True)
        sink.write(OUTCOMES[0])
        sink.save()
        sink.close()
        sink.journal.paths["records"].unlink()
        with pytest.raises(RequestError, match=r"cannot resume, .* is damaged or missing"):
            Output(path, PROVENANCE, IDENTITY, resume=True)

    def test_saved_every_second(self, path, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
        sink = Output(path, PROVENANCE, IDENTITY)
        for k, each in enumerate(OUTCOMES[:4]):
            now[0] = 0.4 * k
            sink.write(each)
        assert json.loads(sink.journal.state.read_text())["progress"]["sampled"] == 4
        sink.close()


def is_complete(path: Path, kept: int, identity=IDENTITY) -> bool:
    there = summary_of_complete(path, identity)
    return there is not None and there["kept"] >= kept


def tally_of(outcomes) -> Tally:
    tally = Tally()
    for each in outcomes:
        tally.add(each)
    return tally


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


class FullDisk(io.FileIO):
    """A file on a disk with little space left."""

    def write(self, data) -> int:
        if self.tell() + len(data) > 5000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def first_error(sink: Output) -> str:
    try:
        for each in OUTCOMES:
            sink.write(each)
            sink.save()
    except RequestError as error:
        return str(error)
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize("suffix", [".sdf", ".csv"])
def test_full_disk(tmp_path, straight, monkeypatch, suffix):
    """One line that says what to do; with space again, the run goes on from what was saved."""
    path = tmp_path / f"out{suffix}"
    with monkeypatch.context() as patch:
        patch.setattr(journal, "open", lambda p, mode: io.BufferedWriter(FullDisk(p, mode)), raising=False)
        sink = Output(path, PROVENANCE, IDENTITY)
        error = first_error(sink)
        sink.close()
    assert not path.exists()
    again = Output(path, PROVENANCE, IDENTITY, resume=True)
    kept = again.tally.kept
    assert 1 <= kept < len(RECORDS)
    again.close()
    remedy = f"{kept} records are safe: free some space, then go on with --resume"
    assert error == f"-o {path}: No space left on device; {remedy}"
    written(path, OUTCOMES[again.tally.sampled :], resume=True)
    assert suffix != ".sdf" or path.read_bytes() == straight
    assert len(files(tmp_path)) == 2


def test_full_disk_at_the_very_end(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setitem(formats.WRITERS, ".csv", full)
        with pytest.raises(RequestError, match=r"No space left .* 8 records are safe"):
            written(path)
    assert not path.exists()
    written(path, [], resume=True)
    assert len(pd.read_csv(path)) == len(RECORDS)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("out.mol2", "unknown format .mol2; use .sdf .smi .csv .xyz .parquet, or -"),
            ("out", r"unknown format \(no suffix\)"),
            ("folder.sdf", "is a folder; name a file"),
            ("there.sdf", "exists already; --force overwrites it"),
            ("absent/out.sdf", "the folder .*absent does not exist; make it first"),
        ],
    )
    def test_places(self, tmp_path, name, message):
        (tmp_path / "folder.sdf").mkdir()
        (tmp_path / "there.sdf").write_text("precious")
        before = files(tmp_path)
        with pytest.raises(RequestError, match=message):
            Output(tmp_path / name, PROVENANCE, IDENTITY)
        if name.endswith("sdf"):
            with pytest.raises(RequestError, match=f"--rejects .*{message}"):
                Output(tmp_path / "new.sdf", PROVENANCE, IDENTITY, rejects=tmp_path / name)
        assert files(tmp_path) == before
        assert (tmp_path / "there.sdf").read_text() == "precious"

    def test_rejects_must_be_another_sdf(self, path):
        with pytest.raises(RequestError, match="is another file of this command"):
            Output(path, PROVENANCE, IDENTITY, rejects=path)
        with pytest.raises(RequestError, match=r"--rejects .*no.csv: is written as .sdf"):
            Output(path, PROVENANCE, IDENTITY, rejects=path.with_name("no.csv"))

    def test_no_permission(self, path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(RequestError, match=r"no permission to write into .*; choose another place"):
            Output(path, PROVENANCE, IDENTITY)

    def test_no_permission_that_shows_late(self, path, monkeypatch):
        def refused(*_):
            raise PermissionError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(journal, "open", refused, raising=False)
        with pytest.raises(RequestError, match=r"-o .*out.sdf: Read-only file system; choose another place"):
            Output(path, PROVENANCE, IDENTITY)

    def test_parquet_without_pyarrow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(RequestError, match=r"needs pyarrow: pip install 'moldiff\[parquet\]'"):
            Output(tmp_path / "out.parquet", PROVENANCE, IDENTITY)


class TestStandardOutput:
    def test_is_the_sdf(self, capsysbinary, tmp_path, straight):
        sink = StandardOutput(PROVENANCE, tmp_path / "no.sdf")
        for each in OUTCOMES:
            sink.write(each)
        sink.finish({})
        assert capsysbinary.readouterr().out == straight
        assert len(list(chem.read_sdf(tmp_path / "no.sdf"))) == len(OUTCOMES) - len(RECORDS)

    def test_rejects_are_not_overwritten(self, tmp_path):
        (tmp_path / "no.sdf").write_text("precious")
        with pytest.raises(RequestError, match=r"--rejects .*exists already"):
            StandardOutput(PROVENANCE, tmp_path / "no.sdf")
        StandardOutput(PROVENANCE, tmp_path / "no.sdf", force=True).close()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_full(self, monkeypatch):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr("sys.stdout", full)
            sink = StandardOutput(PROVENANCE)
            sink.write(OUTCOMES[0])
            with pytest.raises(RequestError, match="standard output: No space left on device"):
                sink.save()
            sink.save()  # now writes nowhere: the interpreter must not fail again when it ends
