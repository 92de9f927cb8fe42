"""Write docs/benchmarks.md and docs/benchmarks-data.md from the JSON files in docs/benchmarks.

python docs/make_benchmarks.py          write them
python docs/make_benchmarks.py --check  fail if one is out of date
"""

import sys
from pathlib import Path

from pipeline.bench import data_table, page, results

HERE = Path(__file__).parent


def pages() -> dict[Path, str]:
    """The text of each page."""
    found = results.read_all(HERE / "benchmarks")
    (of_data,) = [one for one in found if one.bench == "data"]
    return {HERE / "benchmarks.md": page.page(found), HERE / "benchmarks-data.md": data_table.page(of_data)}


if __name__ == "__main__":
    if "--check" in sys.argv:
        stale = [path.name for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"{', '.join(stale)} out of date: make docs" if stale else 0)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
