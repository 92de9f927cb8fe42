"""Pictures of a report as people see it, on a desk and on a phone: python docs/make_screenshots.py outputs/demo.

Needs Chromium. They go to docs/report-desktop.png and docs/report-phone.png, at most 300 kB each.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SIZES = {"desktop": (1280, 2600), "phone": (390, 2600)}  # CSS pixels
MAX_BYTES = 300_000


def main(folder: Path) -> None:
    """Photograph FOLDER/report.html."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not (folder / "report.html").is_file():
        sys.exit(f"{folder} holds no report.html: run make demo first.")
    if browser is None:
        sys.exit("No Chromium on the PATH: the pictures of the page need one.")
    for name, (width, height) in SIZES.items():
        target = Path(__file__).parent / f"report-{name}.png"
        with tempfile.TemporaryDirectory() as scratch:
            # A window cannot be as narrow as a phone: the page is shown in a frame of that width.
            frame, shot = Path(scratch, "frame.html"), Path(scratch, "shot.png")
            page = (folder / "report.html").resolve().as_uri()
            frame.write_text(
                f'<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px">',
                encoding="utf-8",
            )
            subprocess.run(
                [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--allow-file-access-from-files", f"--window-size={max(width, 600)},{height}",
                 f"--screenshot={shot}", frame.as_uri()],
                check=True, capture_output=True,
            )  # fmt: skip
            Image.open(shot).convert("RGB").crop((0, 0, width, height)).quantize(128).save(target, optimize=True)
        size = target.stat().st_size
        if size > MAX_BYTES:
            sys.exit(f"{target} has {size} bytes, more than {MAX_BYTES}.")
        sys.stdout.write(f"{target}  {size // 1000} kB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
