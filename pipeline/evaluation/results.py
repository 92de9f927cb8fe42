"""evaluation.json: what was measured on a test set, and its rows as page and model card show them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import atomic, records
from pipeline.evaluation import looking
from pipeline.evaluation.extractors import inception
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics.measure import Estimate
from pipeline.evaluation.metrics.table import METRICS, Metric

FILE = "evaluation.json"
SETS = (looking.ADAPTED, looking.BASE, looking.REFERENCE, *looking.CHANGES)
TITLES = {  # of the sets, as people read them
    looking.BASE: "base",
    looking.ADAPTED: "adapter",
    looking.CHANGE: "change",
    looking.REFERENCE: "reference",
    looking.AGAINST: "against",
}
ANY_NUMBER = "{:.4g}"  # of a metric that is in a file and not in the table


@dataclass(frozen=True)
class Evaluation:
    """The estimates of each set of pictures."""

    n: int  # captions
    extractors: dict[str, str]  # their names by their kinds, numbered where there are several of one
    sets: dict[str, dict[str, Estimate]]  # of SETS, by `key` of metric and extractor

    def write(self, folder: Path) -> None:
        """Write evaluation.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=2, allow_nan=False) + "\n")

    def found(self, name: str, metric: str, extractor: str | None = None) -> Estimate | None:
        """The estimate of a metric on a set, where there is one: by the extractor of this name, or the first of all."""
        estimates = (one for one in self.sets.get(name, {}).values() if one.metric == metric)
        return next((one for one in estimates if extractor in (None, one.extractor)), None)


@dataclass(frozen=True)
class Row:
    """A metric as people read it; a cell is empty where the metric was not measured on that set."""

    label: str
    short: str
    base: str
    adapted: str
    reference: str
    change: str
    against: str
    n: int
    extractor: str | None
    blind: str  # what the metric does not see


def read(folder: Path) -> Evaluation | None:
    """What was measured, None where nothing was. Raises CheckpointError for a file that is damaged."""
    return records.read(Evaluation, folder / FILE) if (folder / FILE).is_file() else None


def key(estimate: Estimate) -> str:
    """What an estimate is kept under."""
    return estimate.metric if estimate.extractor is None else f"{estimate.metric}, {estimate.extractor}"


def of(n: int, extractors: Sequence[Extractor], sets: Mapping[str, Sequence[Estimate]]) -> Evaluation:
    """What was measured on `n` captions."""
    names: dict[str, str] = {}
    for extractor in extractors:
        number = sum(key.split()[0] == extractor.kind for key in names)
        names[extractor.kind if not number else f"{extractor.kind} {number + 1}"] = extractor.name
    by_set = {which: {key(estimate): estimate for estimate in estimates} for which, estimates in sets.items()}
    return Evaluation(n, names, by_set)


def rows(evaluation: Evaluation) -> list[Row]:
    """Every metric and extractor there is an estimate of: by the table's order, then others as they are called."""
    there = dict.fromkeys(name for which in SETS for name in evaluation.sets.get(which, {}))
    metric_of = {name: one.metric for which in SETS for name, one in evaluation.sets.get(which, {}).items()}
    places = {name: place for place, name in enumerate(METRICS)}
    return [_row(evaluation, name) for name in sorted(there, key=lambda name: places.get(metric_of[name], len(places)))]


def measured_by(evaluation: Evaluation) -> str:
    """Which extractor which metrics rest on: 'KID, top-1: starter-judge; CLIP margin: starter-clip'."""
    by_extractor: dict[str, list[str]] = {}
    for row in rows(evaluation):
        if row.extractor is not None:
            by_extractor.setdefault(row.extractor, []).append(row.short)
    return "; ".join(f"{', '.join(names)}: {extractor}" for extractor, names in by_extractor.items())


def _row(evaluation: Evaluation, name: str) -> Row:
    there = {which: evaluation.sets[which][name] for which in SETS if name in evaluation.sets.get(which, {})}
    one = next(iter(there.values()))
    metric = METRICS.get(one.metric)
    form = metric.form if metric else ANY_NUMBER
    short = one.metric if metric is None else metric.short
    if metric is not None and metric.plain and one.extractor == inception.NAME:
        short = metric.plain
    cells = {which: found.text(signed(form) if which in looking.CHANGES else form) for which, found in there.items()}
    return Row(
        label=_label(metric, short) if metric else one.metric,
        short=short,
        base=cells.get("base", ""),
        adapted=cells.get("adapted", ""),
        reference=cells.get("reference", metric.of_reference if metric else ""),
        change=cells.get("change", ""),
        against=cells.get("against", ""),
        n=one.n,
        extractor=one.extractor,
        blind=metric.blind if metric else "",
    )


def signed(form: str) -> str:
    """The format of a change of what has this format: '{:+.3f}' for '{:.3f}'."""
    return form.replace("{:", "{:+")


def _label(metric: Metric, short: str) -> str:
    direction = f", {metric.better} is better" if metric.better else ""
    return f"{metric.label} ({short}{direction})"
