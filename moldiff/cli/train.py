"""``moldiff train``."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moldiff.cli.options import Device
from moldiff.config import PRESETS
from moldiff.terminal import bar, fail, one_line_errors

if TYPE_CHECKING:
    from moldiff.config import Config

DEFAULT = "qm9-tiny"
FEW = 100  # training molecules


def train(
    data: Annotated[Path, typer.Argument(help="A prepared set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the run.")],
    preset: Annotated[
        str | None, typer.Option(help=", ".join(PRESETS), show_default=f"{DEFAULT}, or those of --init-from")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of a preset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, e.g. train.lr=1e-3; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")] = False,
    init_from: Annotated[
        str | None, typer.Option(help="Fine-tune these weights: a shipped name or a file. A preset need not be named.")
    ] = None,
    extend_vocabulary: Annotated[
        bool, typer.Option("--extend-vocabulary", help="Add elements and charges that these weights lack.")
    ] = False,
    patience: Annotated[
        int | None,
        typer.Option(
            help="End after so many checks without a better held-out loss; 0: no checks.",
            min=0,
            show_default="10 with --init-from alone, else 0",
        ),
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Save and stop after this long.")] = None,
    device: Device = "auto",
) -> None:
    """Train a model. Ctrl-C saves first; --resume continues bit for bit. Under torchrun, all processes take part.

    Example: moldiff train series --init-from qm9 -o run
    """
    with one_line_errors():
        from moldiff.datasets.prepared import read_meta
        from moldiff.errors import RequestError
        from moldiff.model import choose_device
        from moldiff.training import train as run
        from moldiff.weights import find_weights

        if extend_vocabulary and init_from is None and not resume:
            raise RequestError("--extend-vocabulary: goes with --init-from, whose weights it extends; name them")
        if preset and config:
            raise RequestError(f"--preset {preset} with --config {config}: give one of the two")
        source = None if init_from is None else find_weights(init_from)
        overrides = [*(set_ or []), *([] if patience is None else [f"train.patience={patience}"])]
        settings = _settings(preset, config, output if resume else None, source).override(overrides)
        settings.train.check()
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
            weights = run(
                data,
                output,
                settings,
                resume=resume,
                init_from=source,
                extend_vocabulary=extend_vocabulary,
                device=device,
                max_seconds=seconds,
                progress=show,
            )
        if last["step"] < steps and last.get("patience_left") != 0:
            text = f"stopped at step {last['step']} of {steps}; --resume goes on from there"
            in_time = seconds is None or time.monotonic() - started < seconds
            fail(text, code=128 + last.get("signal", signal.SIGINT) if in_time else 0)
        if "best_step" in last:
            typer.echo(_outcome(last, steps), err=True)
    typer.echo(f"averaged weights → {weights}")
    if settings.task == "generate":
        reference = data / "train.smi"  # whose novelty tells whether the set is only repeated
        evaluate = f"moldiff evaluate molecules.sdf --reference {reference}" if reference.is_file() else ""
        typer.echo(" && ".join(filter(None, [f"try them: moldiff generate --model {weights} -n 100", evaluate])))


def _settings(named: str | None, file: Path | None, run: Path | None, weights: Path | None) -> "Config":
    """Of the file or preset that is named, else of the run to go on with, else made for these weights."""
    from moldiff.config import Config, preset, read_config
    from moldiff.training import CONFIG

    if file:
        return read_config(file)
    if named:
        return preset(named)
    if run and (run / CONFIG).is_file():
        return read_config(run / CONFIG)
    if weights:
        from moldiff.finetuning import settings_for
        from moldiff.model_file import read_header

        return settings_for(Config.from_dict(read_header(weights)["config"], weights))
    return preset(DEFAULT)


def _outcome(row: dict[str, Any], steps: int) -> str:
    """Where the held-out loss was least."""
    how = f"stopped early, at step {row['step']} of {steps}" if row["step"] < steps else f"all {steps} steps done"
    where = f"the held-out loss was least at step {row['best_step']}"
    return f"{how}: {where}{', before any training' * (row['best_step'] == 0)}; the weights are of that step"


@contextmanager
def _training_progress(steps: int) -> Iterator[Any]:
    """A bar with losses and speed; plain lines when standard error is not a terminal."""
    with bar("{task.completed}/{task.total}", "{task.description}", lines=False) as shown:
        task = shown.add_task("", total=steps)
        seen: dict[str, Any] = {}

        def report(row: dict[str, Any]) -> None:
            seen.update(row)
            texts = {
                "loss": "loss {loss:.3f}",
                "held_out": "held out {held_out:.4f} (least at step {best_step})",
                "molecules_per_s": "{molecules_per_s:.0f} molecules/s",
            }
            text = "  ".join(form.format(**seen) for key, form in texts.items() if key in seen)
            shown.update(task, completed=row["step"], description=text)
            if shown.disable:
                typer.echo(f"step {row['step']}/{steps}  {text}", err=True)

        yield report
