"""Write docs/starter.md: how the starter base was trained and what it can do, from its logs and measured figures.

python -m pipeline.starter.measure                         writes docs/starter.json and docs/starter.png
python docs/make_starter.py --work outputs/starter         copies the logs of a build, draws the curves
python docs/make_starter.py --demo outputs/demo            copies what `make demo` measured
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.evaluation import looking, results
from pipeline.evaluation.extractors import photographs
from pipeline.report import charts
from pipeline.starter import judge

DOCS = Path(__file__).parent
STAGES = {
    "clip": ("accuracy", "contrastive CLIP: share of captions matched in the batch"),
    "autoencoder": ("psnr", "autoencoder: PSNR of the training batch, dB"),
    "denoiser": ("loss", "denoiser: squared error of v"),
    "judge": ("concept_accuracy", "judge: concepts named right in the training batch"),
}
STYLE = (
    "<style>text{font:12px sans-serif;fill:#5b6478}.grid{stroke:#e3e6ee}"
    ".faint{stroke:#0f8fa8;opacity:.3}.bold{stroke:#0f8fa8;stroke-width:2.5}</style>"
)


def main() -> None:
    """Copy the logs if a build folder is given, then write curves and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of pipeline.starter.build, whose logs are to be kept")
    parser.add_argument("--demo", type=Path, help="output folder of `make demo`, whose evaluation.json is to be kept")
    arguments = parser.parse_args()
    logs = DOCS / "starter"
    logs.mkdir(exist_ok=True)
    if arguments.demo:
        shutil.copyfile(arguments.demo / results.FILE, logs / results.FILE)
    for stage, (key, _) in STAGES.items():
        if arguments.work:
            copy_log(arguments.work / f"{stage}.jsonl", logs / f"{stage}.jsonl")
        rows = [json.loads(line) for line in (logs / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]
        drawn = charts.curve([row["step"] for row in rows], [row[key] for row in rows], stage)
        svg = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{STYLE}", 1)
        (logs / f"{stage}.svg").write_text(svg + "\n", encoding="utf-8")
    (DOCS / "starter.md").write_text(page(), encoding="utf-8")


def copy_log(source: Path, target: Path) -> None:
    """Keep the log of a stage; the log of a part that a warm start took over stays as it is."""
    if source.is_file():
        shutil.copyfile(source, target)


def page() -> str:
    """The page, from docs/starter.json."""
    found = json.loads((DOCS / "starter.json").read_text(encoding="utf-8"))
    drawn, real = found["drawn"], found["real renders"]
    seen = {name: value for name, value in found["photographs"].items() if name != "judge"}
    lines = [
        "# The starter base model",
        "",
        "A small Stable Diffusion, trained from nothing on scenes of colour emoji; made so that `make demo` has a",
        "real pretrained model to adapt where nothing can be downloaded. `make starter DEVICE=cuda` rebuilds it in",
        "minutes of a large GPU, `make starter` on a CPU in many hours.",
        "",
        "![what it draws, on combinations held out of all training](starter.png)",
        "",
        "## What it can do",
        "",
        "Prompts are combinations of thing, count, size and background held out of all training, seeds are used for",
        f"nothing else, guidance {found['guidance']['chosen']} was chosen on other prompts. The judge of this table is",
        "a network that this project trained on renders only; its own accuracy on real renders of those scenes is the",
        "right column, the ceiling. Values with their 95 % (Wilson) interval, by `python -m pipeline.starter.measure`.",
        "",
        "| | drawn by the model | real renders |",
        "|---|---|---|",
        *(f"| {name} | {value} | {real[name]} |" for name, value in drawn.items()),
        "",
        f"A second judge: {found['photographs']['judge']}.",
        "It sees texture where the first sees things, and nothing here was ever trained on it.",
        "",
        "| | KID to them | own truth is the nearest |",
        "|---|---|---|",
        *(f"| {name} | {value['KID']} | {value['own truth nearest']} |" for name, value in seen.items()),
        "",
        "Autoencoder, mean PSNR on held-out pictures: "
        + ", ".join(f"{name} {value} dB" for name, value in found["autoencoder"].items())
        + ".",
        "",
        "![pictures above what the autoencoder makes of them: renders, style, broad set](starter-autoencoder.png)",
        "",
        "Guidance sweep (concept top-1, top-5): "
        + "; ".join(
            f"{scale}: {rows['concept top-1']}, {rows['concept top-5']}"
            for scale, rows in found["guidance"].items()
            if scale != "chosen"
        )
        + ".",
        "",
        "## What was wanted of it",
        "",
        "Set before it was trained. The demo's rows are from `make demo`, on its 240 test captions.",
        "",
        "| | wanted | reached |",
        "|---|---|---|",
        *(f"| {what} | {goal} | {value} |" for what, goal, value in [*of_base(found), *of_demo()]),
        "",
        "The last row is missed: twice the base's share is what the base reaches of plain renders of these very",
        "scenes, in the style that it was trained on ([decisions.md](decisions.md), 2026-11-29).",
        "",
        "## How it was trained",
        "",
        "Contrastive CLIP, whose text tower was then frozen; the autoencoder, begun as a linear codec, on pictures far",
        "broader than the renders; the denoiser last, a tenth of its captions dropped, averaged weights kept.",
        "Autoencoder, denoiser, vision tower and judge are from 13 minutes of one H200, text tower and tokenizer from",
        "before; the denoiser then went on for three minutes of an H100, half the batch (the curve's second part).",
        "Logs lie in [starter/](starter/); [decisions.md](decisions.md) has the trials and what went wrong.",
        "",
    ]
    for stage, (_, title) in STAGES.items():
        lines += [f"{title}", "", f"![{title}](starter/{stage}.svg)", ""]
    return "\n".join(lines)


def of_base(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What was wanted of the base alone, and what docs/starter.json says."""
    seen, drawn = found["photographs"], found["drawn"]
    for true in ("renders", "starter style"):
        through = seen[f"{true} through the autoencoder, from themselves"]
        yield f"{true} through the autoencoder, KID by the second judge", "<= 0.10", through["KID"]
        yield f"{true} through the autoencoder, own truth nearest", ">= 95%", through["own truth nearest"]
    for which, goals in (("", (90, 97)), (", small things alone", (75, 90))):
        for guesses, goal in zip((1, 5), goals, strict=True):
            yield f"concept top-{guesses}{which}", f">= {goal}%", drawn[f"concept top-{guesses}{which}"]


def of_demo() -> Iterator[tuple[str, str, str]]:
    """What was wanted of the demo, and what it measured."""
    measured = results.read(DOCS / "starter")
    assert measured is not None, "run with --demo first"

    def of(name: str, metric: str, extractor: str) -> Any:
        estimate = measured.found(name, metric, extractor)
        assert estimate is not None, (name, metric, extractor)
        return estimate

    adapted, base = (of(name, "kid", photographs.NAME) for name in (looking.ADAPTED, looking.BASE))
    reached = f"{adapted.high / base.low:.0%} ({adapted.high:.3f} of {base.low:.3f})"
    yield "demo: KID by the second judge, upper end with the adapter of the base's lower", "<= 50%", reached
    top1, of_truth = (of(name, "top1", judge.NAME) for name in (looking.ADAPTED, looking.REFERENCE))
    reached = f"{top1.value / of_truth.value:.0%} ({top1.value:.0%} of {of_truth.value:.0%}, n = {top1.n})"
    yield "demo: concept top-1 with the adapter, of the true stickers' own", ">= 80%", reached
    ours, theirs = (of(name, "own_nearest", photographs.NAME) for name in (looking.ADAPTED, looking.BASE))
    reached = f"{ours.value / theirs.value:.1f} times ({ours.value:.0%} and {theirs.value:.0%}, n = {ours.n})"
    yield "demo: own truth nearest by the second judge, with the adapter and of the base", ">= 2 times", reached


if __name__ == "__main__":
    main()
