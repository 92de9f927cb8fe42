"""The verbs that draw with an adapter and measure it: how good it is, what it copied or lost, whom it treats worse."""

from pathlib import Path

from pipeline.commands.evaluation.options import DrawOptions, EvaluateOptions, ForgettingOptions
from pipeline.commands.fairness.options import FairnessOptions
from pipeline.commands.frontier.options import FrontierOptions


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

    options = DrawOptions(
        num_images=num_images,
        seed=seed,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        size=size,
        to=to,
    )
    comparing.compare(adapters, options, prompts=prompts, scales=scale or [1.0], checkpoints=checkpoints)


def frontier(output_dir: Path, *, options: FrontierOptions | None = None, json: bool = False) -> None:
    """Trace how well pictures follow captions against how much they differ, over guidance and strength of the adapter.

    Draws the same captions with the same seeds in many ways, drops those that others beat in both, and names three to
    take. Stopped at any time, it goes on. With several devices: accelerate launch -m pipeline frontier ...

    Example: python -m pipeline frontier outputs/demo
    Example: python -m pipeline frontier outputs/mine --captions prompts.txt --method cfg --checkpoints

    Parameters
    ----------
    output_dir
        The output folder of a run, one of its checkpoints, or a .safetensors file with --base.
    json
        The numbers for programs.
    """
    from pipeline.commands.frontier import frontier as tracing

    tracing.trace(output_dir, options or FrontierOptions(), as_json=json)


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


def forgetting(adapter: Path, *, options: ForgettingOptions | None = None, json: bool = False) -> None:
    """Say what an adapter does to captions that it was not trained for: how far pictures and predictions move.

    Example: python -m pipeline forgetting outputs/demo

    Parameters
    ----------
    adapter
        The output folder of a run, one of its checkpoints, or a .safetensors file with --base.
    json
        The numbers for programs.
    """
    from pipeline.commands import forgetting as looking

    looking.look(adapter, options or ForgettingOptions(), as_json=json)


def fairness(output_dir: Path, *, options: FairnessOptions | None = None, json: bool = False) -> None:
    """Say which groups of pictures a run treats worse, and which it draws where none is asked for.

    Groups are the values of a metadata column, or of a slot of a template. Base and adapter are measured alike. Stopped
    at any time, the same command goes on.

    Example: python -m pipeline fairness outputs/mine --column size --neutral prompts.txt
    Example: python -m pipeline fairness outputs/mine --template "a {size} cat" --values size=big,small --num_images 12

    Parameters
    ----------
    output_dir
        The output folder of a run, or one of its checkpoints.
    json
        The numbers for programs.
    """
    from pipeline.commands.fairness import fairness as measuring

    measuring.measure(output_dir, options or FairnessOptions(), as_json=json)
