"""Guidance as plain diffusers code, for whoever wants a page's picture again without this package."""

import functools
import math

import jinja2

from pipeline.families.base import Family
from pipeline.sampling.methods import projects
from pipeline.sampling.options import GuidanceOptions


@functools.cache
def template() -> jinja2.Template:
    """The code, with choices in it."""
    templates = jinja2.PackageLoader("pipeline.evaluation", "templates")
    environment = jinja2.Environment(
        loader=templates, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = repr
    return environment.get_template("guided.txt")


def code(guidance: GuidanceOptions, scale: float, seed: int, family: type[Family]) -> str:
    """What makes the denoiser of `pipe` answer as the guidance says, for one picture; nothing where it is as usual.

    Nothing either where a file says what no guidance is: it would become code.
    """
    if guidance.is_usual or not guidance.is_sound:
        return ""
    low, high = (_number(level) for level in guidance.interval or (0.0, math.inf))
    does_project = guidance.guidance_method == "apg" and projects(guidance)
    body = template().render(
        guidance=guidance,
        scale=float(scale),
        seed=int(seed),
        family=family,
        low=low,
        high=high,
        projects=does_project,
    )
    return "\n".join([*_imports(guidance, does_project), "", body.strip()])


def _number(level: float) -> str:
    return repr(level) if math.isfinite(level) else "float('inf')"


def _imports(guidance: GuidanceOptions, does_project: bool) -> list[str]:
    """The lines that import what the code uses, beside torch."""
    wanted = {
        "import hashlib": bool(guidance.cads_scale),
        "import itertools": True,
        "import re": guidance.guidance_against == "perturbed",
        "from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance": does_project,
        "from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale": (
            guidance.guidance_method == "cfg_zero_star"
        ),
        "from diffusers.guiders.guider_utils import rescale_noise_cfg": bool(guidance.guidance_rescale),
    }
    return [line for line, is_used in wanted.items() if is_used]
