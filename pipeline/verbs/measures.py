"""The verbs that measure what an adapter does beside what it was trained for."""

from pathlib import Path

from pipeline.commands.evaluation.options import EvaluateOptions


def forgetting(
    adapter: Path,
    *,
    base: str | None = None,
    captions: Path | None = None,
    limit: int | None = None,
    num_images: int = 2,
    seed: int = 0,
    scale: float = 1.0,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    size: str | None = None,
    extractor: list[str] | None = None,
    captioner: str | None = None,
    to: Path | None = None,
    json: bool = False,
) -> None:
    """What an adapter does to captions that it was not trained for: how far pictures and predictions move.

    Example: python -m pipeline forgetting outputs/demo

    Parameters
    ----------
    adapter
        The output folder of a run, one of its checkpoints, or a .safetensors file with --base.
    base
        Folder, file or Hub id of the base model, where no run names it.
    captions
        A text file with a caption in each line. Not given: those that the base's card names, else a list of ours.
    limit
        Captions at most, spread over all. Not given: 60.
    num_images
        Pictures of each caption, from 2 on: the second shows what another seed does.
    seed
        Added to all seeds.
    scale
        Scale of the adapter.
    guidance_scale
        Classifier-free guidance. Not given: the run's, else the default of the model's pipeline.
    num_inference_steps
        Sampling steps. Not given: the run's, else 25.
    size
        Width and height, as in 832x1216. Not given: that of the run's previews, else the model's own.
    extractor
        What looks at the pictures, as for evaluate; the last that is named says how far they moved.
    captioner
        An image-to-text model, as for evaluate.
    to
        Folder for pictures, numbers and page. Not given: ADAPTER/forgetting.
    json
        The numbers for programs.
    """
    from pipeline.commands import forgetting as looking

    options = EvaluateOptions(
        base=base,
        captions=captions,
        limit=limit,
        num_images=num_images,
        seed=seed,
        scale=scale,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        size=size,
        extractor=extractor,
        captioner=captioner,
        to=to,
    )
    looking.look(adapter, options, as_json=json)
