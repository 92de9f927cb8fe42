"""The page of an audit, one self-contained file: what was found, the gravest first, with pictures and what to do."""

import base64
import collections
import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.audit.audit import Audit
from pipeline.audit.findings import MEANINGS, Finding
from pipeline.audit.of_class import ClassAudit
from pipeline.data.groups import Balance
from pipeline.data.manifest import Example, Manifest
from pipeline.report.rendering import template

MAX_CASES, MAX_PICTURES = 24, 3  # of a finding, and of a case
THUMBNAIL = 220  # pixels
MAX_VALUES = 12  # of a column


def write(found: Audit, path: Path) -> Path:
    """Make the page."""
    atomic.write_text(path, template("data.html").render(**content(found)))
    return path


def content(found: Audit) -> dict[str, Any]:
    """Everything the page says."""
    return {
        "name": found.origin,
        "headline": headline(found),
        "numbers": [(f"{value:g}", name) for name, value in found.numbers().items()],
        "sizes": _bars(found.sizes),
        "tokens": _bars(found.tokens.bars) if found.tokens is not None else [],
        "tokens_text": found.tokens.text if found.tokens is not None else "",
        "columns": [
            {"name": column.name, "evenness": f"{column.evenness:.2f}", "bars": _bars(column.counts)}
            for column in found.columns
        ],
        "balance": balance_content(found.balance) if found.balance is not None else None,
        "findings": findings_in(found.findings, found.manifest),
        "of_class": class_content(found.of_class) if found.of_class is not None else None,
    }


def balance_content(found: Balance) -> dict[str, Any]:
    """How uneven the groups of --balance are, and what their pictures would count."""
    total, counts = sum(found.counts.values()), dict(collections.Counter(found.counts).most_common())
    bars = _bars(counts)
    for row in bars:
        each = f", each counts {found.weights[row['name']]:.3g}" if row["name"] in found.weights else ""
        row["number"] = f"{row['number']} ({row['number'] / total:.0%}){each}"
    return {"column": found.column, "bars": bars, "text": found.text()}


def class_content(found: ClassAudit) -> dict[str, Any]:
    """What the page says of the pictures of a class."""
    whole = found.pictures.found.manifest if found.pictures.found is not None else None
    return {
        "numbers": [(str(value), name) for name, value in found.numbers().items()],
        "sizes": _bars(found.sizes),
        "findings": findings_in(found.findings, whole),
    }


def findings_in(findings: Iterable[Finding], manifest: Manifest | None) -> list[dict[str, Any]]:
    """Findings about the pictures of a manifest, with these."""
    examples = {e.name: e for e in manifest.examples} if manifest is not None else {}

    @functools.cache
    def thumbnail(name: str) -> str:
        return thumbnail_of(examples[name])

    def cases_of(one: Finding) -> list[dict[str, Any]]:
        shown = [(case, [name for name in case.examples if name in examples]) for case in one.cases[:MAX_CASES]]
        return [{"text": case.text, "pictures": list(map(thumbnail, names[:MAX_PICTURES]))} for case, names in shown]

    return [
        {"one": one, "meaning": MEANINGS[one.weight], "cases": cases_of(one), "more": len(one.cases) - MAX_CASES}
        for one in findings
    ]


def headline(found: Audit) -> str:
    """One sentence for somebody who reads no further."""
    numbers = {weight: [one.weight for one in found.all_findings].count(weight) for weight in MEANINGS}
    pictures = found.numbers()["pictures"]
    if numbers["error"]:
        kinds = "one kind" if numbers["error"] == 1 else f"{numbers['error']} kinds"
        return f"Training refuses this dataset for {kinds} of mistakes, in {found.num_errors} places."
    if numbers["warning"]:
        kinds = "One thing" if numbers["warning"] == 1 else f"{numbers['warning']} things"
        return f"{pictures:g} pictures can be trained on. {kinds} will be seen in what is learnt."
    return f"{pictures:g} pictures can be trained on, and nothing was found that speaks against it."


def thumbnail_of(example: Example) -> str:
    """A picture of the dataset as a data URL, small."""
    picture = example.picture()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _bars(counts: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of a bar chart: a name, a number, and its length in percent of the longest."""
    most = max(counts.values(), default=1)
    rows: list[dict[str, Any]] = [
        {"name": n, "number": count, "length": f"{100 * count / most:.1f}"} for n, count in counts.items()
    ]
    rest = rows[MAX_VALUES:]
    if rest:
        together = {"name": f"{len(rest)} more", "number": sum(row["number"] for row in rest), "length": "0"}
        rows = [*rows[:MAX_VALUES], together]
    return rows
