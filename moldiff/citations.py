"""References of this program, of its data and of the methods and libraries in it, as BibTeX: ``moldiff cite``."""

from functools import cache
from importlib.resources import files


@cache
def bibtex() -> str:
    """The text of citations.bib."""
    return (files("moldiff") / "citations.bib").read_text(encoding="utf-8")
