"""Which crop, flip and caption of an example an epoch shows: chosen by (seed, epoch, id), so by nothing that runs."""

from pipeline import rng
from pipeline.data.images import View
from pipeline.data.manifest import Example
from pipeline.data.options import DataOptions
from pipeline.geometry import Size


def view_of(example: Example, variant: int, *, seed: int, size: Size, options: DataOptions) -> View:
    """The crop and flip of one of an image's variants; they are the same in every epoch and resume."""
    left, top, flip = 0.5, 0.5, False
    if not options.center_crop:
        left = rng.uniform(seed, variant, example.views_id, "crop left")
        top = rng.uniform(seed, variant, example.views_id, "crop top")
    if options.random_flip:
        flip = rng.uniform(seed, variant, example.views_id, "flip") < 0.5
    if example.size.width * size.height == example.size.height * size.width:
        left, top = 0.5, 0.5  # nothing to choose: let the variants share one entry
    return View(size, options.image_interpolation_mode, left, top, flip)


def centre_view(size: Size, options: DataOptions) -> View:
    """The view that validation looks at: nothing of it is left to chance."""
    return View(size, options.image_interpolation_mode)


def variant_of(example: Example, epoch: int, seed: int, options: DataOptions) -> int:
    """Which of its variants an example shows in an epoch."""
    return rng.integer(seed, epoch, example.id, "variant", options.variants)


def caption_in(example: Example, epoch: int, seed: int) -> str:
    """Which of its captions an example shows in an epoch."""
    if len(example.captions) == 1:
        return example.caption
    return example.captions[rng.integer(seed, epoch, example.id, "caption", len(example.captions))]


def distinct_views(example: Example, *, seed: int, size: Size, options: DataOptions) -> list[View]:
    """The views a run shows of an image; fewer than the variants where chance has nothing to choose."""
    views = {view_of(example, variant, seed=seed, size=size, options=options) for variant in range(options.variants)}
    return sorted(views, key=lambda view: view.key)
