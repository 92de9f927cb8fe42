"""A whole audit: everything that is looked at, in the order of the method."""

import statistics
from dataclasses import dataclass, field

from pipeline.audit import balance, files, languages, likeness, sizes, texts
from pipeline.audit.balance import Column
from pipeline.audit.epoch import Epoch, Model, epoch_of
from pipeline.audit.findings import Case, Finding, findings_of, lighter_for
from pipeline.audit.of_class import ClassAudit, audit_class, pictures_of
from pipeline.audit.survey import survey
from pipeline.audit.texts import Tokens
from pipeline.data.class_images import beside
from pipeline.data.groups import Balance, balance_of
from pipeline.data.manifest import Manifest, column
from pipeline.data.options import DataOptions
from pipeline.data.sources import names_of
from pipeline.data.split import split
from pipeline.errors import ConfigError

NO_HASHES = 'near copies were not looked for: that needs ImageHash (pip install "t2i-lora[check]")'


@dataclass(frozen=True)
class Audit:
    """A dataset in numbers, and what was found; what there is of its class is told apart."""

    origin: str
    manifest: Manifest | None  # None where nothing of it can be used
    trained: Manifest | None  # of it, what would be trained on
    held_out: Manifest | None
    epoch: Epoch | None  # what would be shown, its class beside it, and in what order
    findings: tuple[Finding, ...]
    columns: tuple[Column, ...] = ()
    balance: Balance | None = None  # what the examples of each group of --balance would count
    sizes: dict[str, int] = field(default_factory=dict)  # how many of its examples would be shown at which size
    tokens: Tokens | None = None  # of its captions, for the model
    of_class: ClassAudit | None = None

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Those about the dataset, then those about the pictures of its class."""
        return self.findings + (self.of_class.findings if self.of_class is not None else ())

    @property
    def num_errors(self) -> int:
        """Cases that training refuses."""
        return sum(len(found.cases) for found in self.all_findings if found.weight == "error")

    def numbers(self) -> dict[str, int | float]:
        """The dataset in numbers."""
        if self.manifest is None:
            return {"pictures": 0}
        captions = [text for example in self.manifest.examples for text in example.written if text]
        return {
            "pictures": len({example.image_id for example in self.manifest.examples}),
            "examples": len(self.manifest.examples),
            "to train on": len(self.trained.examples) if self.trained is not None else 0,
            "held out": len(self.held_out.examples) if self.held_out is not None else 0,
            "captions": len(captions),
            "different captions": len(set(captions)),
            "words in the median caption": statistics.median(len(text.split()) for text in captions) if captions else 0,
        }


def audit(options: DataOptions, model: Model, *, yields: bool = False) -> Audit:
    """Look at a dataset as a run with these options would, and at its class; `yields` as in `split`.

    Raises DataError where there is none.
    """
    found, pictures = survey(options), pictures_of(options, model.possible)
    of_files = files.of_files(found)
    of_files["no-caption"] = [Case(name, (name,)) for name in sorted(found.uncaptioned)]
    if found.manifest is None:
        of_class = audit_class(options, pictures, found, None, model) if pictures is not None else None
        name = " + ".join(sorted(names_of(options)))
        return Audit(name, None, None, None, None, tuple(findings_of(of_files)), of_class=of_class)
    try:
        trained, held_out = split(found.manifest, options.validation_split, yields=yields)
    except ConfigError as error:  # too few to hold any out
        trained, held_out = found.manifest, None
        of_files["layout"] = [*of_files["layout"], Case(str(error))]
    trained = trained.limited(options.max_train_samples)
    epoch = epoch_of(beside(trained, pictures.images.trained if pictures is not None else ()).examples, model)
    if any(look.hash is None for look in found.looks.values()):
        of_files["remarks"] = [*of_files["remarks"], Case(NO_HASHES)]
    if model.otherwise is None:
        of_files["remarks"] = [*of_files["remarks"], Case(languages.NOT_LOOKED_AT)]
    columns = balance.columns_of(found.columns, _columns_of_text(options))
    distinct, apart = found.manifest.distinct().examples, held_out.examples if held_out is not None else ()
    findings = findings_of(
        of_files,
        files.of_pictures(found),
        likeness.of_likeness(found, held_out),
        texts.of_each(distinct, model.lost),
        texts.of_all(distinct),
        languages.of_language(distinct, model.otherwise),
        sizes.of_sizes(epoch.with_sizes(is_class=False), apart, model.possible),
        sizes.of_buckets(epoch, is_class=False),
        balance.of_balance(found.columns, columns),
        otherwise=lighter_for(options.sources) | model.graver,
    )
    return Audit(
        found.manifest.origin,
        found.manifest,
        trained,
        held_out,
        epoch,
        tuple(findings),
        columns=tuple(columns),
        balance=_balance_of(options, trained),
        sizes=epoch.sizes_of(trained.examples),
        tokens=texts.tokens_of(distinct, model.count_tokens),
        of_class=audit_class(options, pictures, found, epoch, model) if pictures is not None else None,
    )


def _balance_of(options: DataOptions, trained: Manifest) -> Balance | None:
    """That of what would be trained on; None where all count alike, or no picture has a group."""
    groups = [group for group in column(trained.examples, "group") if group is not None]
    return balance_of(trained.examples, options.balance) if options.balance is not None and groups else None


def _columns_of_text(options: DataOptions) -> frozenset[str]:
    """The columns that hold pictures and captions."""
    own = (name for s in options.sources for name in (*s.caption_columns, s.image_column or "file_name"))
    return frozenset({"image", *own})
