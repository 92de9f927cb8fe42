"""A whole audit: everything that is looked at, in the order of the method."""

import statistics
from dataclasses import dataclass

from pipeline.audit import balance, files, likeness, sizes, texts
from pipeline.audit.balance import Column
from pipeline.audit.findings import Case, Finding, Weight, findings_of
from pipeline.audit.survey import survey
from pipeline.audit.texts import Tokens
from pipeline.data.buckets import Bucket, Offered, make_buckets
from pipeline.data.manifest import Manifest
from pipeline.data.options import DataOptions
from pipeline.data.sampler import StepSampler
from pipeline.data.sources import names_of
from pipeline.data.split import split
from pipeline.errors import ConfigError

NO_HASHES = 'near copies were not looked for: that needs ImageHash (pip install "t2i-lora[check]")'


@dataclass(frozen=True)
class Model:
    """What an audit has to know of the model and the run."""

    possible: Offered
    batch_size: int  # examples of an optimizer step
    seed: int
    lost: texts.Lost | None  # captions that are cut, with what is lost
    count_tokens: texts.CountTokens | None = None


@dataclass(frozen=True)
class Audit:
    """A dataset in numbers, and what was found."""

    origin: str
    manifest: Manifest | None  # None where nothing of it can be used
    trained: Manifest | None  # of it, what would be trained on
    held_out: Manifest | None
    stream: StepSampler | None  # in what order it would be shown
    columns: tuple[Column, ...]
    findings: tuple[Finding, ...]
    tokens: Tokens | None = None  # of its captions, for the model

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Which examples would be shown at which size."""
        return self.stream.buckets if self.stream is not None else ()

    @property
    def num_errors(self) -> int:
        """Cases that training refuses."""
        return sum(len(found.cases) for found in self.findings if found.weight == "error")

    def numbers(self) -> dict[str, int | float]:
        """The dataset in numbers."""
        if self.manifest is None:
            return {"pictures": 0}
        captions = [text for example in self.manifest.examples for text in example.captions if text]
        return {
            "pictures": len({example.image_id for example in self.manifest.examples}),
            "examples": len(self.manifest.examples),
            "to train on": len(self.trained.examples) if self.trained is not None else 0,
            "held out": len(self.held_out.examples) if self.held_out is not None else 0,
            "captions": len(captions),
            "different captions": len(set(captions)),
            "words in the median caption": statistics.median(len(text.split()) for text in captions) if captions else 0,
        }


def audit(options: DataOptions, model: Model, validation_split: float | None) -> Audit:
    """Look at a dataset as a run with these options would. Raises DataError where there is none."""
    found = survey(options)
    of_files = files.of_files(found)
    of_files["no-caption"] = [Case(name, (name,)) for name in sorted(found.uncaptioned)]
    if found.manifest is None:
        return Audit(" + ".join(sorted(names_of(options))), None, None, None, None, (), tuple(findings_of(of_files)))
    try:
        trained, held_out = split(found.manifest, validation_split)
    except ConfigError as error:  # too few to hold any out
        trained, held_out = found.manifest, None
        of_files["layout"] = [*of_files["layout"], Case(str(error))]
    trained = trained.limited(options.max_train_samples)
    buckets = make_buckets(model.possible.pictures(trained.examples), model.batch_size)
    stream = StepSampler(buckets, model.batch_size, model.seed)
    sources = options.sources
    texts_of_rows = {"image", *(name for s in sources for name in (*s.caption_columns, s.image_column or "file_name"))}
    if any(look.hash is None for look in found.looks.values()):
        of_files["remarks"] = [*of_files["remarks"], Case(NO_HASHES)]
    columns = balance.columns_of(found.columns, frozenset(texts_of_rows))
    lighter: dict[str, Weight] = {}
    if all(source.on_bad_image == "skip" for source in sources):
        lighter |= {"unreadable": "warning", "unread": "warning"}
    if all(source.missing_caption != "error" or source.instance_prompt is not None for source in sources):
        lighter["no-caption"] = "warning"
    findings = findings_of(
        of_files,
        files.of_pictures(found),
        likeness.of_likeness(found, held_out),
        texts.of_captions(found.manifest.distinct().examples, model.lost),
        sizes.of_sizes(trained, held_out, stream, model.possible),
        balance.of_balance(found.columns, columns),
        lighter=lighter,
    )
    tokens = texts.tokens_of(found.manifest.distinct().examples, model.count_tokens)
    whole = found.manifest
    return Audit(whole.origin, whole, trained, held_out, stream, tuple(columns), tuple(findings), tokens)
