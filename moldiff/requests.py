"""Molecules to keep, to stay near, to fill or to match → what a request says of them."""

from dataclasses import replace

from moldiff.attempts import Request
from moldiff.fragments import Plan, Wishes, plan
from moldiff.model_file import DataInfo
from moldiff.overlay import Overlay


def with_molecules(draft: Request, data: DataInfo, wishes: Wishes, overlay: Overlay) -> tuple[Request, Plan]:
    """The request to a model of this data, not checked yet, and the plan, which tells what of the molecules is kept.

    Sizes that the draft leaves open are those of the shape to fill; analogues begin at their seed.

    Raises:
        RequestError: the model cannot do this, or the wishes contradict each other.
    """
    sizes = draft.heavy_atoms
    if sizes is None and wishes.like is None and draft.formula is None:
        sizes = overlay.heavy_atoms(data)
    planned = plan(wishes, data, draft.sampler, sizes)
    guides = (*draft.guides, *overlay.guides(data, planned.known))
    return replace(draft, guides=guides, overlay=overlay, **planned.fields), planned
