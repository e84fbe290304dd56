"""The references that ``moldiff cite`` prints: well-formed, each once, and none missing that the sources name."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moldiff import __version__
from moldiff.citations import bibtex
from moldiff.cli import app

ROOT = Path(__file__).parents[1]
ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})", re.IGNORECASE)
REQUIRED = {"software": {"version"}, "article": set(), "inproceedings": {"booktitle"}, "misc": set()}


def parsed(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Key -> (type, fields) of every entry; braces must match, every field is ``name = {value},``."""
    entries = {}
    for chunk in re.split(r"^@", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"(\w+)\{(\w+),\n", chunk)
        assert head, f"no type and key: {chunk[:60]!r}"
        body, end, _ = chunk[head.end() :].partition("\n}")
        assert end, f"{head[2]}: not closed"
        fields = re.findall(r"^  (\w+) = \{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\},$", body, re.MULTILINE)
        assert "\n".join(f"  {k} = {{{v}}}," for k, v in fields) == body, f"{head[2]}: a field is malformed"
        assert head[2] not in entries, f"{head[2]}: twice"
        entries[head[2]] = head[1], dict(fields)
        assert len(fields) == len(entries[head[2]][1]), f"{head[2]}: a field twice"
    return entries


ENTRIES = parsed(bibtex())


@pytest.mark.parametrize("key", ENTRIES)
def test_entries_are_complete(key):
    kind, fields = ENTRIES[key]
    assert {"title", "author", *REQUIRED[kind]} <= fields.keys()
    assert re.fullmatch(r"(19|20)\d\d", fields.get("year", "2000"))
    for name in re.split(r"\s+and\s+", fields["author"]):
        assert name == "others" or "," in name or name.startswith("{"), f"{name}: write Family, Given"
    if key != "moldiff":
        assert fields.keys() & {"doi", "eprint", "url"}, "nothing that leads a reader there"
    assert re.fullmatch(r"\d{4}\.\d{5}", fields.get("eprint", "0000.00000"))
    assert ("eprint" in fields) == ("archivePrefix" in fields)
    assert re.fullmatch(r"10\.\d{4,5}/\S+", fields.get("doi", "10.1000/x"))


@pytest.mark.parametrize("field", ["doi", "eprint", "title", "url"])
def test_nothing_is_cited_twice(field):
    values = [fields[field].lower() for _, fields in ENTRIES.values() if field in fields]
    assert len(values) == len(set(values))


def test_every_preprint_that_the_sources_name_is_cited():
    cited = {fields.get("eprint") for _, fields in ENTRIES.values()}
    named = {number: path.name for path in sorted((ROOT / "moldiff").rglob("*.py"))
             for number in ARXIV.findall(re.sub(r"\s+", " ", path.read_text()))}  # fmt: skip
    assert {number: place for number, place in named.items() if number not in cited} == {}


def test_the_versions_agree():
    version = f"version = {{{__version__}}}"
    assert version in bibtex()
    assert re.search(rf"^version: {re.escape(__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## \[{re.escape(__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_command_prints_them():
    result = CliRunner().invoke(app, ["cite"])
    assert result.exit_code == 0
    assert result.stdout == bibtex()
