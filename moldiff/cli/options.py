"""What several commands share: options of the same meaning, and numbers read from text."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.errors import RequestError
from moldiff.weights import ALIASES

if TYPE_CHECKING:
    from moldiff.generation import Generator

EXIT_CODES = (
    "Exit codes: 0 all done, 1 training or checks failed, 2 bad input, 3 fewer molecules than asked, "
    "130 interrupted (Ctrl-C), 143 terminated."
)

MODEL_HELP = f"A weights file, or the name of shipped ones: {', '.join(ALIASES)}."
DEVICE_HELP = "auto, cpu, cuda or mps. Never falls back silently."
FORCE_HELP = "Overwrite what is there."
RESUME_HELP = "Continue an interrupted run."
WORKERS_HELP = "Processes. Does not change the result."
COMPILE_HELP = (
    "Compile the network first, up to a minute; pays for thousands of molecules. Coordinates differ by rounding, and "
    "IDs are others."
)
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Workers = Annotated[int | None, typer.Option(help=WORKERS_HELP, min=1, show_default="by molecules and cores")]
Compile = Annotated[bool, typer.Option("--compile", help=COMPILE_HELP)]
Resume = Annotated[bool, typer.Option("--resume", help=RESUME_HELP)]
Force = Annotated[bool, typer.Option("--force", help=FORCE_HELP)]


def positive(text: str, option: str, remedy: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RequestError(f"{option}: expected a positive whole number {remedy}")
    return int(text)


def provenance_of(generator: "Generator", evaluations: int) -> dict[str, Any]:
    """What every record says of its making."""
    import torch

    from moldiff import __version__
    from moldiff.chem import RDKIT_VERSION

    return {
        "model": generator.name, "model_sha256": generator.hash, "evaluations": evaluations,
        "moldiff": __version__, "torch": torch.__version__, "rdkit": RDKIT_VERSION,
    }  # fmt: skip
