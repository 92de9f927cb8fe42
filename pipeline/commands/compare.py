"""Grids of adapters, checkpoints and scales: the same prompts and seeds in every column, the base in the first."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.options import DrawOptions
from pipeline.commands.evaluation.subject import opened
from pipeline.commands.evaluation.wanted import lines_of
from pipeline.commands.places import beside
from pipeline.commands.sample import model_of, require_fit, run_of
from pipeline.console import say
from pipeline.errors import ConfigError
from pipeline.evaluation.sample import SampleRequest
from pipeline.report import compare_page

BASE = "pretrained_model_name_or_path"
BESIDE = ("long_prompts", "training_guidance")  # options of a model that no drawing depends on
FOLDER = "compare"  # of the first output folder


def compare(
    adapters: list[Path],
    options: DrawOptions,
    *,
    prompts: Path,
    scales: Sequence[float],
    checkpoints: bool,
) -> None:
    """Draw the grid and make its page; stopped at any time, the same command goes on.

    Raises ConfigError, CheckpointError or DataError for what cannot be drawn.
    """
    options.require_sound()
    lines = lines_of(prompts, "--prompts")
    requests = [SampleRequest(text, options.seed + number) for text in lines for number in range(options.num_images)]
    columns = columns_of(adapters, scales, checkpoints=checkpoints)
    folder = options.to or beside(adapters[0], FOLDER)
    with opened(adapters[0], options) as subject:
        require_fit(subject.family, *{column.file for column in columns if column.file is not None})
        facts = {**subject.facts, "requests": [[request.prompt, request.seed] for request in requests]}
        facts["columns"] = [column.facts for column in columns]
        subject.engine.on_main(lambda: claim(folder, facts, "a grid"))
        drawer = Drawer(subject)
        for number, column in enumerate(columns):
            drawer.draw(compare_page.column(folder, number), column, requests)
        is_main = subject.engine.is_main
        subject.engine.close()
    if is_main:
        titles = [column.title for column in columns]
        page = compare_page.write(folder, adapters[0].resolve().name, titles, requests)
        say(f"Page  {page}")


def columns_of(adapters: Sequence[Path], scales: Sequence[float], *, checkpoints: bool) -> list[Column]:
    """The base, then every adapter at every scale. Raises ConfigError for what holds none, all of them at once."""
    places = [place for adapter in adapters for place in (_with_checkpoints(adapter) if checkpoints else [adapter])]
    lacking = [str(place) for place in places if not (place / FILE).is_file()]
    if lacking:
        raise ConfigError(f"{', '.join(lacking)}: no {FILE} there; give output folders of runs, or checkpoints.")
    bases = {str(run_of(place).get(BASE, "the starter base")): place for place in reversed(places)}
    if len(bases) > 1:
        each = ", ".join(f"{place} is for {base}" for base, place in bases.items())
        raise ConfigError(f"These adapters have different base models, so no grid can hold them: {each}.")
    models = [vars(model_of(run_of(place))) for place in places]
    if other := sorted(name for name in models[0].keys() - {BASE, *BESIDE} if len({m[name] for m in models}) > 1):
        raise ConfigError(
            f"These adapters were trained with other {', '.join(other)}, and a grid draws all columns as the first was "
            "trained: compare each with itself, as in `compare ONE --prompts FILE`."
        )
    if not all(-100 <= scale <= 100 for scale in scales):
        raise ConfigError(f"--scale {', '.join(f'{scale:g}' for scale in scales)} must lie between -100 and 100.")
    short = [place.resolve().name for place in places]
    names = short if len(set(short)) == len(short) else [str(place) for place in places]
    found = [Column("base")]
    for name, place in zip(names, places, strict=True):
        found += [Column(name if len(scales) == 1 else f"{name}, scale {s}", place / FILE, s) for s in scales]
    return found


def _with_checkpoints(adapter: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first, and what it published."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in adapter.glob("checkpoint-*")}
    found = [path for path, step in steps.items() if step.isdecimal() and (path / FILE).is_file()]
    return [*sorted(found, key=lambda path: int(steps[path])), adapter]
