"""Which crop, flip and caption of an example an epoch shows: chosen by (seed, epoch, id), so by nothing that runs."""

import itertools
from collections.abc import Sequence

from pipeline import rng
from pipeline.data import tags
from pipeline.data.images import PLAIN, View
from pipeline.data.manifest import Example, Manifest, column
from pipeline.data.options import DataOptions
from pipeline.geometry import Size

JITTERED = ("brightness", "contrast", "saturation")


def view_of(example: Example, variant: int, *, seed: int, size: Size) -> View:
    """The crop and flip of one of an image's variants; they are the same in every epoch and resume."""
    options, left, top, flip = example.options, 0.5, 0.5, False
    if not options.center_crop:
        left = rng.uniform(seed, variant, example.views_id, "crop left")
        top = rng.uniform(seed, variant, example.views_id, "crop top")
    if options.random_flip:
        flip = rng.uniform(seed, variant, example.views_id, "flip") < 0.5
    if example.size.width * size.height == example.size.height * size.width:
        left, top = 0.5, 0.5  # nothing to choose: let the variants share one entry
    angle, colours = 0.0, PLAIN
    if options.random_rotation:
        angle = (2 * rng.uniform(seed, variant, example.views_id, "angle") - 1) * options.random_rotation
    if options.color_jitter:
        draws = [2 * rng.uniform(seed, variant, example.views_id, name) - 1 for name in JITTERED]
        brightness, contrast, saturation = (1 + options.color_jitter * draw for draw in draws)
        colours = (brightness, contrast, saturation)
    return View(size, options.image_interpolation_mode, left, top, flip, angle, colours)


def centre_view(example: Example, size: Size) -> View:
    """The view that validation looks at: nothing of it is left to chance."""
    return View(size, example.options.image_interpolation_mode)


def variant_of(example: Example, epoch: int, seed: int) -> int:
    """Which of its variants an example shows in an epoch."""
    return rng.integer(seed, epoch, example.id, "variant", example.options.variants)


def caption_in(example: Example, epoch: int, seed: int, *, kept: bool) -> str:
    """Which of its captions an example shows in an epoch; of tags, which arrangement: where they are `kept` encoded,
    one of --caption_variants, else one of this epoch's own."""
    caption, variant = _drawn(example, epoch, seed, kept=kept)
    if not example.options.varies_tags:
        return caption
    return arranged(caption, example.options, seed=seed, variant=variant, example_id=example.id)


def _drawn(example: Example, epoch: int, seed: int, *, kept: bool) -> tuple[str, int]:
    """Which caption, and which arrangement of it."""
    options, caption, variant = example.options, example.caption, epoch
    if len(example.captions) > 1:
        caption = example.captions[_place_of_caption(example, epoch, seed)]
    if kept and options.varies_tags:
        variant = rng.integer(seed, epoch, example.id, "tags", options.caption_variants)
    return caption, variant


def _place_of_caption(example: Example, epoch: int, seed: int) -> int:
    """Which of an example's captions an epoch shows."""
    if not example.weights:
        return rng.integer(seed, epoch, example.id, "caption", len(example.captions))
    drawn = rng.uniform(seed, epoch, example.id, "caption") * sum(example.weights)
    sums = itertools.accumulate(example.weights)
    return next(place for place, reached in enumerate(sums) if drawn < reached or reached == sum(example.weights))


def arranged(caption: str, options: DataOptions, *, seed: int, variant: int, example_id: str) -> str:
    """One arrangement of a caption: tags after the first --keep_tokens left out and shuffled at random."""
    if not caption:
        return caption  # an image that is trained without one
    kept, loose = tags.parted(caption, options)
    if options.tag_dropout:
        draws = rng.uniforms(seed, variant, example_id, "tag dropout", (len(loose),)).tolist()
        loose = [tag for tag, draw in zip(loose, draws, strict=True) if draw >= options.tag_dropout]
    if options.shuffle_tags:
        loose = [loose[place] for place in rng.permutation(seed, variant, example_id, "tag order", len(loose))]
    return tags.joined([*kept, *loose], options)


def captions_to_keep(examples: Sequence[Example], num_epochs: int, seed: int) -> list[str]:
    """The captions that some epoch of a run shows, each once."""
    found: dict[str, None] = {}
    own_options, own_captions = (column(examples, name) for name in ("options", "captions"))
    for place, (options, captions) in enumerate(zip(own_options, own_captions, strict=True)):
        if options.varies_tags:
            example = examples[place]
            most = len(example.captions) * options.caption_variants
            own: set[tuple[str, int]] = set()
            for epoch in range(num_epochs):
                own.add(_drawn(example, epoch, seed, kept=True))
                if len(own) == most:
                    break
            for caption, variant in sorted(own):
                found[arranged(caption, options, seed=seed, variant=variant, example_id=example.id)] = None
        else:
            found |= dict.fromkeys(captions)
    return list(found)


def distinct_views(example: Example, *, seed: int, size: Size) -> list[View]:
    """The views a run shows of an image; fewer than the variants where chance has nothing to choose."""
    views = {view_of(example, variant, seed=seed, size=size) for variant in range(example.options.variants)}
    return sorted(views, key=lambda view: view.key)


def num_views(manifest: Manifest, *, seed: int, size: Size) -> int:
    """How many views a run shows of the images at a size. What chance chooses from a range is taken to differ."""
    total, examples = 0, manifest.examples
    for place, (options, original) in enumerate(zip(*(column(examples, n) for n in ("options", "size")), strict=True)):
        is_cut = not options.center_crop and original.width * size.height != original.height * size.width
        if is_cut or options.random_rotation or options.color_jitter:
            total += options.variants
        else:
            total += len(distinct_views(examples[place], seed=seed, size=size)) if options.random_flip else 1
    return total
