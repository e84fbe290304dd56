"""What the documents say can be done: commands parse, Python compiles, names and files exist, checksums are right."""

import ast
import hashlib
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from moldiff.cli import app
from moldiff.config import PRESETS
from moldiff.outcomes import Record
from moldiff.weights import shipped_models

ROOT = Path(__file__).parents[1]
PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ("README.md", "data/README.md", "moldiff/weights/README.md", "CHANGELOG.md", *PAGES)
PROGRAMS = {"moldiff": [], "generate-molecules": ["generate"]}  # what each puts before its arguments
OPERATORS = {"&&", "||", "|", ";", ">", ">>", "<", "2>"}


def blocks(language: str) -> list[tuple[str, str]]:
    """(document, content) of every fenced block of a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(name, block) for name in DOCUMENTS for block in fence.findall((ROOT / name).read_text())]


def commands() -> list[tuple[str, ...]]:
    """Every command of this package in a bash block, as words; redirections and other programs are left out."""
    found = []
    for _, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((k for k, word in enumerate(words) if word in OPERATORS), len(words))
                if words[0] in PROGRAMS:
                    found.append(tuple(words[:end]))
                words = words[end + 1 :]
    return found


def parse(words: tuple[str, ...]) -> dict:
    """The parameters that a command line stands for, read by the program's own parser, without running anything."""
    command, arguments = typer.main.get_command(app), [*PROGRAMS[words[0]], *words[1:]]
    while hasattr(command, "commands"):
        assert arguments, f"{' '.join(words)}: no command"
        assert arguments[0] in command.commands, f"{' '.join(words)}: no command {arguments[0]!r}"
        command = command.commands[arguments.pop(0)]
    return command.make_context(command.name, arguments).params


def resolve(node: ast.expr, names: dict[str, object]) -> object:
    """What a dotted name stands for; None if it starts at something that is not known before the code runs."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    owner = resolve(node.value, names) if isinstance(node, ast.Attribute) else None
    if owner is None:
        return None
    known = hasattr(owner, node.attr) or node.attr in getattr(owner, "__annotations__", {})
    assert known, f"{ast.unparse(node)} does not exist"
    return getattr(owner, node.attr, None)


def test_there_are_commands_to_check():
    assert ("moldiff", "generate", "-n", "100", "-o", "molecules.sdf") in commands()
    assert len(blocks("python")) > 0


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words):
    parameters = parse(words)
    assert (parameters.get("preset") or "qm9-tiny") in PRESETS


def test_the_parser_of_this_test_refuses_what_the_program_refuses():
    for wrong in ("moldiff nothing", "moldiff generate --colour red", "moldiff generate -n many"):
        with pytest.raises(Exception, match=r"nothing|colour|valid integer"):
            parse(tuple(wrong.split()))


@pytest.mark.parametrize(("document", "code"), blocks("python"))
def test_python_blocks_compile_and_their_names_exist(document, code):
    tree = ast.parse(code, document)
    names: dict[str, object] = {"record": Record}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node, names)


@pytest.mark.skipif("qm9" not in shipped_models(), reason="no weights in the package")
@pytest.mark.parametrize(("document", "code"), blocks("python"))
def test_python_blocks_run(document, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("name", ["test", "first"])
def test_continuous_integration_finds_its_commands(name):
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(rf"^<!-- ci: {name} -->\n```bash\n.+\n```$", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document):
    text = (ROOT / document).read_text()
    local = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    missing = [target for target in local if not (ROOT / document).parent.joinpath(target).exists()]
    assert not missing


def test_checksums_of_the_sample():
    sample = ROOT / "data" / "qm9_sample"
    rows = re.compile(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)
    told = dict(rows.findall((ROOT / "data" / "README.md").read_text()))
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sample.iterdir()} == told


def test_no_document_speaks_of_the_machine_it_was_written_on():
    for name in (*DOCUMENTS, "CITATION.cff", ".ci/run"):
        assert not re.search(r"(?<!\w)/(tmp|work|root|home|opt)/", (ROOT / name).read_text()), name
