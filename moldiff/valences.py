"""Valences of closed-shell atoms, and the hydrogens that they imply. Needs no RDKit."""

from collections.abc import Sequence

import torch
from jaxtyping import Integer
from torch import Tensor

from moldiff.molecule import Molecules, split_token

STRICT_VALENCES: dict[tuple[str, int], tuple[int, ...]] = {
    ("H", 0): (1,),
    ("Li", 1): (0,),
    ("B", 0): (3,),
    ("B", -1): (4,),
    ("C", 0): (4,),
    ("C", 1): (3,),
    ("C", -1): (3,),
    ("N", 0): (3,),
    ("N", 1): (4,),
    ("N", -1): (2,),
    ("O", 0): (2,),
    ("O", 1): (3,),
    ("O", -1): (1,),
    ("F", 0): (1,),
    ("F", -1): (0,),
    ("Na", 1): (0,),
    ("Al", 0): (3,),
    ("Al", -1): (4,),
    ("Si", 0): (4,),
    ("P", 0): (3, 5),
    ("P", 1): (4,),
    ("P", -1): (2, 6),
    ("S", 0): (2, 4, 6),
    ("S", 1): (3, 5),
    ("S", 2): (4,),
    ("S", -1): (1,),
    ("Cl", 0): (1,),
    ("Cl", -1): (0,),
    ("Cl", 1): (2,),
    ("Cl", 3): (4,),
    ("K", 1): (0,),
    ("As", 0): (3, 5),
    ("As", 1): (4,),
    ("Se", 0): (2, 4, 6),
    ("Se", 1): (3,),
    ("Se", -1): (1,),
    ("Br", 0): (1,),
    ("Br", -1): (0,),
    ("Br", 1): (2,),
    ("I", 0): (1, 3, 5),
    ("I", -1): (0,),
    ("I", 1): (2,),
}
"""(element, formal charge) -> allowed sums of Kekulé bond orders of a closed-shell atom.

Neutral atoms: the valences of RDKit's periodic table (2026.09). Charged atoms: those of the neutral isoelectronic
element (N+ as C, O- as F, ...; C+ as B, with an empty orbital), halide and alkali ions alone, and the charge-separated
forms of hypervalent S, P and Cl. It agrees with the table of "GEOM-Drugs revisited" (Nikitin et al., arXiv:2505.00169)
except that odd-electron or unphysical entries taken there from the data are left out (S 3, S+3, Si+ 5, N-2, I+2), and
that neutral S 4, neutral I 3 and 5 are allowed. A key that is missing here is never stable.
"""


def implied_hydrogens(molecules: Molecules, vocabulary: Sequence[str]) -> Integer[Tensor, " b"]:
    """How many hydrogens fill up the atoms of each molecule: each to the least of its valences that holds its bonds.

    None on an atom without such a valence. For molecules whose hydrogens are left to valence; RDKit implies the same, but on P-.
    """
    of_token = [STRICT_VALENCES.get(split_token(name), ()) for name in vocabulary]
    most = max(1, *map(len, of_token))
    table = torch.tensor([(*v, *[-1] * (most - len(v))) for v in of_token], device=molecules.device)
    free = table[molecules.atom.long()] - molecules.bond.long().sum(-1)[..., None]
    none = torch.iinfo(free.dtype).max
    least = free.masked_fill(free < 0, none).amin(-1)
    return least.masked_fill((least == none) | ~molecules.mask, 0).sum(-1)
