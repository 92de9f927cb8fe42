"""The verbs of runs: train one, draw with it, make its page again, share it, measure the trainer."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipeline import console
from pipeline.commands.evaluation.options import EvaluateOptions
from pipeline.commands.fairness.options import FairnessOptions


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
    scale: float = 1.0,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    size: str | None = None,
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
    scale
        Scale of the adapter: 0 is the base model, 1 what was trained.
    guidance_scale
        Classifier-free guidance. Not given: the run's.
    num_inference_steps
        Sampling steps. Not given: the run's.
    size
        Width and height of the pictures, as in 832x1216. Not given: that of the run's previews.
    to
        Folder for the pictures, which must not exist yet. Not given: OUTPUT_DIR/drawn.
    """
    from pipeline.commands import sample as sampling

    sampling.sample(
        output_dir,
        prompts=prompt,
        seed=seed,
        num_images=num_images,
        scale=scale,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        size=size,
        to=to or output_dir / "drawn",
    )


def evaluate(adapter: Path | None = None, *, options: EvaluateOptions | None = None, json: bool = False) -> None:
    """Draw captions with an adapter and its base, and measure: distance to true pictures, adherence, diversity.

    A run is measured on its test set or what it held out. Stopped at any time, the same command goes on. With several
    devices: accelerate launch -m pipeline evaluate ...

    Example: python -m pipeline evaluate outputs/demo --num_images 4

    Parameters
    ----------
    adapter
        The output folder of a run, a checkpoint, or with --base any adapter file; left out, the base alone is measured.
    json
        The numbers for programs.
    """
    from pipeline.commands.evaluation import evaluate as evaluating

    evaluating.evaluate(adapter, options or EvaluateOptions(), as_json=json)


def compare(
    adapters: list[Path],
    *,
    prompts: Path,
    scale: list[float] | None = None,
    checkpoints: bool = False,
    num_images: int = 1,
    seed: int = 0,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    size: str | None = None,
    to: Path | None = None,
) -> None:
    """Draw a grid: the same prompts and seeds with the base and with adapters, checkpoints and scales, on one page.

    Example: python -m pipeline compare outputs/demo --prompts prompts.txt --scale 0.5 --scale 1 --checkpoints

    Parameters
    ----------
    adapters
        Output folders of runs on one base model, or checkpoints.
    prompts
        A text file with a prompt in each line.
    scale
        Scale of the adapters; may be given several times. Not given: 1.
    checkpoints
        Every checkpoint of the runs too, the earliest first.
    num_images
        Pictures of each prompt.
    seed
        Seed of the first picture of each prompt; the next ones count up from it.
    guidance_scale
        Classifier-free guidance. Not given: the first run's.
    num_inference_steps
        Sampling steps. Not given: the first run's.
    size
        Width and height, as in 832x1216. Not given: that of the first run's previews.
    to
        Folder for pictures and page. Not given: compare, in the first folder.
    """
    from pipeline.commands import compare as comparing

    options = EvaluateOptions(
        num_images=num_images,
        seed=seed,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        size=size,
        to=to,
    )
    comparing.compare(adapters, options, prompts=prompts, scales=scale or [1.0], checkpoints=checkpoints)


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


def memorisation(
    output_dir: Path,
    *,
    limit: int = 120,
    num_images: int = 2,
    extractor: str | None = None,
    to: Path | None = None,
    json: bool = False,
) -> None:
    """Say whether a run learnt its training pictures by heart: losses and drawings against those it held out.

    Example: python -m pipeline memorisation outputs/demo

    Parameters
    ----------
    output_dir
        The output folder of a run that held images out, or one of its checkpoints; the data must be as they were.
    limit
        Pictures of each side at most.
    num_images
        Drawings of each caption.
    extractor
        What compares pictures, as in evaluate. Not given: photographs.
    to
        Folder for pictures, numbers and page. Not given: OUTPUT_DIR/memorisation.
    json
        The numbers for programs.
    """
    from pipeline.commands import memorisation as looking

    looking.look(output_dir, limit=limit, num_images=num_images, extractor=extractor, to=to, as_json=json)


def fairness(output_dir: Path, *, options: FairnessOptions | None = None, json: bool = False) -> None:
    """Say which groups of pictures a run treats worse, and which it draws where none is asked for.

    Groups are the values of a metadata column, or of a slot of a template. Base and adapter are measured alike. Stopped
    at any time, the same command goes on.

    Example: python -m pipeline fairness outputs/mine --column size --neutral prompts.txt
    Example: python -m pipeline fairness outputs/mine --template "a {size} fox" --values size=small,large --by size

    Parameters
    ----------
    output_dir
        The output folder of a run, or one of its checkpoints.
    json
        The numbers for programs.
    """
    from pipeline.commands.fairness import fairness as measuring

    measuring.measure(output_dir, options or FairnessOptions(), as_json=json)


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


def bench(kind: Literal["cpu", "data"], *, rounds: int = 3, to: Path | None = None) -> None:
    """Measure this trainer: against a plain loop of diffusers' pieces, or what datasets cost. CPU seconds.

    Example: python -m pipeline bench cpu --to docs/benchmarks.md

    Parameters
    ----------
    kind
        What to measure: cpu (against the plain loop) or data (reading, cache and loader for 1,000 to 100,000 pictures;
        without pictures a listing of a million and an order of a hundred million).
    rounds
        For cpu: how often both are run in turn; a round takes about two minutes.
    to
        File for the page. Not given: the terminal.
    """
    from pipeline import atomic
    from pipeline.bench import cpu, data, data_many, data_table, table

    if kind == "cpu":
        page = table.page(cpu.compare(rounds))
    else:
        many = data_many.simulate(data_many.ROWS, data_many.PLACES)
        page = data_table.page(data.compare(data.NUMBERS), many)
    if to is not None:
        atomic.write_text(to, page)
    console.say(page if to is None else f"Page  {to}")
