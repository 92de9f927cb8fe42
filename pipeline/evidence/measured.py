"""One run of an experiment on the starter base, and all that is measured of it."""

import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline import atomic, shipped
from pipeline.adapter.names import FILE
from pipeline.commands.evaluation.options import DrawOptions
from pipeline.commands.evaluation.subject import opened
from pipeline.config import Run
from pipeline.evaluation.extractors import photographs
from pipeline.evaluation.metrics.distances import kid, scaled
from pipeline.evaluation.picture_sets import keep
from pipeline.evaluation.sample import SampleRequest
from pipeline.evaluation.validation import ValidationRow
from pipeline.run.main import train
from pipeline.starter import judge, world
from pipeline.training import tracking

WORK = "{work}"  # in a setting: the folder of the command
NUM_PICTURES = 48  # in the new look, and as many of captions without its word
FIRST_SEED, OTHERS_SEED, CLASS_SEED = 700_000, 41, 42  # of drawings; of scenes, used for nothing else
CLASS, NUM_CLASS = "class", 64  # a folder of the base's own pictures


@dataclass(frozen=True)
class Measure:
    """A number of a run."""

    title: str
    says: str
    form: str = "{:.1%}"


MEASURES = {
    "early": Measure("held-out loss, early", "after a third of the steps, as a share of the base's"),
    "late": Measure("held-out loss", "after the last step, as a share of the base's"),
    "gap": Measure("gap", "held-out loss less that of training pictures, both as shares of the base's"),
    "gain": Measure(
        "gain by captions", "how much lower the held-out loss is with its caption, as a share of the base's"
    ),
    "kid": Measure("KID", "pictures in the new look against true ones, by EfficientNet-Lite0", "{:.3f}"),
    "top1": Measure("subject recognised", "in pictures in the new look, by the starter's judge"),
    "moved": Measure(
        "moved", "1 - cosine between what base and adapter draw for captions without the word, same seeds", "{:.3f}"
    ),
    "kept": Measure("subject kept", "subject recognised in these by the judge, against the base"),
}
DRAWN = frozenset({"kid", "top1", "moved", "kept"})


class Bench:
    """What all runs are measured against, worked out once: true pictures, and what the base draws."""

    def __init__(self, work: Path, common: Mapping[str, Any]) -> None:
        self._work, self._common = work, common
        rows = (json.loads(line) for line in (shipped.TEST / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
        self._test = list(rows)[:NUM_PICTURES]
        self._others = world.held_out_scenes(OTHERS_SEED, NUM_PICTURES)

    def measured(self, settings: Mapping[str, Any], seed: int, *, drawn: bool) -> dict[str, float]:
        """Train with these options, and measure; `drawn` asks for the measures of pictures too.

        What the run leaves is removed. Raises ConfigError for options that are none, and whatever a run does.
        """
        self._work.mkdir(parents=True, exist_ok=True)
        if settings.get("class_data_dir") == f"{WORK}/{CLASS}":
            self._draw_class()
        with tempfile.TemporaryDirectory(prefix="run-", dir=self._work) as folder:
            out = train(self._run(settings, seed, Path(folder) / "out")).folder
            found = of_losses([row.validation for row in tracking.read(out) if row.validation is not None])
            return found | (self._of_pictures(out / FILE) if drawn else {})

    def _run(self, settings: Mapping[str, Any], seed: int, out: Path) -> Run:
        values = {**self._common, **settings}
        values = {k: v.replace(WORK, str(self._work)) if isinstance(v, str) else v for k, v in values.items()}
        fixed = {"pretrained_model_name_or_path": str(shipped.BASE), "train_data_dir": str(shipped.TRAIN)}
        fixed |= {"output_dir": str(out), "cache_dir": str(self._work / "cache"), "report_to": "none"}
        return Run().replaced(**values, **fixed, seed=seed, num_validation_images=0)

    def _of_pictures(self, adapter: Path) -> dict[str, float]:
        """The adapter's pictures in the new look, and of captions without its word, against the base's of these."""
        made, others = self._drawn(adapter)
        before, seen_before = self._others_of_base
        seen = features(others)
        apart = 1 - torch.nn.functional.cosine_similarity(seen, seen_before)
        named, named_before = (self._named(some, [s.concept.name for s in self._others]) for some in (others, before))
        return {
            "kid": kid(*scaled(self._true, features(made))).value,
            "top1": self._named(made, [row["concept"] for row in self._test]),
            "moved": apart.double().mean().item(),
            "kept": named - named_before,
        }

    @functools.cached_property
    def _true(self) -> Float[Tensor, "n d"]:
        pictures = []
        for row in self._test:
            with Image.open(shipped.TEST / row["file_name"]) as file:
                pictures.append(file.convert("RGB"))
        return features(pictures)

    @functools.cached_property
    def _others_of_base(self) -> tuple[list[Image.Image], Float[Tensor, "n d"]]:
        pictures = self._drawn(None)[1]
        return pictures, features(pictures)

    def _drawn(self, adapter: Path | None) -> tuple[list[Image.Image], list[Image.Image]]:
        """In the new look, and of the other captions."""
        prefix = self._common["caption_prefix"]
        captions = [f"{prefix} {row['text']}" for row in self._test] + [scene.caption() for scene in self._others]
        found = self._draw(adapter, captions)
        return found[:NUM_PICTURES], found[NUM_PICTURES:]

    def _draw(self, adapter: Path | None, captions: Sequence[str]) -> list[Image.Image]:
        common, model = self._common, str(shipped.BASE)
        steps, guidance = common["num_inference_steps"], common["guidance_scale"]
        options = DrawOptions(base=model, guidance_scale=guidance, num_inference_steps=steps)
        with opened(adapter, options) as subject:
            pipe = subject.pipeline()
            if adapter is not None:
                pipe.load_lora_weights(adapter.parent, weight_name=adapter.name)
            requests = [SampleRequest(caption, FIRST_SEED + number) for number, caption in enumerate(captions)]
            return subject.sampler(pipe).draw(requests)

    def _draw_class(self) -> None:
        """The base's own pictures, once."""
        place, table = self._work / CLASS, self._work / CLASS / "metadata.jsonl"
        if table.is_file():
            return
        scenes = world.held_out_scenes(CLASS_SEED, NUM_CLASS)
        pictures = self._draw(None, [scene.caption() for scene in scenes])
        rows = [{"file": f"{i:03d}.png", "prompt": scene.caption()} for i, scene in enumerate(scenes)]
        keep(place, pictures, rows, drawn=True)
        lines = [json.dumps({"file_name": row["file"], "text": row["prompt"]}) for row in rows]
        atomic.write_text(table, "\n".join(lines) + "\n")

    @functools.cached_property
    def _judge(self) -> judge.Judge:
        return judge.load()

    def _named(self, pictures: list[Image.Image], concepts: list[str]) -> float:
        """The share of pictures whose subject the judge names at its first guess."""
        return float((judge.concept_ranks(self._judge, pictures, concepts) < 1).double().mean())


def features(pictures: list[Image.Image]) -> Float[Tensor, "n d"]:
    """What a network trained on photographs sees. Raises ImportError where it is not installed."""
    return photographs.features(_network(), pictures)


@functools.cache
def _network() -> Any:
    return photographs.load()


def of_losses(rows: Sequence[ValidationRow]) -> dict[str, float]:
    """The first and the last measurement of a run, as shares of the base's losses."""
    first, last = rows[0], rows[-1]
    return {
        "early": 1 + first.held_out_share.value,
        "late": 1 + last.held_out_share.value,
        "gap": last.held_out_share.value - last.train_subset_share.value,
        "gain": last.condition_gain / last.held_out_base,
    }
