"""Shapes are checked, wherever a module states them: imported by conftest.py before anything of `pipeline` is.

What states none has types alone, and those mypy proves; checking them again in each call was a quarter of what tests
take that call functions.
"""

import re
from pathlib import Path

from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent


def stating_shapes() -> list[str]:
    """The modules of `pipeline` with shapes in their signatures."""
    files = [path.relative_to(ROOT) for path in sorted((ROOT / "pipeline").rglob("*.py"))]
    stating = [path for path in files if re.search(r"^from jaxtyping import", (ROOT / path).read_text("utf-8"), re.M)]
    return [".".join(path.with_suffix("").parts) for path in stating]


install_import_hook(stating_shapes(), "beartype.beartype")
