"""``moldiff train``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from moldiff.cli.options import Device
from moldiff.config import PRESETS
from moldiff.terminal import bar, fail, one_line_errors

FEW = 100  # training molecules


def train(
    data: Annotated[Path, typer.Argument(help="A prepared set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the run.")],
    preset: Annotated[str, typer.Option(help=", ".join(PRESETS))] = "qm9-tiny",
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of a preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. train.lr=1e-3; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")] = False,
    init_from: Annotated[str | None, typer.Option(help="Start from these weights: a shipped name or a file.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after this long.")] = None,
    device: Device = "auto",
) -> None:
    """Train a model. Ctrl-C saves first; --resume continues bit for bit. Under torchrun, all processes take part."""
    with one_line_errors():
        from moldiff.config import preset as named
        from moldiff.config import read_config
        from moldiff.datasets.prepared import read_meta
        from moldiff.model import choose_device
        from moldiff.training import train as run
        from moldiff.weights import find_weights

        settings = (read_config(config) if config else named(preset)).override(set_ or [])
        device = choose_device(device)
        seconds = None if max_minutes is None else 60 * max_minutes
        steps, batch = settings.train.steps, settings.train.batch
        meta = read_meta(data)
        typer.echo(f"{settings.preset} on {meta['name']}: {steps} steps of {batch} on {device} → {output}", err=True)
        if (count := meta["molecules"]["train"]) < FEW:
            text = f"only {count} training molecules: expect copies of them; check with `moldiff evaluate --reference`"
            typer.echo(f"warning: {text}", err=True)
        started, last = time.monotonic(), {"step": steps}
        with _training_progress(steps) as report:
            show = lambda row: (last.update(row), report(row))  # noqa: E731
            start = None if init_from is None else find_weights(init_from)
            weights = run(
                data,
                output,
                settings,
                resume=resume,
                init_from=start,
                device=device,
                max_seconds=seconds,
                progress=show,
            )
        if last["step"] < steps:
            in_time = seconds is None or time.monotonic() - started < seconds
            text = f"stopped at step {last['step']} of {steps}; --resume goes on from there"
            fail(text, code=130 if in_time else 0)
    typer.echo(f"averaged weights → {weights}; try them: moldiff generate --model {weights}")


@contextmanager
def _training_progress(steps: int) -> Iterator[Any]:
    """A bar with loss and speed; plain lines when standard error is not a terminal."""
    with bar("{task.completed}/{task.total}", "{task.description}") as shown:
        task = shown.add_task("", total=steps)

        def report(row: dict[str, Any]) -> None:
            text = f"loss {row['loss']:.3f}  {row['molecules_per_s']:.0f} molecules/s"
            shown.update(task, completed=row["step"], description=text)
            if shown.disable:
                typer.echo(f"step {row['step']}/{steps}  {text}", err=True)

        yield report
