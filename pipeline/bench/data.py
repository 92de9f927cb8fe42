"""What a dataset costs before and beside training: reading it, the cache, the loader; python -m pipeline bench data.

Each measurement is a process of its own, so that its memory is its own: python -m pipeline.bench.data PART FOLDER.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from pipeline.console import say
from pipeline.errors import ConfigError

SIDE, LATENT = 64, (4, 32, 32)  # of a picture in pixels, and of its latents
BATCH, NUM_STEPS = 8, 200  # of the loader
BYTES = 50_000  # on disk for each picture: the file, its latents and its embedding
PARTS = ("first", "again", "cache", "loader")


@dataclass(frozen=True)
class Part:
    """One measurement."""

    seconds: float  # of CPU, without imports
    megabytes: float  # by which the process grew
    count: float  # of what it came to: examples, files, examples a second


def compare(numbers: tuple[int, ...]) -> dict[int, dict[str, Part]]:
    """Measure datasets of so many pictures, each in a temporary folder.

    Raises ConfigError for numbers that are none, and where the temporary folder has too little room.
    """
    none = [number for number in numbers if number < 1]
    if none:
        raise ConfigError(f"--pictures {', '.join(map(str, none))}: a dataset has at least one picture.")
    needed, there = max(numbers) * BYTES, shutil.disk_usage(tempfile.gettempdir()).free
    if needed > there:
        raise ConfigError(
            f"--pictures {max(numbers)} takes about {needed / 1e9:.1f} GB in {tempfile.gettempdir()}, which has "
            f"{there / 1e9:.1f} GB left; another folder is set with the environment variable TMPDIR."
        )
    found = {}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder) / "data", number)
            time.sleep(2.5)  # what is known of a file is kept only once the file is that old
            found[number] = {part: run("data", part, Path(folder)) for part in PARTS}
    return found


def write_pictures(folder: Path, number: int) -> None:
    """Small JPEGs of random colours in two shapes, with a metadata file."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    rows = []
    for index in range(number):
        blocks = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        size = (SIDE, SIDE) if index % 3 else (SIDE * 5 // 4, SIDE * 3 // 4)
        blocks.resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:07d}.jpg", quality=85)
        rows.append(json.dumps({"file_name": f"{index:07d}.jpg", "text": f"{index} things of kind {index % 97}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def run(module: str, part: str, *where: object) -> Part:
    """One part of a module of the benchmark in a process of its own."""
    words = [sys.executable, "-m", f"pipeline.bench.{module}", part, *map(str, where)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    return Part(**{name: float(value) for name, value in json.loads(ended.stdout.splitlines()[-1]).items()})


def measured(work: Callable[[], float]) -> Part:
    """What a piece of work costs this process."""
    process = psutil.Process()
    before, started = process.memory_info().rss, time.process_time()
    count = work()
    return Part(time.process_time() - started, (process.memory_info().rss - before) / 1e6, float(count))


def main(part: str, folder: Path) -> None:
    """Measure one part and print it."""
    from pipeline.data.options import DataOptions
    from pipeline.data.sources import read_sources

    options = DataOptions(train_data_dir=str(folder / "data"), cache_dir=str(folder / "cache"), center_crop=True)
    kept: list[Any] = []

    def read() -> float:
        kept.append(read_sources(options))
        return len(kept[0].examples)

    if part in ("first", "again"):
        found = measured(read)
    else:
        read()
        found = measured(lambda: {"cache": fill, "loader": load}[part](kept[0], options, folder))
    say(json.dumps(vars(found)))


def fill(manifest: Any, options: Any, folder: Path) -> float:
    """Keep latents for every picture and embeddings for every caption; returns the files they lie in."""
    import torch

    from pipeline.data import cache as caches

    cache, text = cache_of(folder), torch.zeros(77, 32)
    for example, view in looks(manifest, options):
        latents = {"mean": torch.zeros(LATENT), "std": torch.ones(LATENT)}
        cache.latents.put(caches.latent_key(example, view), latents)
        cache.texts.put(caches.text_key(example.caption), {"prompt_embeds": text})
    cache.texts.put(caches.text_key(None), {"prompt_embeds": text})
    cache.flush()
    return sum(1 for _ in folder.glob("cache/**/*.safetensors"))


def load(manifest: Any, options: Any, folder: Path) -> float:
    """Steps of the loader in the middle of a run; returns examples a second of CPU."""
    import dataclasses

    from pipeline.data.loader import CachedExamples, build_loader
    from pipeline.data.sampler import MicroBatches, StepSampler
    from pipeline.objective.noise_options import NoiseOptions

    examples = CachedExamples(
        manifest,
        cache_of(folder),
        dataclasses.replace(options, caption_dropout=0.1),
        seed=0,
        noise=NoiseOptions(),
        size_states=lambda geometry: {},
        ragged="pad",
        live_prompts=False,
        text_parts={},
    )
    sampler = StepSampler(buckets_of(manifest, options), BATCH, seed=0)
    batches = MicroBatches(sampler, 1000, 1000 + NUM_STEPS, 1)
    started, seen = time.process_time(), 0
    for batch in build_loader(examples, batches, 0):
        seen += len(batch.ids)
    return seen / (time.process_time() - started)


def cache_of(folder: Path) -> Any:
    """A cache of no encoder in particular."""
    from pipeline.data.cache import Cache

    return Cache(folder / "cache", "images", "texts")


def buckets_of(manifest: Any, options: Any) -> Any:
    """Which pictures are shown at which size."""
    from pipeline.data.buckets import make_buckets, offered

    return make_buckets(offered(options, SIDE, 8).pictures(manifest.examples), BATCH)


def looks(manifest: Any, options: Any) -> list[Any]:
    """Every view of a run."""
    from pipeline.data.buckets import shown
    from pipeline.data.views import centre_view

    pairs = shown(manifest.examples, buckets_of(manifest, options))
    return [(example, centre_view(example, size)) for example, size in pairs]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
