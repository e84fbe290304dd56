"""``moldiff conformers`` and ``moldiff bonds``: files, summaries, exit codes, refusals."""

import errno
import json
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from subprocess import PIPE, Popen

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
        asked = {k: said["request"][k] for k in ("file", "n", "seed", "steps", "max_attempts", "column")}
        assert asked == {
            "file": str(folder / "some.smi"),
            "n": 2,
            "seed": 3,
            "steps": 8,
            "max_attempts": 120,
            "column": None,
        }

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

    def test_a_complete_run_has_nothing_to_resume(self, folder):
        command = ["conformers", "good.smi", "-n", 1, "--steps", 8, "-o", "a.sdf", "--resume"]
        assert run(*command).exit_code == 0  # what was not begun begins
        again = run(*command)
        assert (again.exit_code, again.stderr) == (0, "moldiff: a.sdf is complete already\n")
        other = run(*command, "--seed", 1)
        assert (other.exit_code, "nothing to resume; --force makes it again" in other.stderr) == (2, True)


class TestInterrupted:
    """The old output stays, and the new one is, in the end, as if nothing had happened."""

    COMMANDS = (
        ["conformers", "some.smi", "-n", 2, "--steps", 8, "-o", "out.sdf"],
        ["bonds", "frames.xyz", "--max-attempts", 2, "-o", "out.sdf", "--rejects", "no.sdf"],
    )

    @pytest.fixture
    def stopped(self, folder, monkeypatch) -> Callable[[list, int, BaseException], Result]:
        """Runs a command until so many molecules are done, and then this is raised."""
        from moldiff import completion, conformers, perception

        def run_until(command: list, done: int, error: BaseException) -> Result:
            real = completion.in_windows

            def ending(*arguments):
                yield from islice(real(*arguments), done)
                raise error

            with monkeypatch.context() as patch:
                for module in (conformers, perception):
                    patch.setattr(module, "in_windows", ending)
                return run(*command)

        return run_until

    @pytest.mark.parametrize("command", COMMANDS, ids=["conformers", "bonds"])
    @pytest.mark.parametrize("done", [0, 1, 2])
    def test_and_continued(self, folder, stopped, command, done):
        straight = run(*command)
        names = ["out.sdf", "no.sdf"] if "--rejects" in command else ["out.sdf"]
        made, said = {name: Path(name).read_bytes() for name in names}, summary("out.sdf")
        before = stopped([*command, "--force"], done, Interrupted(2))
        number = f"{done} molecule{'s' * (done != 1)}"
        remedy = "--resume goes on from there" if done else "nothing is made yet"
        assert (before.exit_code, before.stderr) == (130, f"moldiff: interrupted after {number}; {remedy}\n")
        assert {name: Path(name).read_bytes() for name in names} == made
        assert done == 0 or "an interrupted run is there; --resume goes on" in run(*command).stderr
        after = run(*command, "--resume" if done else "--force")
        assert after.exit_code == straight.exit_code == 3
        assert after.stderr.splitlines()[:-2] == straight.stderr.splitlines()[:-2]  # the time is another
        assert {name: Path(name).read_bytes() for name in names} == made
        now = summary("out.sdf")
        assert {k: v for k, v in now.items() if k not in ("seconds", "sampled_meanwhile")} == {
            k: v for k, v in said.items() if k not in ("seconds", "sampled_meanwhile")
        }
        assert not list(folder.glob(".*"))
        again = run(*command, "--resume")
        assert (again.exit_code, again.stderr.splitlines()) == (
            3, ["moldiff: out.sdf is complete already", straight.stderr.splitlines()[-1]]
        )  # fmt: skip

    def test_other_requests_do_not_continue_it(self, folder, stopped):
        command = self.COMMANDS[0]
        stopped(command, 1, Interrupted(15))
        other = run(*command, "--seed", 4, "--resume")
        assert "the interrupted run had seed 0 (now 4); use the same options, or --force" in other.stderr
        with open("some.smi", "a") as file:
            file.write("CO\n")
        assert "the interrupted run had sha256 " in run(*command, "--resume").stderr
        assert run(*command, "--force").exit_code == 3

    def test_a_worker_that_died(self, folder, stopped):
        command = self.COMMANDS[0]
        result = stopped(command, 1, WorkerError("a worker process ended unexpectedly"))
        says = "moldiff: after 1 molecule: a worker process ended unexpectedly; --resume goes on from there\n"
        assert (result.exit_code, result.stderr) == (2, says)
        assert run(*command, "--resume").exit_code == 3
        assert len(molecules("out.sdf")) == 4

    def test_a_full_disk(self, folder, monkeypatch):
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            result = run("bonds", "good.xyz", "-o", "a.sdf")
        remedy = "0 records are safe: free some space, then go on with --resume"
        assert (result.exit_code, result.stderr) == (2, f"moldiff: -o a.sdf: No space left on device; {remedy}\n")
        assert run("bonds", "good.xyz", "-o", "a.sdf", "--resume").exit_code == 0

    def test_what_is_no_file_is_written_to_as_it_is(self, folder):
        os.mkfifo("pipe.sdf")
        os.mkfifo("no.sdf")
        read = "import sys; print(sum(open(name).read().count('$$$$') for name in sys.argv[1:]))"
        with Popen([sys.executable, "-c", read, "no.sdf", "pipe.sdf"], stdout=PIPE) as reader:
            run("bonds", "frames.xyz", "-o", "pipe.sdf", "--rejects", "no.sdf", "--force")
            assert reader.communicate(timeout=60)[0] == b"2\n"
        assert Path("pipe.sdf").is_fifo() and Path("no.sdf").is_fifo()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    def test_a_full_device(self, folder):
        Path("full.sdf").symlink_to("/dev/full")
        result = run("bonds", "good.xyz", "-o", "full.sdf", "--force")
        remedy = "1 records are safe: free some space, then go on with --resume"
        assert (result.exit_code, result.stderr) == (2, f"moldiff: -o full.sdf: No space left on device; {remedy}\n")


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
