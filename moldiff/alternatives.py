"""Which shipped model can do what another one cannot, for the advice at the end of errors."""

from collections.abc import Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from moldiff import chem
from moldiff.conditions import Property, find_property
from moldiff.errors import RequestError
from moldiff.model_file import DataInfo, read_header
from moldiff.weights import ALIASES, shipped_models

if TYPE_CHECKING:
    from rdkit.Chem import Atom


@cache
def _shipped() -> dict[str, DataInfo]:
    """What the shipped models know of their data, examples left out, by their short names; only headers are read."""
    paths = {name: path for name, path in shipped_models().items() if name in ALIASES}
    headers = {name: read_header(path)["data"] for name, path in paths.items()}
    return {name: DataInfo.from_dict({**header, "examples": ()}) for name, header in headers.items()}


def fitting_model(
    heavy: tuple[int, int] | None = None, tokens: Collection[str] = (), property: str = "", grows: bool = False
) -> str | None:
    """The first shipped model that knows molecules of this range of heavy atoms, all of these tokens, and this property.

    ``grows``: or of more heavy atoms than these. Hydrogens need no token: where a model makes none they are left to valence.
    """
    for name in ALIASES:
        data = _shipped().get(name)
        if data is None or not set(tokens) - {"H"} <= set(data.vocabulary):
            continue
        least, most = data.heavy_range
        sized = heavy is None or (heavy[1] < most if grows else least <= heavy[0] <= heavy[1] <= most)
        if sized and (not property or property.lower() in {p.name.lower() for p in data.properties}):
            return name
    return None


def need_of(atoms: "Iterable[Atom]", grows: bool = False) -> dict[str, Any]:
    """What a model must know to make these atoms, and more if it ``grows``."""
    names = [chem.token_name(atom.GetSymbol(), atom.GetFormalCharge()) for atom in atoms]
    heavy = sum(name != "H" for name in names)
    return {"heavy": (heavy, heavy), "tokens": names, "grows": grows}


def remedies(*others: str, **need: Any) -> str:
    """What an error ends with: one of ``others``, or the model that fits ``need``, as of :func:`fitting_model`; or nothing."""
    name = fitting_model(**need)
    every = [*others, *([f"take --model {name}"] if name else [])]
    return f"; {', or '.join(every)}" if every else ""


def property_of(name: str, data: DataInfo) -> Property:
    """As :func:`moldiff.conditions.find_property`, whose error then names the shipped model that knows it, too."""
    try:
        return find_property(name, data.properties)
    except RequestError as error:
        raise RequestError(f"{error}{remedies(property=name)}") from error
