"""What base and adapter predict for pictures of the base's own, at each noise level, with captions and without."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.commands.evaluation.drawing import Column
from pipeline.commands.evaluation.subject import Subject
from pipeline.commands.sample import set_scale
from pipeline.console import quiet_libraries
from pipeline.data import pixels
from pipeline.evaluation.forgetting import Asked, Predictions
from pipeline.evaluation.looking import PictureSet
from pipeline.evaluation.picture_sets import kept
from pipeline.evaluation.previews import spread
from pipeline.evaluation.sample import pictures_at_once
from pipeline.evaluation.validation import MAX_EXAMPLES, NUM_LEVELS, LossEvaluator, ValidationExample
from pipeline.geometry import whole
from pipeline.objective.guided import guided_target
from pipeline.objective.guided_options import GuidedOptions
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import DiffusionPath
from pipeline.progress import Progress


@torch.no_grad()
def asked(subject: Subject, column: Column, pictures: PictureSet) -> tuple[Asked, Asked]:
    """The predictions of the base and of the very file of the adapter, by the stock loader."""
    family, pipe = subject.family, subject.pipeline()
    denoiser, dtype = getattr(pipe, family.denoiser), subject.engine.precision.dtype
    examples = list(encoded(subject, pictures))
    captions = [example.caption for example in examples]
    others = [captions[place - 1] for place in range(len(captions))]
    conditions = 3 if family.supports_cfg else 2
    progress = Progress(2 * conditions * NUM_LEVELS * len(examples), "prediction")
    done = 0

    def ask() -> Asked:
        evaluator = LossEvaluator(
            path=family.path(ObjectiveOptions()),
            prompts=functools.cache(lambda caption: family.embed(pipe, caption)),
            ragged=family.ragged,
            batch_size=pictures_at_once(subject.settings.size),
            device=subject.engine.device,
            dtype=dtype,
        )

        def predict(x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
            nonlocal done
            done += len(x_t)
            progress.update(done)
            return family.denoise(denoiser, x_t.to(dtype), t, conditioning)

        without = evaluator.predictions(predict, examples, [None] * len(examples)) if family.supports_cfg else None
        return Asked(
            evaluator.predictions(predict, examples), evaluator.predictions(predict, examples, others), without
        )

    with contextlib.closing(progress):
        base = ask()
        assert column.file is not None
        pipe.load_lora_weights(column.file.parent, weight_name=column.file.name, adapter_name="lora")
        set_scale(pipe, column.scale)
        adapted = ask()
    if column.scale != 1:  # then it is not the scale that was learnt
        return base, adapted
    return base, unguided(adapted, base, subject.run, family.path(ObjectiveOptions()))


def unguided(adapted: Asked, base: Asked, run: Mapping[str, Any], path: DiffusionPath) -> Asked:
    """The adapter's predictions without the guidance that a run.toml says it has learnt: comparable with the base's."""
    names = [field.name for field in dataclasses.fields(GuidedOptions)]
    options = GuidedOptions(**{name: run[name] for name in names if name in run})
    target, others = (
        guided_target(options),
        (base if options.guided_target_against == "base" else adapted).unconditional,
    )
    if target is None or others is None:
        return adapted
    log_snr = path.log_snr(path.validation_time((torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS))

    def plain(predictions: Predictions) -> Predictions:
        return [
            (target.unguided(prediction, other, options.guided_target_scale, log_snr), wanted)
            for (prediction, wanted), (other, _) in zip(predictions, others, strict=True)
        ]

    return dataclasses.replace(adapted, captioned=plain(adapted.captioned), shuffled=plain(adapted.shuffled))


def encoded(subject: Subject, pictures: PictureSet) -> Iterator[ValidationExample]:
    """The first picture of each caption, in latents."""
    with quiet_libraries():
        pipe = subject.family.load("vae").to(subject.engine.device)  # in float32: some overflow in half precision
    rows = list(zip(pictures.groups, kept(pictures.folder), strict=True))
    first = dict(reversed(rows))  # of each caption
    size_states = subject.family.size_states(whole(subject.settings.size))
    for row in spread([first[group] for group in sorted(first)], min(MAX_EXAMPLES, len(first))):
        with Image.open(row["path"]) as file:
            values = pixels.of_picture(file.convert("RGB"))
        mean, std = (part[0].float().cpu() for part in subject.family.encode_image(pipe, values[None]))
        yield ValidationExample(f"{row['prompt']} {row['seed']}", mean, std, row["prompt"], size_states)
