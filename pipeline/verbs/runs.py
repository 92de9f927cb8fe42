"""The verbs of runs: train one, draw with it, make its page again, share it, measure the trainer."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipeline import console
from pipeline.bench.options import BenchOptions, Kind
from pipeline.commands.guidance import GuidanceFlags


def train(*flags: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Train, with the flags of train_lora.py; `train --help` shows them.

    Example: t2i-lora train --pretrained_model_name_or_path user/model --train_data_dir photos
    """


def sample(
    output_dir: Path,
    *,
    prompt: list[str],
    seed: int = 0,
    num_images: int = 1,
    wish: Literal["faithful", "balanced", "diverse"] | None = None,
    scale: float | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    size: str | None = None,
    guidance: GuidanceFlags | None = None,
    weaker: Path | None = None,
    to: Path | None = None,
) -> None:
    """Draw pictures with a trained adapter, beside those of the base.

    Example: python -m pipeline sample outputs/demo --prompt "a large fox on a blue background" --num_images 4

    Parameters
    ----------
    output_dir
        The output folder of a run, or one of its checkpoints.
    prompt
        What to draw; may be given several times.
    seed
        Seed of the first picture of each prompt; the next ones count up from it.
    num_images
        Pictures per prompt.
    wish
        Guidance, steps and scale as `frontier` found them: faithful to captions, diverse, or between.
    scale
        Scale of the adapter: 0 is the base model, 1 what was trained. Not given: 1.
    guidance_scale
        How far guidance leads. Not given: the run's, where that leads away from the same.
    num_inference_steps
        Sampling steps. Not given: the run's.
    size
        Width and height of the pictures, as in 832x1216. Not given: that of the run's previews.
    weaker
        For --guidance_against base: an earlier checkpoint to lead away from in its place.
    to
        Folder for the pictures, which must not exist yet. Not given: a new OUTPUT_DIR/drawn, of a checkpoint beside it.
    """
    from pipeline.commands import sample as sampling

    sampling.sample(
        output_dir,
        prompts=prompt,
        seed=seed,
        num_images=num_images,
        wish=wish,
        scale=scale,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        size=size,
        guidance=guidance or GuidanceFlags(),
        weaker=weaker,
        to=to,
    )


def report(output_dir: Path) -> None:
    """Make the page of a finished run again from what lies in its folder.

    Example: python -m pipeline report outputs/demo

    Parameters
    ----------
    output_dir
        The output folder of a finished run.
    """
    from pipeline.report import page

    console.say(f"Report  {page.write(output_dir)}")


def suspects(output_dir: Path, *, limit: int = 20, page: Path | None = None, json: bool = False) -> None:
    """Say which captions of a finished run help its pictures least: where those lie that are wrong.

    Example: python -m pipeline suspects outputs/demo --page suspects.html

    Parameters
    ----------
    output_dir
        The output folder of a finished run; its data must be as they were.
    limit
        How many to show.
    page
        File for a page with the pictures.
    json
        All pictures with their numbers, for programs.
    """
    from pipeline.commands import suspects as finding

    finding.suspects(output_dir, limit=limit, page=page, as_json=json)


def publish(
    output_dir: Path, *, repo: str | None = None, token: str | None = None, allow_undocumented_data: str | None = None
) -> None:
    """Share the adapter of a finished run on the Hub, in one commit: adapter, card, settings and the card's pictures.

    Example: python -m pipeline publish outputs/demo --repo user/stickers

    Parameters
    ----------
    output_dir
        The output folder of a finished run.
    repo
        Repository on the Hub, user/name. Not given: the folder's name, under your account.
    token
        Token of the Hub. Not given: that of HF_TOKEN or `hf auth login`.
    allow_undocumented_data
        Why data without a card may be shared; the reason is shown.
    """
    from pipeline.sharing import publish as sharing

    for line in sharing.publish(output_dir, repo, token, allow_undocumented_data):
        console.say(line)


def bench(kind: Kind, *, options: BenchOptions | None = None) -> None:
    """Measure this trainer: a table at the terminal, and with --to a file of JSON.

    Examples: python -m pipeline bench cpu --to docs/benchmarks; python -m pipeline bench gpu --model sd15 --batch 1

    Parameters
    ----------
    kind
        What to measure: cpu (against diffusers' script or a loop that restates it), gpu (steps at published sizes, with
        random weights), data (reading, cache and loader), scaling (several processes), profile (ten steps, as a trace).
    """
    from pipeline.bench import measuring

    measuring.measure(kind, options or BenchOptions())
