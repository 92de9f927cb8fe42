"""The objective that the options ask for."""

import torch

from pipeline.objective.guided import guided_target
from pipeline.objective.losses import Huber
from pipeline.objective.objective import Objective
from pipeline.objective.options import ObjectiveOptions
from pipeline.objective.paths import DiffusionPath
from pipeline.objective.weighting import build_weighting


def build_objective(
    options: ObjectiveOptions, path: DiffusionPath, num_tokens: int, device: torch.device | None = None
) -> Objective:
    """What is minimised, for pictures of so many tokens; its tables on a device where one is given."""
    weighting = build_weighting(options, path, num_tokens)
    return Objective(
        path if device is None else path.to(device),
        weighting,
        huber=Huber(options.huber_c, options.huber_schedule) if options.loss_type == "huber" else None,
        guided=guided_target(options),
        preservation_weight=options.preservation_weight,
        unmasked_weight=options.unmasked_weight,
        unmasked_preservation=options.unmasked_preservation,
    )
