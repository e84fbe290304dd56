"""The command line: thin over the Python API. Nothing heavy is imported before a command runs."""

import sys
from typing import Annotated

import typer

from moldiff.cli.about import cite, doctor, info
from moldiff.cli.bonds import bonds
from moldiff.cli.conformers import conformers
from moldiff.cli.data import data_app
from moldiff.cli.evaluate import evaluate
from moldiff.cli.generate import generate
from moldiff.cli.options import EXIT_CODES
from moldiff.cli.train import train

app = typer.Typer(
    help="Generate small or lead-like molecules in 3D with an E(3)-equivariant diffusion model.", epilog=EXIT_CODES,
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
)  # fmt: skip


def version(show: bool) -> bool:
    if show:
        from moldiff import __version__

        typer.echo(f"moldiff {__version__}")
        raise typer.Exit
    return show


@app.callback()
def main(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


for command in (generate, conformers, bonds, evaluate, train, info, doctor, cite):
    app.command(epilog=EXIT_CODES)(command)
app.add_typer(data_app, name="data")


def generate_molecules() -> None:
    """Entry point ``generate-molecules``: the same as ``moldiff generate``."""
    app(["generate", *sys.argv[1:]], prog_name="moldiff")
