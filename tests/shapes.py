"""Shapes are checked, wherever a function states them: imported by conftest.py before anything of `pipeline` is.

What states none has types alone, and those mypy proves; checking them again in each call was a quarter of what tests
take that call functions, and a sixth of a short run.
"""

import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping

ROOT = Path(__file__).parent.parent
checked = jaxtyping.jaxtyped


def stating_shapes() -> list[str]:
    """The modules of `pipeline` with shapes in their signatures."""
    files = [path.relative_to(ROOT) for path in sorted((ROOT / "pipeline").rglob("*.py"))]
    stating = [path for path in files if re.search(r"^from jaxtyping import", (ROOT / path).read_text("utf-8"), re.M)]
    return [".".join(path.with_suffix("").parts) for path in stating]


def states_one(hint: Any) -> bool:
    """Whether there is a shape in an annotation, or may be in one that is a string."""
    return isinstance(hint, str) or hasattr(hint, "dim_str") or any(map(states_one, typing.get_args(hint)))


def _checked_where_stated(*, typechecker: Any) -> Callable[[Any], Any]:
    """What the import hook puts before each function and class of these modules."""

    def decorated(thing: Any) -> Any:
        hints = vars(thing).get("__annotations__", {}) if isinstance(thing, type) else thing.__annotations__
        return checked(typechecker=typechecker)(thing) if any(map(states_one, hints.values())) else thing

    return decorated


jaxtyping.jaxtyped = _checked_where_stated
jaxtyping.install_import_hook(stating_shapes(), "beartype.beartype")
