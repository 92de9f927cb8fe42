"""What was learnt, on a test set: base, adapted and reference pictures, caption by caption, and their metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline.data import pixels
from pipeline.data.manifest import Example, Manifest, by_name
from pipeline.data.views import centre_view
from pipeline.evaluation import looking, results
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.metrics.table import METRICS
from pipeline.evaluation.picture_sets import index_of, keep
from pipeline.evaluation.previews import Previews
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.sample import SampleRequest
from pipeline.geometry import Size

BASE, ADAPTED, REFERENCE = "test-base", "test-adapted", "test-reference"  # folders of samples/
FIRST_SEED = 100_000  # beyond the run's seed, of the first caption: previews have their own


@dataclass(frozen=True)
class DrawnTestSet:
    """The folders of a test set: picture i of each belongs to the same caption, those drawn to the same seed too."""

    reference: Path
    base: Path
    adapted: Path
    names: tuple[str, ...]  # of the reference's files in the dataset


def draw(manifest: Manifest, previews: Previews, seed: int) -> DrawnTestSet:
    """Draw every caption with the adapter off and on, and copy the reference, cut as the model would see it."""
    examples = by_name(manifest)
    requests = tuple(
        SampleRequest(example.caption, seed + FIRST_SEED + number) for number, example in enumerate(examples)
    )
    size, reference = previews.sampler.settings.size, previews.folder / REFERENCE
    pictures = [reference_picture(example, size) for example in examples]
    keep(reference, pictures, index_of(requests, previews.sampler), drawn=False)
    return DrawnTestSet(
        reference,
        previews.draw(BASE, requests, with_adapter=False),
        previews.draw(ADAPTED, requests, with_adapter=True, reuse=False),  # a run that went on has other weights
        tuple(example.name for example in examples),
    )


def evaluate(drawn: DrawnTestSet, extractors: Sequence[Extractor], cache: Path | None = None) -> Evaluation | None:
    """Measure base, adapted and reference with every metric of a run that can be; None where none can."""
    folders = {looking.ADAPTED: drawn.adapted, looking.BASE: drawn.base, looking.REFERENCE: drawn.reference}
    sets = {name: looking.pairs(folder, drawn.names) for name, folder in folders.items()}
    metrics = {name: metric for name, metric in METRICS.items() if metric.in_runs}
    found = looking.estimates(sets, extractors, metrics=metrics, cache=cache)
    return results.of(len(drawn.names), extractors, found) if any(found.values()) else None


def reference_picture(example: Example, size: Size) -> Image.Image:
    """The image as the model would see it, cut from its centre."""
    return pixels.to_picture(pixels.to_pixels(example.picture(), centre_view(example, size)))
