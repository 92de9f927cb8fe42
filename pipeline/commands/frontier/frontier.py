"""The verb: draw in many ways, drop those that others beat, measure what is left, and make the page."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline import atomic, records
from pipeline.adapter.names import FILE as ADAPTER
from pipeline.commands.evaluation.drawing import Column, Drawer, claim
from pipeline.commands.evaluation.evaluate import judges_of
from pipeline.commands.evaluation.subject import Subject, folder_for, opened
from pipeline.commands.evaluation.wanted import Wanted, wanted_of
from pipeline.commands.frontier.grid import USUAL, Axes, Way, ways
from pipeline.commands.frontier.options import LEAST, METHODS, FrontierOptions
from pipeline.commands.frontier.seen import Eyes
from pipeline.commands.places import beside
from pipeline.commands.sample import require_fit
from pipeline.console import columns, say, tell
from pipeline.errors import ConfigError
from pipeline.evaluation.frontier import found as records_of
from pipeline.evaluation.frontier.choice import chosen
from pipeline.evaluation.frontier.curve import area, at_matched_diversity
from pipeline.evaluation.frontier.found import FOLDER, Frontier, Row
from pipeline.evaluation.frontier.points import front, surely_beaten
from pipeline.evaluation.looking import REFERENCE
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import INDEX, kept
from pipeline.evaluation.sample import guidance_clashes
from pipeline.objective.options import ObjectiveOptions
from pipeline.report import frontier_page
from pipeline.report.plain_code import Model
from pipeline.sampling.options import GuidanceOptions
from pipeline.training import result as finished

FIRST_ROUND = 8  # captions; each later round goes on to twice as many


def trace(adapter: Path, options: FrontierOptions, *, as_json: bool) -> None:
    """Trace the frontier of a run's adapter.

    Raises ConfigError, CheckpointError or DataError with what cannot be done, before anything is drawn.
    """
    options.require_sound(limit=LEAST, num_images=2)
    with opened(adapter, options) as subject:
        _trace(adapter, options, subject, as_json=as_json)


def _trace(adapter: Path, options: FrontierOptions, subject: Subject, *, as_json: bool) -> None:
    if options.base is not None and options.to is None and (adapter / "run.toml").is_file():
        raise ConfigError(f"--base is not what {adapter} was trained on; give a folder for what is found with --to.")
    wanted, folder = wanted_of(adapter, options), folder_for(adapter, options, FOLDER)
    if len(wanted.captions) < LEAST:
        raise ConfigError(f"{wanted.origin} has {len(wanted.captions)} captions, and {LEAST} are the least.")
    tried = ways(_axes(adapter, options, subject), subject.settings)
    eyes = Eyes.of(judges_of(options, subject, wanted), options, subject, wanted)
    other = _other(options.against, wanted, eyes) if options.against is not None else None
    engine = subject.engine
    engine.on_main(lambda: claim(folder, {**subject.facts, **wanted.facts}, "a frontier"))
    race = Race(subject, wanted, folder, eyes, tried)
    rows = race.run(keep_all=options.all_pictures)
    engine.close()
    if not engine.is_main:
        return
    result = _result(rows, wanted, eyes)
    result.write(folder)
    with io.StringIO() as text:
        csv.writer(text).writerows(records_of.table(result.rows))
        atomic.write_text(folder / "frontier.csv", text.getvalue())
    base = options.base or subject.run.get("pretrained_model_name_or_path") or subject.family.source.folder
    page = frontier_page.write(
        folder,
        adapter.resolve().name,
        result,
        place=adapter,
        model=Model(str(base), subject.family.pipeline_class, subject.run),
        size=subject.settings.size,
        origin=wanted.origin,
    )
    if as_json:
        say(json.dumps(records.to_json(result), indent=1))
    else:
        say("\n".join(_table(result)))
        if other is not None:
            say(f"Against {options.against}: {_against(result, other)}")
    tell(f"Report   {page}")


def _against(result: Frontier, other: Frontier) -> str:
    """How much better one follows captions than the other, in words."""
    try:
        change, (low, high) = at_matched_diversity(*([one.rows[k].point for k in one.whole] for one in (result, other)))
    except ValueError as error:
        return f"{error}, so nothing can be compared."
    return f"adherence {change.text('{:+.3f}')} at equal diversity, {low:.3f} to {high:.3f}"


def _axes(adapter: Path, options: FrontierOptions, subject: Subject) -> Axes:
    """What is tried. Raises ConfigError for methods that the model has no use for, and for checkpoints that are not."""
    family = subject.family
    is_flow = family.path(ObjectiveOptions()).prediction == "flow"

    def clashes(method: str) -> list[str]:
        return guidance_clashes(GuidanceOptions(**METHODS[method]), family, is_flow=is_flow)

    asked = list(dict.fromkeys(options.method or [name for name in USUAL if not clashes(name)]))
    if said := [sentence for method in asked for sentence in clashes(method)]:
        raise ConfigError("\n".join(said))
    assert subject.file is not None
    files: dict[int | None, Path] = {None: subject.file}
    if options.checkpoints:
        files |= (earlier := _checkpoints(adapter))
        require_fit(family, *earlier.values())
        if len(files) == 1:
            raise ConfigError(
                f"--checkpoints: {adapter} holds none but that of the weights it published; leave --checkpoints out."
            )
    usual = subject.settings.guidance_scale
    if subject.settings.guidance.guidance_against != "unconditional":
        usual = family.default_guidance
    scales = options.scales or ([options.scale] if options.scale != 1 else None)
    steps = options.steps or [subject.settings.num_inference_steps]
    return Axes(asked, _once(options.guidance_scales), _once(scales), list(dict.fromkeys(steps)), files, usual)


def _once(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else list(dict.fromkeys(values))


def _checkpoints(adapter: Path) -> dict[int | None, Path]:
    """The checkpoints in a run's folder by their steps, but for that whose weights it published."""
    places = {place: place.name.removeprefix("checkpoint-") for place in adapter.glob("checkpoint-*")}
    steps = {int(step): place / ADAPTER for place, step in places.items() if step.isdecimal()}
    published = finished.read(adapter).kept_step if (adapter / finished.FILE).is_file() else None
    return {step: steps[step] for step in sorted(steps) if steps[step].is_file() and step != published}


@dataclass(frozen=True)
class Race:
    """All ways draw the first captions; those that another beats beyond chance draw no more."""

    subject: Subject
    wanted: Wanted
    folder: Path
    eyes: Eyes
    tried: Sequence[Way]

    def run(self, *, keep_all: bool) -> list[Row]:
        """What came of each way, in the order of `tried`; the main process's answer is everybody's."""
        drawer, total, engine = Drawer(self.subject), len(self.wanted.captions), self.subject.engine
        engine.on_main(partial(drawer.tell_cut, self.wanted.captions))
        rows: list[Row | None] = [None] * len(self.tried)
        alive, begin, end = list(range(len(self.tried))), 0, min(FIRST_ROUND, total)
        while True:
            tell(f"{len(alive)} ways, captions {begin + 1} to {end} of {total}")
            for place in alive:
                self._draw(drawer, self.tried[place], begin, end)
            rows = engine.on_main(partial(self._looked, rows, alive, end, keep_all=keep_all or end == total))
            if end == total:
                return [row for row in rows if row is not None]
            alive = [place for place in alive if not _row(rows, place).is_beaten]
            begin, end = end, min(2 * end, total)

    def _draw(self, drawer: Drawer, way: Way, begin: int, end: int) -> None:
        """Draw some captions, in a folder of their own, so that batches are the same whatever follows."""
        count, requests = self.wanted.num_images, self.wanted.requests
        place = self.folder / way.folder
        column = Column(way.setting.title, way.file, way.setting.scale, way.settings)
        drawer.draw(place / f"{begin:04d}", column, requests[begin * count : end * count])
        if self.subject.engine.is_main:
            parts = sorted(path.parent for path in place.glob(f"*/{INDEX}") if int(path.parent.name) < end)
            found = [
                {"file": f"{part.name}/{row['file']}", "prompt": row["prompt"], "seed": row["seed"]}
                for part in parts
                for row in kept(part)
            ]
            atomic.write_text(place / INDEX, json.dumps(found, indent=1, ensure_ascii=False) + "\n")

    def _looked(self, rows: list[Row | None], alive: list[int], end: int, *, keep_all: bool) -> list[Row | None]:
        """The rows with what was drawn by now, and who of them is beaten."""
        if self.wanted.reference:
            self.wanted.reference_in(self.folder / REFERENCE, self.subject.settings.size)
        found = list(rows)
        for place in alive:
            found[place] = self.eyes.row(self.tried[place], self.folder, self.wanted, end)
        if not keep_all:
            now = records_of.far_apart([_row(found, place) for place in alive])
            beaten = surely_beaten([row.point for row in now], [not row.is_far for row in now])
            for place, is_beaten in zip(alive, beaten, strict=True):
                found[place] = dataclasses.replace(_row(found, place), is_beaten=is_beaten)
        return found


def _row(rows: Sequence[Row | None], place: int) -> Row:
    found = rows[place]
    assert found is not None
    return found


def _result(rows: list[Row], wanted: Wanted, eyes: Eyes) -> Frontier:
    """Front, chosen points and area, of the ways that drew every caption."""
    rows = list(records_of.far_apart(rows))
    whole = [place for place, row in enumerate(rows) if not (row.is_beaten or row.is_far)]
    means = [rows[place].point.means for place in whole]
    ends = [whole[place] for place in front(means)]
    low, high = (rows[place].point.means[1] for place in (ends[-1], ends[0]))
    return Frontier(
        captions=wanted.captions,
        num_images=wanted.num_images,
        first_seed=wanted.first_seed,
        measured=eyes.measured,
        rows=tuple(rows),
        front=tuple(ends),
        chosen={wish: whole[place] for wish, place in chosen(means).items()},
        area=area([rows[place].point for place in whole], low, high),
    )


def _other(place: Path, wanted: Wanted, eyes: Eyes) -> Frontier:
    """The frontier of another run. Raises ConfigError for one of other captions or measures, or where there is none."""
    found = records_of.read(beside(place, FOLDER)) or records_of.read(place)
    if found is None:
        raise ConfigError(f"--against {place} holds no frontier; trace that first, with the same captions.")
    if (found.captions, found.num_images, found.first_seed) != (wanted.captions, wanted.num_images, wanted.first_seed):
        raise ConfigError(f"--against {place} was drawn with other captions or seeds: nothing there is comparable.")
    if found.measured != eyes.measured:
        then, now = (f"{m.adherence} by {m.adherence_by}, {m.diversity}" for m in (found.measured, eyes.measured))
        raise ConfigError(f"--against {place} was measured otherwise ({then}; here {now}); trace it again so.")
    return found


def _table(found: Frontier) -> list[str]:
    """For a terminal: the front from the diverse to the faithful, with the names of the three points."""
    names = {place: ", ".join(w for w, p in found.chosen.items() if p == place) for place in found.chosen.values()}
    head = ("", METRICS[found.measured.adherence].short, "diversity", "KID")
    lines = [head]
    for place in found.front:
        row = found.rows[place]
        kid = "" if row.kid is None else row.kid.text("{:.3f}")
        title = f"{row.setting.title}{f' ({names[place]})' if place in names else ''}"
        lines.append((title, row.adherence.text("{:.3f}"), row.diversity.text("{:.3f}"), kid))
    beaten, far = (sum(getattr(row, name) for row in found.rows) for name in ("is_beaten", "is_far"))
    said = f"{len(found.rows)} ways of drawing {len(found.captions)} captions: {beaten} beaten on the way"
    said += f", {far} too far from true pictures." if far else "."
    return [said, "", *columns(lines)]
