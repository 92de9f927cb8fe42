"""evaluation.json: what was measured on a test set, and its rows as page and model card show them."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import atomic, records
from pipeline.evaluation.metrics import METRICS, Estimate, Metric

FILE = "evaluation.json"
SETS = ("adapted", "base", "reference")
ANY_NUMBER = "{:.4g}"  # of a metric that is in a file and not in the table


@dataclass(frozen=True)
class Evaluation:
    """The estimates of each set of pictures."""

    n: int  # captions
    extractors: dict[str, str]  # "features" and "encoder": their names
    sets: dict[str, dict[str, Estimate]]  # of SETS, by the name of the metric

    def write(self, folder: Path) -> None:
        """Write evaluation.json."""
        atomic.write_text(folder / FILE, json.dumps(records.to_json(self), indent=2, allow_nan=False) + "\n")

    def found(self, name: str, metric: str) -> Estimate | None:
        """The estimate of a metric on a set, where there is one."""
        return self.sets.get(name, {}).get(metric)


@dataclass(frozen=True)
class Row:
    """A metric as people read it; a cell is empty where the metric was not measured on that set."""

    label: str
    short: str
    base: str
    adapted: str
    reference: str
    n: int
    extractor: str | None


def read(folder: Path) -> Evaluation | None:
    """What was measured, None where nothing was. Raises CheckpointError for a file that is damaged."""
    return records.read(Evaluation, folder / FILE) if (folder / FILE).is_file() else None


def rows(evaluation: Evaluation) -> list[Row]:
    """Every metric there is an estimate of: those of the table in its order, then others as they are called."""
    there = dict.fromkeys(name for which in SETS for name in evaluation.sets.get(which, {}))
    names = [*(name for name in METRICS if name in there), *(name for name in there if name not in METRICS)]
    return [_row(evaluation, name) for name in names]


def measured_by(evaluation: Evaluation) -> str:
    """Which extractor which metrics rest on: 'KID, top-1: starter-judge; CLIP margin: starter-clip'."""
    by_extractor: dict[str, list[str]] = {}
    for row in rows(evaluation):
        if row.extractor is not None:
            by_extractor.setdefault(row.extractor, []).append(row.short)
    return "; ".join(f"{', '.join(names)}: {extractor}" for extractor, names in by_extractor.items())


def _row(evaluation: Evaluation, name: str) -> Row:
    metric = METRICS.get(name)
    form = metric.form if metric else ANY_NUMBER
    there = {which: found for which in SETS if (found := evaluation.found(which, name)) is not None}
    cells = {which: found.text(form) for which, found in there.items()}
    one = next(iter(there.values()))
    return Row(
        label=_label(metric) if metric else name,
        short=metric.short if metric else name,
        base=cells.get("base", ""),
        adapted=cells.get("adapted", ""),
        reference=cells.get("reference", metric.of_reference if metric else ""),
        n=one.n,
        extractor=one.extractor,
    )


def _label(metric: Metric) -> str:
    direction = f", {metric.better} is better" if metric.better else ""
    return f"{metric.label} ({metric.short}{direction})"
