"""Pictures drawn batch by batch, by any number of processes, each written as soon as it is there."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import atomic
from pipeline.engine import Engine
from pipeline.evaluation import png_metadata
from pipeline.evaluation.sample import Sampler, SampleRequest, pictures_at_once
from pipeline.geometry import Size
from pipeline.progress import Progress


def draw_missing(
    requests: Sequence[SampleRequest],
    paths: Sequence[Path | None],
    sampler: Callable[[], Sampler],
    size: Size,
    engine: Engine,
) -> None:
    """Draw this process's share of the pictures that are not there yet; those without a path are not kept.

    The model is given the same batches whatever is missing, so a picture has the same bits however often the drawing
    was stopped and by however many processes it is done. A kill costs one batch at most.
    """
    at_once = pictures_at_once(size)
    firsts = range(0, len(requests), at_once)[engine.rank :: engine.num_processes]
    batches = [range(first, min(first + at_once, len(requests))) for first in firsts]
    missing = [batch for batch in batches if any(path and not path.is_file() for path in (paths[i] for i in batch))]
    if not missing:
        return
    drawing = sampler()
    with contextlib.closing(Progress(len(missing), "batch")) as progress:
        for done, batch in enumerate(missing, start=1):
            pictures = drawing.draw([requests[i] for i in batch])
            for i, picture in zip(batch, pictures, strict=True):
                path = paths[i]
                if path is not None:
                    buffer = io.BytesIO()
                    png_metadata.save_marked(picture, buffer)
                    atomic.write_bytes(path, buffer.getvalue())
            progress.update(done)
