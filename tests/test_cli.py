"""The command line as its users meet it: what it writes, what it refuses and how, and what survives its end."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from rdkit import Chem
from typer.testing import CliRunner, Result

from moldiff import cli, generation
from moldiff.config import Config
from moldiff.outputs import Output
from moldiff.requests import Request, choose_sampler
from moldiff.terminal import Interrupted
from moldiff.workers import WorkerError, Workers

SAMPLE = Path(__file__).parents[1] / "data" / "qm9_sample"
STEPS = "--steps=6"
CPU = "--device=cpu"  # where molecules are compared to the last bit


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def generate(trained, folder):
    """``moldiff generate`` with the small model."""
    return lambda *arguments: run("generate", "--model", trained, STEPS, CPU, *arguments)


def one_line(result: Result, code: int = 2) -> str:
    """The message of a refusal: one line on standard error, nothing else, and the exit code."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("moldiff: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("moldiff: ").strip()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class TestGenerate:
    def test_writes_molecules_and_a_summary(self, generate, folder, trained):
        result = generate("-n", 5, "-o", "out.sdf", "--rejects", "no.sdf", "--seed", 7)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "sampled" in result.stderr
        assert "out.sdf" in result.stderr
        assert files(folder) == ["no.sdf", "out.sdf", "out.sdf.summary.json"]
        summary = json.loads(Path("out.sdf.summary.json").read_text())
        ids = [m.GetProp("_Name") for m in Chem.SDMolSupplier("out.sdf", removeHs=False)]
        rejects = [m.GetProp("reason") for m in Chem.SDMolSupplier("no.sdf", removeHs=False, sanitize=False)]
        assert len(ids) == summary["asked"] == summary["kept"] == summary["funnel"]["kept"] == 5
        assert len(rejects) == sum(summary["rejected"].values()) == summary["funnel"]["sampled"] - 5 > 0
        assert summary["rejected"] == {reason: rejects.count(reason) for reason in set(rejects)}
        expected = {"seed": 7, "steps": 6, "n_atoms": None, "unique": False, "model": generation.load(trained).hash}
        expected |= {"key": ids[0].split("-")[1]}
        assert summary["request"] == expected
        assert summary["model_sha256"] == expected["model"]
        assert (summary["model"], summary["device"], summary["evaluations"]) == ("four", "cpu", 6)
        assert summary["seconds"] > 0
        assert summary["cpu_seconds"] > 0
        assert summary["sampled_meanwhile"] == summary["funnel"]["sampled"] == summary["tries"]
        assert "6 evaluations a molecule\n" in result.stderr

    def test_says_what_python_says(self, generate, trained):
        generate("-n", 4, "-o", "out.smi")
        records = generation.load(trained, "cpu").generate(4, steps=6)
        assert Path("out.smi").read_text() == "".join(f"{r.smiles} {r.id}\n" for r in records)

    def test_standard_output_is_sdf_alone(self, generate, folder):
        result = generate("-n", 3, "-o", "-", "--rejects", "no.sdf")
        assert files(folder) == ["no.sdf"]
        generate("-n", 3, "-o", "out.sdf")
        assert result.stdout == Path("out.sdf").read_text()

    def test_options_that_do_not_change_the_result(self, generate):
        generate("-n", 4, "-o", "a.sdf")
        generate("-n", 4, "-o", "b.sdf", "--batch-size", 1, "--workers", 1, "--max-attempts", 99, "--time-limit", 600)
        assert Path("a.sdf").read_bytes() == Path("b.sdf").read_bytes()

    def test_sizes(self, generate):
        assert generate("-n", 2, "-o", "a.csv", "--n-atoms", "1").exit_code == 0
        assert generate("-n", 2, "-o", "b.csv", "--n-atoms", "1-2").exit_code == 0
        summary = json.loads(Path("a.csv.summary.json").read_text())
        assert summary["request"]["n_atoms"] == "1"
        assert list(summary["funnel"]) == ["sampled", "connected", "sanitised", "of asked size", "kept"]

    def test_a_formula(self, generate):
        assert generate("-n", 3, "-o", "a.csv", "--formula", "CH4").exit_code == 0
        assert [line.split(",")[1] for line in Path("a.csv").read_text().splitlines()[1:]] == ["C"] * 3
        summary = json.loads(Path("a.csv.summary.json").read_text())
        assert summary["request"]["formula"] == "CH4"
        assert list(summary["funnel"]) == ["sampled", "connected", "sanitised", "of asked formula", "kept"]

    def test_a_run_goes_on_with_the_formula_that_it_had(self, generate, monkeypatch):
        def interrupted(self, summary, ended):
            raise Interrupted(signal.SIGINT)

        command = ["-n", 3, "-o", "out.sdf", "--formula", "CH4"]
        with monkeypatch.context() as patch:
            patch.setattr(Output, "finish", interrupted)
            assert generate(*command).exit_code == 130
        for other, now in [(["--formula", "H2O"], "H2O"), ([], "None")]:
            refused = one_line(generate(*command[:4], *other, "--resume"))
            assert refused == (
                f"-o out.sdf: the interrupted run had formula CH4 (now {now}); use the same options, or --force"
            )
        assert generate(*command, "--resume").exit_code == 0
        assert generate(*command, "--resume").stderr == "moldiff: out.sdf is complete already\n"
        assert "nothing to resume" in one_line(generate(*command[:4], "--formula", "H2O", "--resume"))

    def test_fewer_than_asked(self, generate):
        result = generate("-n", 9, "-o", "out.sdf", "--unique", "--max-attempts", 24)
        assert result.exit_code == 3
        kept = len(Chem.SDMolSupplier("out.sdf"))
        assert 1 <= kept <= 5
        ran_out = "molecules: attempts ran out; raise --max-attempts, and --resume goes on"
        assert f"moldiff: {kept} of 9 {ran_out}" in result.stderr
        first = Path("out.sdf").read_text()
        generate("-n", 9, "-o", "out.sdf", "--unique", "--max-attempts", 40, "--resume")
        straight = generate("-n", 9, "-o", "straight.sdf", "--unique", "--max-attempts", 40)
        assert straight.exit_code in (0, 3)
        assert Path("out.sdf").read_text() == Path("straight.sdf").read_text()
        assert Path("out.sdf").read_text().startswith(first)

    def test_out_of_time(self, generate):
        result = generate("-n", 10**6, "-o", "out.sdf", "--time-limit", 0.5, "--workers", 1)
        assert result.exit_code == 3
        assert "time ran out; raise --time-limit" in result.stderr
        assert len(Chem.SDMolSupplier("out.sdf")) >= 1

    def test_defaults_are_those_of_the_api(self):
        import inspect

        defaults = {k: p.default for k, p in inspect.signature(cli.generate).parameters.items()}
        request = Request(1)
        assert [defaults[k] for k in ("seed", "unique")] == [request.seed, request.unique]
        assert choose_sampler(Config(), defaults["quality"], defaults["steps"]) == request.sampler

    def test_a_complete_file_is_not_made_again(self, generate):
        generate("-n", 3, "-o", "out.sdf")
        before = Path("out.sdf").read_bytes()
        again = generate("-n", 3, "-o", "out.sdf", "--resume")
        assert (again.exit_code, again.stderr) == (0, "moldiff: out.sdf is complete already\n")
        assert "exists already; --force overwrites it" in one_line(generate("-n", 3, "-o", "out.sdf"))
        assert "is complete, there is nothing to resume" in one_line(generate("-n", 4, "-o", "out.sdf", "--resume"))
        assert Path("out.sdf").read_bytes() == before
        assert generate("-n", 2, "-o", "out.sdf", "--force").exit_code == 0
        assert len(Chem.SDMolSupplier("out.sdf")) == 2

    def test_generate_molecules(self, trained, folder, monkeypatch):
        scripts = {e.name: e.value for e in entry_points(group="console_scripts")}
        assert scripts["moldiff"] == "moldiff.cli:app"
        assert scripts["generate-molecules"] == "moldiff.cli:generate_molecules"
        arguments = ["--model", str(trained), STEPS, "-n", "1", "-o", "x.smi"]
        monkeypatch.setattr(sys, "argv", ["generate-molecules", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.generate_molecules()
        assert end.value.code == 0
        assert Path("x.smi").is_file()


def damaged(trained: Path, how: str) -> Path:
    """A file that is no good as weights, in the working folder."""
    content = bytearray(trained.read_bytes())
    path = Path(f"{how}.safetensors")
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "weight":
        content[-5] ^= 1
    elif how == "header":
        content[content.index(b"coordinate_std") + 20] ^= 1
    elif how == "empty":
        content = b""
    elif how == "pickle":
        content = b"\x80\x04K\x01."
    elif how == "zip":
        torch.save({}, path)
        return path
    path.write_bytes(content)
    return path


class TestOwnMolecules:
    def test_from_a_file_to_a_model(self, folder):
        """Prepared, trained on from shipped weights with a property that they lack, and made again only when told to."""
        smiles = ["CCO", "CCN", "CCC", "C=O", "CC=O", "CO", "CN", "CCCl", "C1CC"]
        rows = "".join(f"m{k},{s},{k},{k}\n" for k, s in enumerate(smiles))
        Path("own.csv").write_text("id,smiles,logS,gap\n" + rows)
        command = ["data", "prepare", "own.csv", "--vocabulary-of", "qm9", "-o", "set", "--jobs", "1"]
        result = run(*command)
        assert result.exit_code == 0, result.stderr
        assert "read 9, kept 7, dropped 2" in result.stdout
        assert "dropped, element: 1\n  dropped, unreadable: 1\n" in result.stdout
        rows = Path("set/dropped.csv").read_text().splitlines()
        assert rows[1].startswith("own.csv,8,line 9,m7,element,")
        assert rows[2].startswith("own.csv,9,line 10,m8,unreadable,")
        assert one_line(run(*command)).endswith("--force makes it again")
        trained = run("train", "set", "--init-from", "qm9", "--set", "train.steps=1", "-o", "run", "--device", "cpu")
        assert trained.exit_code == 0, trained.stderr
        assert "warning: only 5 training molecules: expect copies of them" in trained.stderr
        again = run(*command, "--property", "logS:log mol/L", "--split", "scaffold", "--force")
        assert again.exit_code == 0, again.stderr
        more = run("train", "set", "--init-from", "qm9", "--set", "train.steps=1", "-o", "more", "--device", "cpu")
        assert more.exit_code == 0, more.stderr
        told = [json.loads(run("info", f"{name}/weights.safetensors", "--json").stdout) for name in ("run", "more")]
        before, after = (found["properties"] for found in told)
        assert after[:-1] == before and list(after[-1]) == ["logS"]
        assert run(*command, "--property", "gap:meV", "--force").exit_code == 0
        refused = run("train", "set", "--init-from", "qm9", "-o", "other")
        assert refused.exit_code == 2
        assert "its property gap is in eV, that of set in meV; prepare the set in" in refused.stderr.splitlines()[-1]


class TestRefusals:
    """Value, place and remedy in one line, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("-n 0", "-n 0: ask for at least one molecule"),
            ("-n -4", "-n -4: ask for at least one molecule"),
            ("--steps 1", "--steps 1: at least 2 are needed"),
            ("--quality good", "--quality good: there are fast, balanced, best"),
            ("--quality best", "--quality best --steps 6: a quality sets the steps; give one of the two"),
            ("--seed -1", "--seed -1: must be between 0 and 2^63 - 1"),
            ("--n-atoms 3", "--n-atoms 3: model four molecules knows molecules of 1 to 2 heavy atoms; stay within"),
            ("--n-atoms 1-9", "--n-atoms 1-9: model four molecules knows molecules of 1 to 2 heavy atoms; stay within"),
            ("--n-atoms 2-1", "--n-atoms 2-1: the range is reversed; write 1-2"),
            ("--n-atoms 0", "--n-atoms 0: expected a positive whole number or a range such as 5-9"),
            ("--n-atoms nine", "--n-atoms nine: expected a positive whole number or a range such as 5-9"),
            ("--n-atoms 5-", "--n-atoms 5-: expected a positive whole number or a range such as 5-9"),
            ("--n-atoms -5", "--n-atoms -5: expected a positive whole number or a range such as 5-9"),
            ("--n-atoms 1-2-3", "--n-atoms 1-2-3: expected a positive whole number or a range such as 5-9"),
            ("--n-atoms 1.5", "--n-atoms 1.5: expected a positive whole number or a range such as 5-9"),
            ("--formula CH5", "--formula CH5: an odd number of valences, so only radicals have it; change H by one"),
            ("--formula ch4", "--formula ch4: write elements and their atoms, e.g. C7H8O2"),
            ("--formula CH6", "--formula CH6: 2 hydrogens more than one molecule can hold; take them off"),
            ("--formula CH3Cl", "--formula CH3Cl: Cl, and model four molecules knows H C N O"),
            ("--formula C3H8", "--formula C3H8: 3 heavy atoms, model four molecules knows 1 to 2"),
            ("--formula CH4 --n-atoms 1", "--formula CH4: it is --n-atoms that gives the size; take one of the two"),
            ("--batch-size 0", "--batch-size 0: expected a positive whole number or auto"),
            ("--batch-size all", "--batch-size all: expected a positive whole number or auto"),
            ("--max-attempts 3", "--max-attempts 3: fewer than the 10 molecules asked for"),
            ("--time-limit 0", "--time-limit 0.0: must be positive and finite (seconds)"),
            ("--time-limit nan", "--time-limit nan: must be positive and finite (seconds)"),
            ("--time-limit inf", "--time-limit inf: must be positive and finite (seconds)"),
            ("--device gpu", "--device gpu: choose auto, cpu, cuda or mps (one of several GPUs: cuda:1)"),
            ("--model nothing", "--model nothing: neither a file nor a shipped model"),
            ("-o out.mol", "-o out.mol: unknown format .mol; use .sdf .smi .csv .xyz .parquet, or -"),
            ("-o absent/out.sdf", "-o absent/out.sdf: the folder absent does not exist; make it first"),
            ("-o .", "-o .: unknown format (no suffix)"),
            ("--rejects no.csv", "--rejects no.csv: is written as .sdf"),
            (
                "--rejects molecules.sdf",
                "--rejects molecules.sdf: is another file of this command; choose another name",
            ),
            ("-o - --resume", "--resume: standard output cannot be resumed; write to a file"),
        ],
    )
    def test_generate(self, generate, folder, arguments, message):
        assert one_line(generate(*arguments.split())).startswith(message)
        assert files(folder) == []

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, generate):
        assert one_line(generate("--device", "cuda")) == (
            "--device cuda: not on this machine, or torch is built without it; use cpu"
        )

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ("truncated", "not a complete safetensors file"),
            ("empty", "not a complete safetensors file"),
            ("weight", "weights do not match their hash, the file is damaged; get it again"),
            ("header", "its header does not match its hash, the file is damaged; get it again"),
            ("pickle", "a pickle or zip archive, which may run code when opened; refused. Use safetensors"),
            ("zip", "a pickle or zip archive, which may run code when opened; refused. Use safetensors"),
        ],
    )
    def test_weights(self, trained, folder, how, message):
        path = damaged(trained, how)
        assert one_line(run("generate", "--model", path)).startswith(f"{path}: {message}")
        assert one_line(run("info", path)).startswith(f"{path}: {message}")
        assert files(folder) == [path.name]

    def test_a_folder_that_cannot_be_written(self, generate, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert one_line(generate()) == "-o molecules.sdf: no permission to write into .; choose another place"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--preset", "qm9-huge"], "no preset 'qm9-huge'; there are qm9-tiny, "),
            (["--set", "train.speed=9"], "unknown key train.speed; there are train.steps, "),
            (["--set", "train.lr"], "--set train.lr: write it as section.key=value, e.g. train.lr=1e-3"),
            (["--set", "train.lr=fast"], "train.lr = 'fast': expected float"),
            (["--preset", "qm9-tiny", "--config", "own.toml"], "--preset qm9-tiny with --config own.toml: give one of"),
            (["--config", "absent.toml"], "absent.toml: No such file or directory; check the path"),
            (["--device", "gpu"], "--device gpu: choose auto, cpu, cuda or mps"),
            (["absent"], "absent: no meta.json here; make a set with `moldiff data prepare qm9 -o DIR`"),
        ],
    )
    def test_train(self, folder, arguments, message):
        data = [] if arguments == ["absent"] else [SAMPLE]
        assert one_line(run("train", *data, *arguments, "-o", "run")).startswith(message)
        assert files(folder) == []

    @pytest.mark.parametrize("given", ["--like", "--fix", "--shape", "--pharmacophore"])
    @pytest.mark.parametrize(
        ("output", "named"),
        [
            ("-o a.sdf", "-o a.sdf"),
            ("--rejects a.sdf", "--rejects a.sdf"),
            ("-o a.csv --relax mmff", "--relax: a.relaxed.sdf"),
        ],
    )
    def test_what_is_given_is_not_written_over(self, generate, folder, given, output, named):
        seed = Path(named.split()[-1])
        seed.write_text("precious")
        refused = one_line(generate(given, seed, *output.split(), "--force"))
        assert refused == f"{named}: is another file of this command; choose another name"
        assert (files(folder), seed.read_text()) == ([seed.name], "precious")

    def test_a_prepared_set_is_not_overwritten(self, folder):
        Path("set").mkdir()
        Path("set/meta.json").write_text("{}")
        assert one_line(run("data", "prepare", "qm9", "-o", "set")) == (
            "-o set: holds a prepared set already; --force makes it again"
        )

    @pytest.mark.parametrize("name", ["train.smi", "dropped.csv"])
    def test_a_set_is_written_over_nothing_else(self, folder, name):
        Path("set").mkdir()
        Path("set", name).write_text("smiles\nCCO\nCCC\nCCN\nCCF\n")
        Path("a.smi").write_text("CCO\n")
        command = ["data", "prepare", f"set/{name}", "-o", "set"]
        for force in ([], ["--force"]):
            assert one_line(run(*command, *force)) == (
                f"-o set: set/{name} would be written over; choose another directory"
            )
        assert one_line(run("data", "prepare", "a.smi", "-o", "set")) == (
            f"-o set: {name} is there already; --force replaces it"
        )
        assert Path("set", name).read_text().count("\n") == 5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("qm8", "qm8: format without suffix is not read; give .sdf "),
            ("absent.smi", "absent.smi: no such file"),
            (
                "qm9 --column smiles",
                "qm9: only --archive, --hydrogens, --jobs and --force go with it; leave others out",
            ),
            ("qm9 --neutralise", "qm9: only --archive, --hydrogens, --jobs and --force go with it; leave others out"),
            ("qm9 --hydrogens some", "--hydrogens some: choose explicit or implicit"),
            ("qm9 --limit 9", "qm9: only --archive, --hydrogens, --jobs and --force go with it; leave others out"),
            ("moses a.smi", "moses: goes with no other source; give it alone"),
            ("moses --column smiles", "--column smiles: for tables only; leave it out with moses"),
            ("pdb-ligands --charge 1", "--charge 1: for XYZ files only; leave it out with pdb-ligands"),
            ("geom-drugs", "geom-drugs: no package has it; give drugs_crude.msgpack.tar.gz of "),
            ("moses --archive a.smi", "--archive a.smi: is not a downloaded wheel of molsets"),
            ("a.smi --archive a", "--archive a: for named sources only; leave it out"),
            ("a.smi --property weight:kg", "--property weight:kg: is computed in g/mol; leave it out"),
            ("a.smi --vocabulary-of qm9 --hydrogens explicit", "--hydrogens explicit: those of model qm9 are implicit"),
            ("a.smi a.smi", "file a.smi: given twice; give it once"),
            ("a.smi --charge 1", "--charge 1: for XYZ files only; leave it out"),
        ],
    )
    def test_data(self, folder, arguments, message):
        Path("a.smi").write_text("CCO\n")
        assert one_line(run("data", "prepare", *arguments.split(), "-o", "set")).startswith(message)
        assert files(folder) == ["a.smi"]

    @pytest.mark.parametrize("arguments", ["-n x", "--steps 1.5", "--workers 0", "--nonsense", "surplus"])
    def test_usage(self, generate, folder, arguments):
        assert generate(*arguments.split()).exit_code == 2
        assert files(folder) == []


class TestHelp:
    @pytest.mark.parametrize("command", ["", "generate", "train", "data prepare", "info", "evaluate", "doctor"])
    def test_pages(self, command):
        result = run(*command.split(), "--help")
        assert result.exit_code == 0
        assert "Usage: " in result.stdout

    @pytest.mark.parametrize("command", [[], ["generate"], ["train"], ["evaluate"]])
    def test_exit_codes_are_explained(self, command):
        text = " ".join(run(*command, "--help").stdout.split())
        for part in ("0 all done", "2 bad input", "3 fewer molecules than asked", "130 interrupted", "143 terminated"):
            assert part in text

    def test_loads_nothing_heavy(self):
        code = (
            "import sys; from moldiff.cli import app; app(['generate', '--help'], standalone_mode=False); "
            "heavy = {'torch', 'numpy', 'rdkit', 'pandas', 'e3nn', 'torch_geometric'}; "
            "print(heavy & set(sys.modules), file=sys.stderr)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stderr == "set()\n"

    def test_version(self):
        assert run("--version").stdout.startswith("moldiff 0.")


class TestInfo:
    def test_text(self, trained):
        text = run("info", trained).stdout
        for part in ("four molecules", "H C N O", "heavy atoms 1-2", "atoms 3-5", "properties none", "0" * 64):
            assert part in " ".join(text.split())

    def test_stages_and_figures_have_their_own_lines(self):
        lines = run("info", "qm9").stdout.splitlines()
        facts = json.loads(run("info", "qm9", "--json").stdout)
        assert sum("cpu_seconds" in line for line in lines) == json.dumps(facts["training"]).count("cpu_seconds") > 1
        fcd = next(line.split() for line in lines if line.split()[0] == "fcd")
        assert [float(value) for value in fcd[1:]] == [row["fcd"] for row in facts["measured"]]

    def test_json(self, trained):
        facts = json.loads(run("info", trained, "--json").stdout)
        assert facts["weights sha256"] == generation.load(trained, "cpu").hash
        assert facts["vocabulary"] == ["H", "C", "N", "O"]

    def test_a_model_without_hydrogens_makes_heavy_atoms_only(self):
        facts = json.loads(run("info", "qm9", "--json").stdout)
        assert facts["heavy atoms"] == "2-9" and "atoms" not in facts


def start(trained: Path, *arguments: object) -> subprocess.Popen:
    """A real run with far too much to do, in the background, as the leader of a process group of its own."""
    command = [
        sys.executable,
        "-m",
        "moldiff.cli",
        "generate",
        "--model",
        trained,
        STEPS,
        CPU,
        "-o",
        "out.sdf",
        *arguments,
    ]
    command = [str(part) for part in command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def members(group: int) -> list[int]:
    """Processes of a group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "workers", "code"),
    [(signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 143), (signal.SIGKILL, 2, -signal.SIGKILL)],
    ids=["ctrl-c", "terminated", "killed"],
)
def test_what_ends_early_is_continued_as_if_nothing_had_happened(trained, folder, generate, number, workers, code):
    """Byte for byte; and no process stays behind."""
    process, state = start(trained, "-n", 10**6, "--workers", workers), Path(".out.sdf.partial.json")
    wait_until(state.exists)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, ""), stderr
    wait_until(lambda: not members(process.pid))
    kept = json.loads(state.read_text())["progress"]["kept"]
    if number != signal.SIGKILL:
        assert stderr == f"moldiff: interrupted with {kept} of 1000000 molecules; --resume goes on from there\n"
    locked = [".out.sdf.partial.lock"] if number == signal.SIGKILL else []  # by nobody
    assert files(folder) == sorted([".out.sdf.partial.json", ".out.sdf.partial.sdf", *locked])
    n = kept + 5
    assert "an interrupted run is there; --resume goes on with it" in one_line(generate("-n", n, "-o", "out.sdf"))
    other = one_line(generate("-n", n, "-o", "out.sdf", "--resume", "--seed", 9))
    assert other == "-o out.sdf: the interrupted run had seed 0 (now 9); use the same options, or --force"
    assert generate("-n", n, "-o", "out.sdf", "--resume").exit_code == 0
    assert generate("-n", n, "-o", "straight.sdf").exit_code == 0
    assert Path("out.sdf").read_bytes() == Path("straight.sdf").read_bytes()
    assert len(files(folder)) == 4


def test_a_worker_that_is_killed(generate, folder, monkeypatch):
    def killed(self, idle):
        raise WorkerError("a worker process ended unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(Workers, "result", killed)
        said = one_line(generate("-n", 2, "--workers", 2))
    assert said == "a worker process ended unexpectedly; nothing is made yet"
    assert generate("-n", 2, "--resume").exit_code == 0


def test_a_reader_that_leaves_is_no_error_of_ours(trained, folder):
    """``moldiff generate -o - | head`` ends quietly."""
    command = (
        f"{sys.executable} -m moldiff.cli generate --model {trained} {STEPS} {CPU} --workers 1 -n 200 -o - | head -n 1"
    )
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stdout.startswith("four-")
    assert result.stderr == ""
