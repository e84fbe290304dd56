"""The model that made the molecules, as their records name it, and what that model was trained on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from moldiff.model_file import DataInfo, read_header
from moldiff.weights import shipped_helpers, shipped_models


@dataclass(frozen=True)
class Maker:
    """What the records say: ``name`` and ``sha256`` of the weights, and their ``data`` if they ship with this version."""

    name: str = ""
    sha256: str = ""
    data: DataInfo | None = None
    others: bool = False  # the records name more than one model, or not all name one

    @property
    def molecules(self) -> int:
        """Of the training data."""
        return sum(count for _, _, count in self.data.size_histogram)

    @property
    def commonest_size(self) -> tuple[int, float]:
        """(heavy atoms, share of the training molecules)."""
        counts = Counter()
        for heavy, _, count in self.data.size_histogram:
            counts[heavy] += count
        size, count = counts.most_common(1)[0]
        return size, count / self.molecules

    @property
    def heavy_shares(self) -> list[tuple[str, float]]:
        """(token, share of the heavy atoms) of the training data, the most frequent first."""
        heavy = [(t, p) for t, p in zip(self.data.vocabulary, self.data.atom_marginal, strict=True) if t != "H"]
        total = sum(share for _, share in heavy)
        return sorted(((token, share / total) for token, share in heavy), key=lambda pair: -pair[1])

    @property
    def sources(self) -> list[str]:
        """Text that names the publications of the training data."""
        return [] if self.data is None else [self.data.source, "10.1038/sdata.2014.22" * (self.data.name == "qm9")]


def maker_of(named: Iterable[tuple[str, str]]) -> Maker:
    """From the (model, sha256) that each record names, empty where it names none."""
    distinct = set(named)
    stated = sorted(pair for pair in distinct if any(pair))
    if not stated:
        return Maker()
    name, sha256 = stated[0]
    return Maker(name, sha256, _data(name, sha256), others=len(distinct) > 1)


def _data(name: str, sha256: str) -> DataInfo | None:
    path = (shipped_models() | {path.stem: path for path in shipped_helpers("fast")}).get(name)
    if path is None:
        return None
    header = read_header(path)
    return DataInfo.from_dict(header["data"]) if header["sha256"] == sha256 else None
