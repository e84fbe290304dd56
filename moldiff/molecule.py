"""The molecule batch every other module speaks: dense, padded, class indices, Å.

Reader's path: molecule → processes → denoisers/transformer → model → samplers → cli.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

if TYPE_CHECKING:
    import torch_geometric.data

BOND_CLASSES = 4  # none, single, double, triple (Kekulé orders)
HYDROGENS = ("explicit", "implicit")  # atoms like the others, or left to the valences of these
_TOKEN = re.compile(r"([A-Z][a-z]?)(\d*)([+-]?)")
TOKEN_FORM = "expected an element and its charge, such as 'C', 'N+' or 'O2-'"


def split_token(name: str) -> tuple[str, int]:
    """Symbol and formal charge of a token such as "N+" or "O2-". Raises ``ValueError`` for anything of another form."""
    match = _TOKEN.fullmatch(name)
    if match is None:
        raise ValueError(f"token {name!r}: {TOKEN_FORM}")
    symbol, size, sign = match.groups()
    return symbol, int(sign + (size or "1")) if sign else 0


def by_element(vocabulary: Sequence[str], hydrogens: str = "explicit") -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The elements in the order of their first tokens, and for each token the place of its element among them.

    ``hydrogens``: "implicit" puts hydrogen, which is no token then, before them.
    """
    symbols = [split_token(token)[0] for token in vocabulary]
    elements = tuple(dict.fromkeys(["H", *symbols] if hydrogens == "implicit" else symbols))
    return elements, tuple(elements.index(symbol) for symbol in symbols)


B = TypeVar("B", bound="Batch")


class Batch:
    """What frozen dataclasses of tensors have in common, whose first axis is that of the molecules."""

    def replace(self: B, **fields: Tensor) -> B:
        return dataclasses.replace(self, **fields)

    def to(self: B, device: torch.device | str) -> B:
        return self.map(lambda x: x.to(device))

    def select(self: B, index: Tensor | slice | list[int]) -> B:
        """The molecules at ``index`` of the batch."""
        return self.map(lambda x: x[index])

    def map(self: B, function: Callable[[Tensor], Tensor]) -> B:
        """``function`` of every field."""
        return type(self)(*(function(getattr(self, f.name)) for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class Molecules(Batch):
    """A batch of molecular graphs with coordinates.

    Frozen: change a field with :meth:`replace`. Atoms are tokens, one per (element, formal charge), indexing
    a vocabulary such as ``("H", "C", "N", "O", "F", "C-", "N+", "O-")``. Padded entries hold zeros.
    """

    mask: Bool[Tensor, "b n"]  # True where there is an atom
    pos: Float[Tensor, "b n 3"]  # Å
    atom: Integer[Tensor, "b n"]  # vocabulary index
    bond: Integer[Tensor, "b n n"]  # Kekulé order 0–3, symmetric, zero diagonal

    def __len__(self) -> int:
        return self.mask.shape[0]

    @property
    def device(self) -> torch.device:
        return self.pos.device

    @property
    def size(self) -> Integer[Tensor, " b"]:
        """Atoms in each molecule."""
        return self.mask.sum(1)

    @property
    def pair_mask(self) -> Bool[Tensor, "b n n"]:
        """True for pairs of two different real atoms."""
        n = self.mask.shape[1]
        off_diagonal = ~torch.eye(n, dtype=torch.bool, device=self.mask.device)
        return self.mask[:, :, None] & self.mask[:, None, :] & off_diagonal

    def centre(self, weights: Float[Tensor, "b n"] | None = None) -> "Molecules":
        """Move the (weighted) mean of the atoms to the origin; padded positions stay zero.

        ``weights``: e.g. 1 on fixed atoms and 0 elsewhere; molecules whose weights are all zero use all their atoms.
        """
        return self.replace(pos=centred(self.pos, self.mask, weights))

    def rotate(self, rotation: Float[Tensor, "3 3"]) -> "Molecules":
        """Apply one orthogonal matrix to all positions (column-vector convention, x ↦ R x)."""
        return self.replace(pos=self.pos @ rotation.T)

    def split(self) -> "list[Molecules]":
        """Single molecules without padding, each a batch of one."""
        sizes = self.size.tolist()
        return [
            type(self)(self.mask[i : i + 1, :n], self.pos[i : i + 1, :n], self.atom[i : i + 1, :n],
                       self.bond[i : i + 1, :n, :n])
            for i, n in enumerate(sizes)
        ]  # fmt: skip

    @classmethod
    def collate(cls, batches: "list[Molecules]", n: int | None = None) -> "Molecules":
        """Concatenate batches, padding all to ``n`` atoms (default: the widest)."""
        n = n or max(m.mask.shape[1] for m in batches)
        return cls(*(torch.cat([_pad(getattr(m, f.name), n) for m in batches]) for f in dataclasses.fields(cls)))

    def to_pyg(self) -> "list[torch_geometric.data.Data]":
        """One torch-geometric ``Data`` per molecule: ``pos``, ``atom``, ``edge_index`` (both directions), ``bond``."""
        from torch_geometric.data import Data

        graphs = []
        for single in self.split():
            edge_index = single.bond[0].nonzero().T.contiguous()
            order = single.bond[0][edge_index[0], edge_index[1]]
            graphs.append(Data(pos=single.pos[0], atom=single.atom[0], edge_index=edge_index, bond=order))
        return graphs

    @classmethod
    def from_pyg(cls, graphs: "list[torch_geometric.data.Data]") -> "Molecules":
        """Inverse of :meth:`to_pyg`; the result is padded to the largest graph."""
        singles = []
        for graph in graphs:
            n = graph.pos.shape[0]
            bond = torch.zeros(n, n, dtype=graph.bond.dtype, device=graph.pos.device)
            bond[graph.edge_index[0], graph.edge_index[1]] = graph.bond
            mask = torch.ones(1, n, dtype=torch.bool, device=graph.pos.device)
            singles.append(cls(mask, graph.pos[None], graph.atom[None], bond[None]))
        return cls.collate(singles)


@dataclass(frozen=True)
class Prediction(Batch):
    """A denoiser's estimate of the clean state: positions and class logits, whatever the network's own output is."""

    pos: Float[Tensor, "b n 3"]  # Å
    atom_logits: Float[Tensor, "b n tokens"]
    bond_logits: Float[Tensor, "b n n orders"]  # symmetric in the atom pair


def centred(
    pos: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], weights: Float[Tensor, "b n"] | None = None
) -> Float[Tensor, "b n 3"]:
    """Positions minus their (weighted) mean over real atoms; padded rows are zero."""
    real = mask.to(pos.dtype)
    if weights is None:
        w = real
    else:
        w = weights.to(pos.dtype) * real
        w = torch.where(w.sum(1, keepdim=True) > 0, w, real)
    total = w.sum(1)[:, None, None]
    mean = (w[..., None] * pos).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)
    return (pos - mean) * real[..., None]


def _pad(x: Tensor, n: int) -> Tensor:
    """Zero-pad the atom axis of ``x``, the first after the batch axis, to ``n``; of pairs (b, n, n), which are integers, both."""
    missing = n - x.shape[1]
    if missing == 0:
        return x
    is_pair = x.ndim == 3 and not x.is_floating_point()
    if is_pair:
        return torch.nn.functional.pad(x, (0, missing, 0, missing))
    return torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
