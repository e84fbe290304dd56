"""What several commands share: options of the same meaning, and numbers read from text."""

from typing import Annotated

import typer

from moldiff.errors import RequestError

EXIT_CODES = (
    "Exit codes: 0 all done, 1 training or checks failed, 2 bad input, 3 fewer molecules than asked, "
    "130 interrupted (Ctrl-C), 143 terminated."
)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps. Never falls back silently.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


def positive(text: str, option: str, remedy: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RequestError(f"{option}: expected a positive whole number {remedy}")
    return int(text)
