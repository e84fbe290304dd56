"""The references of the methods behind a report, picked from the citations of the package."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from moldiff.citations import bibtex

ALWAYS = {"moldiff", "rdkit", "rego2015threedmol", "wilson1927interval"}
# Metrics whose definition names no source, by the beginning of their names.
OF_METRICS = {
    "edm_": "hoogeboom2022edm", "midi_": "vignac2023midi", "fcd": "preuer2018fcd",
    "atom_stability": "nikitin2025geom", "molecule_stability": "nikitin2025geom",
}  # fmt: skip
_ENTRY = re.compile(r"^@\w+\{(\w+),\n(.*?)\n\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*?)\},$", re.MULTILINE | re.DOTALL)
_ACCENTS = {'"': "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303"}


@dataclass(frozen=True)
class Source:
    """One reference as text, with the address of the publication where there is one."""

    text: str
    address: str


def sources_of(names: Iterable[str], texts: Iterable[str]) -> list[Source]:
    """References of the metrics called ``names``, and of every DOI and arXiv number in ``texts``, as ordered there."""
    wanted = ALWAYS | {key for name in names for start, key in OF_METRICS.items() if name.startswith(start)}
    text = "\n".join(texts)
    found = []
    for key, body in _ENTRY.findall(bibtex()):
        fields = dict(_FIELD.findall(body))
        if key in wanted or any(fields.get(kind, "\0") in text for kind in ("doi", "eprint")):
            found.append(_source(fields))
    return found


def _source(fields: dict[str, str]) -> Source:
    authors = [name.partition(",")[0] for name in re.split(r"\s+and\s+", _plain(fields["author"]))]
    others = len(authors) > 3 or "others" in authors
    who = ", ".join(name for name in authors[:3] if name != "others") + (" et al." if others else ".")
    venue = _plain(fields.get("journal") or fields.get("booktitle") or "")
    where = ", ".join(filter(None, [f"{venue} {fields.get('year', '')}".strip(), fields.get("volume"),
                                    fields.get("pages", "").replace("--", "–")]))  # fmt: skip
    return Source(f"{who} {_plain(fields['title'])}.{f' {where}.' if where else ''}", _address(fields))


def _address(fields: dict[str, str]) -> str:
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    return f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else fields.get("url", "")


def _plain(tex: str) -> str:
    """The few TeX accents and commands of the citations as Unicode."""
    tex = re.sub(r"\{?\\([\"'`^~])\{?(\w)\}?\}?", lambda m: m[2] + _ACCENTS[m[1]], tex)
    tex = tex.replace(r"$\alpha$", "α")
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", re.sub(r"[{}]", "", tex)).strip())
