"""What a run needs encoded, and the encoding of what the cache lacks."""

import torch

from pipeline.console import tell
from pipeline.data import cache as caches
from pipeline.data.images import View
from pipeline.data.manifest import Example
from pipeline.data.views import centre_view, distinct_views
from pipeline.errors import DataError
from pipeline.evaluation.previews import preview_prompts
from pipeline.evaluation.sample import SampleRequest
from pipeline.evaluation.validation import MAX_EXAMPLES
from pipeline.run.context import RunContext


def encode(context: RunContext) -> None:
    """Fill the cache with what it lacks, each process with its share; the encoders are gone again afterwards.

    Raises DataError for a picture that the autoencoder cannot encode.
    """
    run, family, cache, engine = context.run, context.family, context.cache, context.engine
    share = slice(engine.rank, None, engine.num_processes)
    views = caches.missing_views(cache, views_to_encode(context)[share], run.data)
    captions = caches.missing_captions(cache, captions_to_encode(context)[share])
    if not views and not captions:
        return
    tell(f"Encoding {len(views)} views and {len(captions)} captions")
    pipe = family.load_encoders(engine.precision.dtype).to(engine.device)
    with torch.no_grad():
        for caption in captions:
            caches.store_text(cache, caption, lambda text: family.embed(pipe, text))
        for example, view in views:
            try:
                caches.store_latents(cache, example, view, run.data, lambda pixels: family.encode_image(pipe, pixels))
            except ValueError as error:
                raise DataError(f"{error}.") from error


def views_to_encode(context: RunContext) -> list[tuple[Example, View]]:
    """Every view the run will look at: what it trains on, and what it is measured on."""
    data, seed, size = context.run.data, context.run.train.seed, context.plan.size
    views = [
        (example, view)
        for example in context.data.manifest.examples
        for view in distinct_views(example, seed=seed, size=size, options=data)
    ]
    return views + [(example, centre_view(size, data)) for example in sum(measured_examples(context), ())]


def captions_to_encode(context: RunContext) -> list[str | None]:
    """Every prompt the run will need encoded, and None for the unconditional embedding; none where encoders learn."""
    if context.run.adapter.train_text_encoder:
        return []
    data = context.data
    measured = [*(data.held_out.examples if data.held_out else ()), *(data.test_set.examples if data.test_set else ())]
    return [
        None,
        *(caption for example in data.manifest.examples for caption in example.captions),
        *(example.caption for example in measured),
        *(request.prompt for request in preview_requests(context)),
    ]


def measured_examples(context: RunContext) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The held-out examples whose loss is measured, and as many training examples to compare them with."""
    if context.data.held_out is None:
        return (), ()
    held_out = context.data.held_out.examples[:MAX_EXAMPLES]
    return held_out, context.data.manifest.limited(len(held_out)).examples


def preview_requests(context: RunContext) -> tuple[SampleRequest, ...]:
    """What the previews show: the prompts given, or else a few captions of the test set."""
    preview, seed = context.run.preview, context.run.train.seed
    prompts, per_prompt = preview.validation_prompt, preview.num_validation_images
    if not prompts and context.data.test_set:
        prompts, per_prompt = preview_prompts(context.data.test_set), 1
    return tuple(SampleRequest(prompt, seed + number) for prompt in prompts for number in range(per_prompt))
