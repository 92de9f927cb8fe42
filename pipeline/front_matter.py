"""YAML between two lines of --- at the top of a Markdown file, as cards on the Hub have it."""

import re
from pathlib import Path
from typing import Any

FRONT = re.compile(r"\s*---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)


def has_front_matter(path: Path) -> bool:
    """Whether a file is there and begins with front matter."""
    return path.is_file() and bool(FRONT.match(path.read_text(encoding="utf-8-sig", errors="replace")))


def fields_or_nothing(path: Path) -> dict[str, Any]:
    """The fields of somebody else's card; empty where there is no card or it cannot be parsed."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
        match = FRONT.match(text)
        loaded = yaml.safe_load(match[1]) if match else None
    except Exception:  # YAML raises many kinds, among them ValueError for a date of February 30
        return {}
    return {str(name): value for name, value in loaded.items()} if isinstance(loaded, dict) else {}
