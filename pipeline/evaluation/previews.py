"""Previews: the same requests with the adapter off and on, and one of them at several scales and guidances."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline import atomic
from pipeline.adapter.adapted_models import AdaptedModels
from pipeline.data.manifest import Manifest, by_name
from pipeline.evaluation.picture_sets import DrawSetRequest, draw_set, index_of, keep
from pipeline.evaluation.sample import Sampler, SampleRequest

NUM_PREVIEWS = 8  # captions of a test set that are drawn where no prompt is given
GRID = "grid"  # a folder of samples/
SCALES = (0.0, 0.5, 1.0, 1.5)  # of the adapter, across the grid; 0 is the base
GUIDANCE_FACTORS = (0.5, 1.0, 2.0)  # of the run's guidance, down the grid; never below 1, which is none
GOLDEN = 0.618033988749895  # its multiples fill a range evenly and meet no period in it


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """So many of the items, or all where there are fewer: in their order, from all over them.

    Whatever kind comes back at regular steps.
    """
    if len(items) <= most:
        return list(items)
    places, numbers = dict[int, None](), itertools.count()
    while len(places) < most:  # now and then two fall in one place
        places[int(next(numbers) * GOLDEN % 1 * len(items))] = None
    return [items[place] for place in sorted(places)]


def preview_prompts(manifest: Manifest) -> tuple[str, ...]:
    """A few captions, spread over a test set, for the pictures on the page."""
    return tuple(dict.fromkeys(example.caption for example in spread(by_name(manifest), NUM_PREVIEWS)))


@dataclass(frozen=True)
class Previews:
    """Draws the same requests with the adapter off and on, so that they differ in nothing but the adapter."""

    folder: Path  # OUT/samples
    sampler: Sampler
    adapted: AdaptedModels
    requests: tuple[SampleRequest, ...]

    def draw_base(self) -> Path:
        """The requests of the base model, drawn once."""
        return self.draw("base", self.requests, with_adapter=False)

    def draw_adapted(self, step: int) -> Path:
        """The requests with the adapter as it is after `step` steps."""
        return self.draw(f"step-{step:06d}", self.requests, with_adapter=True)

    def draw(self, name: str, requests: tuple[SampleRequest, ...], *, with_adapter: bool, reuse: bool = True) -> Path:
        """Any requests, into a folder of samples/ of this name."""
        return draw_set(
            DrawSetRequest(
                folder=self.folder / name,
                requests=requests,
                sampler=self.sampler,
                adapted=self.adapted,
                with_adapter=with_adapter,
                reuse=reuse,
            )
        )

    def draw_grid(self) -> Path:
        """The first request at several scales of the adapter and several guidance scales."""
        guidance = self.sampler.settings.guidance_scale
        pictures: list[Image.Image] = []
        rows: list[dict[str, Any]] = []
        for guidance_scale in dict.fromkeys(max(1.0, factor * guidance) for factor in GUIDANCE_FACTORS):
            sampler = self.sampler.with_guidance(guidance_scale)
            for scale in SCALES:
                with contextlib.ExitStack() as as_asked:
                    if scale:
                        as_asked.enter_context(self.adapted.with_scale(scale))
                        as_asked.enter_context(sampler.folded(self.adapted))
                    else:  # not a scale of 0: of DoRA the magnitudes would stay
                        as_asked.enter_context(self.adapted.disabled())
                    pictures += sampler.draw([self.requests[0]])
                rows += [{**row, "scale": scale} for row in index_of(self.requests[:1], sampler)]
        rows = [{**row, "file": f"{number:04d}.png"} for number, row in enumerate(rows)]
        keep(self.folder / GRID, pictures, rows, drawn=True)
        return self.folder / GRID


def forget_after(samples: Path, step: int) -> None:
    """Remove what was drawn with weights that a run going on from `step` will not have again; from 0, everything."""
    if step == 0 and samples.is_dir():
        atomic.remove_folder(samples)
    for folder in samples.glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            atomic.remove_folder(folder)
