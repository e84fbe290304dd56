"""``moldiff info``, ``doctor`` and ``cite``: what is installed, and where it comes from."""

import json
from typing import Annotated, Any

import typer

from moldiff.cli.options import MODEL_HELP, Device
from moldiff.terminal import one_line_errors

MARGIN = 18  # characters before the facts


def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "qm9",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print what a model knows: vocabulary, sizes, properties and units, training data, configuration, figures."""
    with one_line_errors():
        from moldiff.generation import load
        from moldiff.weights import ALIASES, shipped_models

        generator = load(model, "cpu")
        facts = generator.facts()
        if as_json:
            typer.echo(json.dumps(facts, indent=1))
            return
        facts["training"] = _stages(facts["training"])
        facts["measured"] = _table(facts["measured"])
        shipped = [f"{alias} (= {name})" for alias, name in ALIASES.items() if alias in shipped_models()]
        facts["shipped models"] = ", ".join(shipped)
        for name, value in facts.items():
            typer.echo(f"{name:<{MARGIN}}{_text(value)}")


def _stages(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Of weights that started from others, these too, the last first."""
    own = {name: value for name, value in training.items() if name != "started_from"}
    return [own, *_stages(training["started_from"])] if "started_from" in training else [own]


def _table(rows: list[dict[str, Any]]) -> str:
    """A column for each row of figures."""
    if not rows:
        return "none"
    names = dict.fromkeys(name for row in rows for name in row)
    lines = [f"{name:<24}" + "".join(f"{_text(row.get(name, '')):>9}" for row in rows) for name in names]
    return ("\n" + " " * MARGIN).join(
        ["means of runs, all sampled molecules, evaluations of one try; rules: model card", *lines]
    )


def _text(value: Any) -> str:
    if value in ({}, [], ()):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        between = "\n" + " " * MARGIN if value and isinstance(value[0], dict) else " "
        return between.join(_text(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def doctor(device: Device = "auto") -> None:
    """Check the installation: versions, device, shipped weights, and a golden sample made again."""
    with one_line_errors():
        from moldiff.doctor import diagnose

        sound = True
        for name, good, text in diagnose(device):
            typer.echo(f"{'ok  ' if good else 'FAIL'} {name}: {text}")
            sound &= good
    raise typer.Exit(0 if sound else 1)


def cite() -> None:
    """Print the references of this program and of the methods in it, as BibTeX."""
    from moldiff.citations import bibtex

    typer.echo(bibtex(), nl=False)
