"""What a run needs encoded, and the encoding of what the cache lacks."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.console import tell
from pipeline.data import cache as caches
from pipeline.data import masks
from pipeline.data.buckets import shown
from pipeline.data.images import View
from pipeline.data.manifest import Example, column
from pipeline.data.views import centre_view, distinct_views
from pipeline.errors import DataError, listed
from pipeline.evaluation.previews import preview_prompts
from pipeline.evaluation.sample import SampleRequest
from pipeline.families import fit
from pipeline.geometry import Size
from pipeline.progress import Progress
from pipeline.run import prompts
from pipeline.run.context import RunContext
from pipeline.run.measured import measured_examples

MAX_PICTURES = 16  # at once
Item = TypeVar("Item")


def encode(context: RunContext, also: Sequence[Example] = ()) -> None:
    """Fill the cache with what it lacks, each process with its share; the encoders are gone again afterwards.

    `also` are examples to be measured that a run itself would not measure. Raises DataError for a picture that the
    autoencoder cannot encode; what was encoded before it is kept.
    """
    try:
        _encode(context, also)
    finally:
        context.cache.flush()


def _encode(context: RunContext, also: Sequence[Example]) -> None:
    run, family, cache, engine = context.run, context.family, context.cache, context.engine
    share = engine.rank, None, engine.num_processes
    if run.data.has_masks:
        looked_at = list(itertools.islice(views_to_encode(context, also), *share))
        keep_masks(cache, looked_at, lambda size: family.latent_shape(size)[1:])
    views = caches.missing_views(cache, itertools.islice(views_to_encode(context, also), *share))
    captions = caches.missing_captions(cache, captions_to_encode(context, also)[slice(*share)])
    if not views and not captions:
        return
    tell(f"Encoding {len(views)} views and {len(captions)} captions")
    pipe = family.load_encoders(engine.precision.dtype)
    loaded = {part: getattr(pipe, part) for part in ("vae", *family.source.text_encoders)}
    fit.require_there(loaded, family.source.folder)
    pipe = pipe.to(engine.device)
    fit.require_finite(loaded, family.source.folder)
    num_captions = captions_at_once(engine.device)
    with torch.no_grad():
        if None in captions:
            caches.store_unconditional(cache, family.embed(pipe, None))
        texts = [caption for caption in captions if caption is not None]
        for batch in counted(caches.batches(texts, num_captions), len(texts), "caption"):
            caches.store_texts(cache, batch, num_captions, lambda rows: family.encode_text(pipe, rows))
        for looks in counted(of_one_size(views, engine.device), len(views), "view"):
            most = pictures_at_once(engine.device, looks[0][0][1].size)
            try:
                caches.store_latents(cache, looks, most, lambda pixels: family.encode_image(pipe, pixels))
            except ValueError as error:
                raise DataError(f"{error}.") from error


def of_one_size(
    views: list[caches.Looks], device: torch.device
) -> Iterator[list[tuple[caches.Looks, Float[Tensor, "3 h w"]]]]:
    """What the views show, in batches of one size, the pictures of each as many as an encoder is given at once."""
    by_size: dict[Size, list[caches.Looks]] = {}
    for looks in views:
        by_size.setdefault(looks[1].size, []).append(looks)
    for size, some in by_size.items():
        yield from caches.batches(caches.decoded(some), pictures_at_once(device, size))


def keep_masks(cache: caches.Cache, views: list[caches.Looks], latent_of: masks.LatentOf) -> None:
    """Work out the masks that are not kept yet. Raises DataError with every image without anything to look at."""
    unknown = masks.missing(cache, views)
    problems: list[str] = []
    for some in counted(caches.batches(unknown, MAX_PICTURES), len(unknown), "mask"):
        problems += masks.store(cache, some, latent_of)
    if problems:
        named = list(dict.fromkeys(problems))
        raise DataError(f"--masked_loss: {len(named)} image(s) cannot be used.\n{listed(named)}")


def captions_at_once(device: torch.device) -> int:
    """How many captions an encoder is given: what keeps a device busy and fits a small one."""
    return 4 if device.type == "cpu" else 16


def pictures_at_once(device: torch.device, size: Size) -> int:
    """How many pictures of a size an encoder is given: on a CPU larger batches of larger pictures are slower."""
    pixels: int = 2**16 if device.type == "cpu" else 2**20
    return min(MAX_PICTURES, max(1, pixels // size.area))


def counted(batches: Iterable[list[Item]], total: int, unit: str) -> Iterator[list[Item]]:
    """The batches, with how far they are on the terminal."""
    done = 0
    with contextlib.closing(Progress(total, unit)) as progress:
        for batch in batches:
            yield batch
            done += len(batch)
            progress.update(done)


def views_to_encode(context: RunContext, also: Sequence[Example] = ()) -> Iterator[tuple[Example, View]]:
    """Every view the run will look at: what it trains on, and what it is measured on."""
    seed, possible = context.run.train.seed, context.plan.possible
    for example, size in shown(context.data.shown.examples, context.plan.seen):
        for view in distinct_views(example, seed=seed, size=size):
            yield example, view
    measured = (*sum(measured_examples(context.data, context.plan.seen), ()), *context.data.class_measured, *also)
    for example in measured:
        yield example, centre_view(example, possible.measured(example))


def captions_to_encode(context: RunContext, also: Sequence[Example] = ()) -> list[str | None]:
    """Every prompt the run will need encoded, and None for the unconditional embedding; none where encoders learn."""
    if context.run.adapter.train_text_encoder:
        return []
    data = context.data
    whole = (data.held_out, data.test_set)
    shown_first = [texts[0] for part in whole if part is not None for texts in column(part.examples, "captions")]
    measured = [*measured_examples(context.data, context.plan.seen)[1], *data.class_measured, *also]
    return [
        None,
        *prompts.read_in_steps(context.run, data.shown, context.plan.seen, context.plan.num_epochs),
        *shown_first,
        *(example.caption for example in measured),
        *(request.prompt for request in preview_requests(context)),
        context.run.objective.preservation_prompt,
        verified_caption(context),
    ]


def verified_caption(context: RunContext) -> str:
    """With which the written adapter is compared with the trained one; of tags, a step may show it only shuffled."""
    return context.data.manifest.examples[0].caption


def preview_requests(context: RunContext) -> tuple[SampleRequest, ...]:
    """What the previews show: the prompts given, or else a few captions of the test set."""
    preview, seed = context.run.preview, context.run.train.seed
    texts, per_prompt = preview.validation_prompt, preview.num_validation_images
    if not texts and context.data.test_set:
        texts, per_prompt = preview_prompts(context.data.test_set), 1
    return tuple(SampleRequest(text, seed + number) for text in texts for number in range(per_prompt))
