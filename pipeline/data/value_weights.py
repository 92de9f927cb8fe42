"""What single values of a column count, as --weight_values says it: ink=2,photo=0.5."""

import math


def parsed(text: str) -> dict[str, float]:
    """The weights by value. Raises ValueError that names everything that is wrong."""
    found: dict[str, float] = {}
    problems = []
    for part in text.split(","):
        name, equals, number = part.partition("=")
        name, weight = " ".join(name.split()), _number(number)
        if not (name and equals) or "=" in number:
            problems.append(f"{part.strip()!r} is no value=number, as in ink=2,photo=0.5 (no commas or = in a value)")
        elif weight is None:
            problems.append(f"what {name!r} counts must be a finite number above 0, and is {number.strip()!r}")
        elif name in found:
            problems.append(f"{name!r} is given twice")
        else:
            found[name] = weight
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
