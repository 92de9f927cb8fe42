"""What a run does beside its steps, in forward passes: held-out losses, previews, the pictures at its end."""

from pipeline.config import Run
from pipeline.evaluation import validation
from pipeline.evaluation.previews import GUIDANCE_FACTORS, NUM_PREVIEWS, SCALES
from pipeline.families.base import Family
from pipeline.run import disk
from pipeline.run.preflight import RunData
from pipeline.training.remaining import Beside

DECODING = 2  # of a picture's latents, in passes: by operations 1.5 to 4 of a UNet's, less of a transformer's


def beside(run: Run, family: Family, data: RunData) -> Beside:
    """Counted from the options and the data."""
    num_held_out = disk.num_measured(data.held_out)
    preview, num_test = run.preview, len(data.test_set.examples) if data.test_set is not None else 0
    prompts = preview.validation_prompt
    shown = len(prompts) * preview.num_validation_images if prompts else min(NUM_PREVIEWS, num_test)
    of_picture = preview.num_inference_steps * (2 if family.supports_cfg and preview.guidance > 1 else 1) + DECODING
    grid = len(SCALES) * len(GUIDANCE_FACTORS)
    return Beside(
        validation.num_passes(num_held_out, num_held_out, len(data.class_measured)),
        preview=shown * of_picture,
        at_end=(2 * shown + grid + 2 * num_test) * of_picture if shown else 0,  # with the adapter and without
    )
