"""The numbers of groups as text, as page, terminal and model card show them."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.fairness.measuring import Parity
from pipeline.evaluation.fairness.record import Fairness
from pipeline.evaluation.fairness.representation import Shares
from pipeline.evaluation.results import signed
from pipeline.evaluation.statistics import Interval

GAP = "gap: best to worst"
UNREAD = "no group, or several"
GROUP_TITLES = {"trained": "training data", "captions": "captions drawn"}


def groups(found: Fairness) -> list[dict[str, str]]:
    """How many pictures of each group were trained on, and how many captions of it were drawn."""
    of_training = found.trained
    return [
        {
            "name": name,
            "trained": "not known" if of_training is None else f"{group.num_trained} ({of_training[name]:.0%})",
            "captions": str(group.num_captions) if group.num_captions else f"none; there are {group.num_given}",
        }
        for name, group in found.groups.items()
    ]


def tables(found: Fairness) -> list[dict[str, Any]]:
    """A table for each measure, the captions' first."""
    return [table(one) for one in found.parities]


def table(one: Parity) -> dict[str, Any]:
    """A measure: a row for each group, and the gap last."""
    about, sides = one.about, {"base": one.base, "adapted": one.adapted, "change": one.change}
    sides |= {"reference": one.reference} if one.reference is not None else {}
    forms = {which: signed(about.form) if which == "change" else about.form for which in sides}

    def row(name: str, values: Mapping[str, Interval], kind: str = "") -> dict[str, str]:
        return {"name": name, "kind": kind, **{which: values[which].text(forms[which]) for which in sides}}

    worst = one.adapted.worst if one.adapted.gap.low > 0 else None
    rows = [
        row(name, {which: side.groups[name] for which, side in sides.items()}, "worst" if name == worst else "")
        for name in one.adapted.groups
    ]
    gaps = {which: side.gap for which, side in sides.items()}
    titles = {"base": "base", "adapted": "adapter", "change": "change", "reference": "true pictures"}
    return {
        "label": f"{about.label}, {about.better if about.better == 'lower' else 'higher'} is better",
        "by": f"{about.short}, {one.extractor}",
        "blind": about.blind,
        "of_caption": about.of_caption,
        "columns": {which: titles[which] for which in sides},
        "rows": [*rows, row(GAP, gaps, "gap")],
    }


def shares(found: Fairness) -> dict[str, Any] | None:
    """The shares of each group where none is asked for; None where that was not measured."""
    about = found.representation
    if about is None:
        return None
    rows = [
        {
            "name": name,
            "base": _share(about.base, name),
            "adapted": _share(about.adapted, name),
            "wanted": f"{part:.0%}",
        }
        for name, part in about.target.items()
    ]
    unread = {
        which: f"{one.num_unread} of {about.n}" for which, one in (("base", about.base), ("adapted", about.adapted))
    }
    rows.append({"name": UNREAD, **unread, "wanted": ""})
    text = ""
    before, now = about.base.distance, about.adapted.distance
    if before is not None and now is not None and about.change is not None:
        wanted = "equal shares" if about.target_name == "uniform" else "the shares of the training data"
        text = (
            f"Pictures that would have to change groups for {wanted}: {before.text('{:.0%}')} without "
            f"the adapter, {now.text('{:.0%}')} with it, a change of {about.change.text('{:+.0%}')}. "
            f"(Total variation. It is never below 0, so chance alone would give {about.by_chance:.1%} on average.)"
        )
    return {"by": about.reader, "rows": rows, "text": text, "prompts": about.prompts, "n": about.n}


def _share(one: Shares, name: str) -> str:
    return one.groups[name].text("{:.0%}") if one.groups else "-"
