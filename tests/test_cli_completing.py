"""``moldiff conformers`` and ``moldiff bonds``: files, summaries, exit codes, refusals."""

import errno
import json
from pathlib import Path

import pytest
from rdkit import Chem
from typer.testing import CliRunner, Result

from moldiff import cli
from moldiff.terminal import Interrupted
from moldiff.workers import WorkerError

WATER = "3\nwater one\nO 0.00000 0.00000 0.11779\nH 0.00000 0.75545 -0.47116\nH 0.00000 -0.75545 -0.47116\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("some.smi").write_text("CO methanol\nCS\nC[C@H](O)C#N lactonitrile\n")
    Path("good.smi").write_text("CO methanol\n")
    Path("frames.xyz").write_text(WATER + WATER.replace("water one\nO", "carbene\nC"))
    Path("good.xyz").write_text(WATER)
    return tmp_path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def molecules(path: str) -> list[Chem.Mol]:
    return list(Chem.SDMolSupplier(path, removeHs=False))


def summary(path: str) -> dict:
    return json.loads(Path(f"{path}.summary.json").read_text())


class TestConformers:
    def test_written_with_what_is_known_of_them(self, folder):
        result = run("conformers", "some.smi", "-n", 2, "--steps", 8, "--seed", 3)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "molecule 2: element: atom 2 is S" in result.stderr
        assert result.stderr.splitlines()[-1] == "moldiff: 1 of 3 molecules without all of their 2 conformers"
        found = molecules("conformers.sdf")
        assert [m.GetProp("_Name") for m in found] == ["methanol"] * 2 + ["lactonitrile"] * 2
        tags = [[m.GetProp(k) for k in ("molecule", "conformer", "smiles", "seed")] for m in found]
        assert tags[2:] == [["3", str(k), "C[C@H](O)C#N", "3"] for k in (1, 2)]
        assert all(float(m.GetProp("strain_kcal_mol")) > 0 for m in found)
        said = summary("conformers.sdf")
        assert (said["molecules"], said["kept"], len(said["problems"]), said["evaluations"]) == (3, 4, 1, 8)
        assert said["request"] == {"n": 2, "seed": 3, "steps": 8, "max_attempts": 120}

    def test_all_done(self, folder):
        made = run("conformers", "good.smi", "-n", 1, "--steps", 8, "-o", "a.sdf")
        assert made.exit_code == 0
        assert " on 1 molecule, rejected: " in made.stderr and "1 conformer, " in made.stderr
        refused = run("conformers", "good.smi", "-o", "a.sdf")
        assert (refused.exit_code, "--force" in refused.stderr) == (2, True)
        assert run("conformers", "good.smi", "-n", 1, "--steps", 8, "-o", "a.sdf", "--force").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["none.smi"], "no such file"), (["good.smi", "-o", "a.csv"], ".sdf"), (["good.smi", "-n", "0"], "-n 0"),
            (["good.smi", "-o", "no/a.sdf"], "the folder no does not exist"), (["good.smi", "--model", "x"], "--model x"),
            (["good.smi", "--quality", "bad"], "--quality bad"), (["good.smi", "--column", "a"], "--column a"),
        ],
    )  # fmt: skip
    def test_bad_requests(self, folder, arguments, named):
        result = run("conformers", *arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert named in result.stderr
        assert not list(folder.glob("*.sdf"))

    def test_an_interruption_keeps_what_there_is(self, folder, monkeypatch):
        from moldiff import conformers

        real = conformers.ensembles

        def interrupted(*arguments):
            yield next(real(*arguments))
            raise Interrupted(2)

        monkeypatch.setattr(conformers, "ensembles", interrupted)
        result = run("conformers", "some.smi", "-n", 1, "--steps", 8)
        assert (result.exit_code, "interrupted after 1 molecule; " in result.stderr) == (130, True)
        assert [m.GetProp("_Name") for m in molecules("conformers.sdf")] == ["methanol"]
        made = Path("conformers.sdf").read_bytes()
        for name in ("conformers.partial.sdf", "conformers.partial2.sdf"):
            again = run("conformers", "some.smi", "-n", 1, "--steps", 8, "--seed", 1, "--force")
            says = f"what is made is in {name} (conformers.sdf stays as it was)"
            assert (again.exit_code, says in again.stderr) == (130, True)
            assert [m.GetProp("seed") for m in molecules(name)] == ["1"]
            assert summary(name)["molecules"] == 1
        assert (Path("conformers.sdf").read_bytes(), summary("conformers.sdf")["request"]["seed"]) == (made, 0)

    def test_a_worker_that_died_keeps_what_is_made(self, folder, monkeypatch):
        from moldiff import conformers

        real = conformers.ensembles

        def dying(*arguments):
            yield next(real(*arguments))
            raise WorkerError("a worker process ended unexpectedly")

        monkeypatch.setattr(conformers, "ensembles", dying)
        result = run("conformers", "some.smi", "-n", 1, "--steps", 8)
        says = "stopped after 1 molecule (a worker process ended unexpectedly); what is made is in conformers.sdf"
        assert (result.exit_code, says in result.stderr) == (2, True)
        assert [m.GetProp("_Name") for m in molecules("conformers.sdf")] == ["methanol"]


@pytest.mark.parametrize(
    ("command", "option"), [(["conformers"], "-o"), (["bonds"], "-o"), (["bonds", "-o", "a.sdf"], "--rejects")]
)
@pytest.mark.parametrize("name", ["symbolic.sdf", "hard.sdf"])
def test_what_is_given_is_not_written_over(folder, command, option, name):
    """By whatever name."""
    given = Path("good.xyz" if command[0] == "bonds" else "given.sdf")
    if given.suffix == ".sdf":
        given.write_text("precious")
    Path("symbolic.sdf").symlink_to(given)
    Path("hard.sdf").hardlink_to(given)
    before = given.read_text()
    result = run(*command, given, option, name, "--force")
    assert (result.exit_code, result.stderr) == (
        2, f"moldiff: {option} {name}: is another file of this command; choose another name\n"
    )  # fmt: skip
    assert given.read_text() == before


@pytest.mark.parametrize("kind", ["file", "device"])
def test_what_a_full_disk_has_no_place_for_is_named(folder, monkeypatch, kind):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if kind == "file":
        monkeypatch.setattr("moldiff.cli.completing.Tally.add", full)
    elif Path("/dev/full").exists():
        Path("full.sdf").symlink_to("/dev/full")
    else:
        pytest.skip("this system has no /dev/full")
    result = run("bonds", "good.xyz", "-o", "full.sdf", "--force")
    message = "moldiff: full.sdf: No space left on device; check the path and the free space\n"
    assert (result.exit_code, result.stderr) == (2, message)


class TestBonds:
    def test_found_and_not(self, folder):
        result = run("bonds", "frames.xyz", "--rejects", "no.sdf", "--max-attempts", 2)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "molecule 2 (carbene): not valid in 2 attempts: " in result.stderr
        mol = molecules("with_bonds.sdf")[0]
        assert [mol.GetProp(k) for k in ("_Name", "smiles", "molecule")] == ["water one", "O", "1"]
        assert mol.GetConformer().GetPositions().tolist()[0] == [0, 0, 0.1178]
        reject = next(iter(Chem.SDMolSupplier("no.sdf", removeHs=False, sanitize=False)))
        assert [atom.GetSymbol() for atom in reject.GetAtoms()] == ["C", "H", "H"]
        rejected = summary("with_bonds.sdf")["rejected"]
        assert sum(rejected.values()) in (2, 3, 4)  # two of the carbene, and at most one of each other molecule
        assert reject.GetProp("reason") in rejected

    def test_the_model_is_called_as_it_was_named(self, folder):
        Path("helium.xyz").write_text("1\n\nHe 0 0 0\n")
        Path("large.xyz").write_text("40\n\n" + "".join(f"C {1.5 * k} 0 0\n" for k in range(40)))
        for name in ("helium", "large"):
            assert "model qm9-atoms knows" in run("bonds", f"{name}.xyz", "-o", f"{name}.sdf").stderr

    def test_all_found(self, folder):
        assert run("bonds", "good.xyz", "-o", "a.sdf").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["good.smi"], "is not XYZ"), (["none.xyz"], "no such file"), (["good.xyz", "--steps", "1"], "--steps 1"),
            (["good.xyz", "-o", "a.sdf", "--rejects", "a.sdf"], "another file of this command"), (["a.pdf"], "a.pdf"),
        ],
    )  # fmt: skip
    def test_bad_requests(self, folder, arguments, named):
        result = run("bonds", *arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert named in result.stderr
        assert not list(folder.glob("*.sdf"))
