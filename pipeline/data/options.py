"""Options of the dataset."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.data import captions, value_weights
from pipeline.data.source_options import SIZE_MULTIPLE, SourceOptions, nearest_multiple
from pipeline.data.source_tables import table_problems
from pipeline.errors import not_utf8, out_of_bounds

OF_THE_SUBJECT = (  # what a picture of its class has not
    "dataset_name", "dataset_config_name", "repeats", "caption_template", "column_dropout", "caption_prefix",
    "caption_suffix",
    "trigger_word", "shuffle_tags", "tag_dropout", "keep_tokens", "caption_separator", "caption_weights",
)  # fmt: skip
UNWEIGHED: dict[str, Any] = {"balance": None, "weight_column": None, "weight_values": None}  # the class, a test set
DROPOUT = 0.1  # of captions, where the sampler has classifier-free guidance (Ho & Salimans 2022, table 1)


@dataclass(frozen=True, kw_only=True)
class DataOptions(SourceOptions):
    """What is trained on, and how pictures become model input."""

    source: tuple[dict[str, Any], ...] = ()  # the tables [[source]] of run.toml, each with fields of SourceOptions

    evaluation_data_dir: str | None = None
    """Folder of a test set, in the same layout: reference images that are never trained on. The report shows each
    beside what base and adapter draw for its caption."""

    validation_split: float | None = None
    """Share of the images held out of training, by content; their loss decides which weights are kept. Not given: 0.1,
    at least 4 images, and none of fewer than 40."""

    with_prior_preservation: bool = False
    """Train on pictures of the subject's class as well, as often as on its own, so that the class stays what it was
    (DreamBooth, Ruiz et al. 2023): those of --class_data_dir, and as many as are missing drawn by the base."""

    class_data_dir: str | None = None
    """Folder of pictures of the class, in any layout. Without --with_prior_preservation they are not trained on: how
    far the model moves on them is measured, which is what it forgets."""

    class_prompt: str | None = None
    """Caption of the class's pictures that have none, as in 'a photo of a dog'; also what the base draws them from."""

    num_class_images: int = 100
    """Pictures of the class; what is missing is drawn, at most so many are used."""

    balance: str | None = None
    """A column whose groups count alike, however many images each has: the loss of an image is weighed by how rare its
    group is, at most ten times."""

    weight_column: str | None = None
    """A column of numbers above 0: what the loss of each image counts, as it is, beside --balance; or, with
    --weight_values, one of words."""

    weight_values: str | None = None
    """What the loss of images counts by the word in --weight_column, as in ink=2,photo=0.5; those of other words count
    1. Words that hold a comma or = cannot be named."""

    max_train_samples: int | None = None
    """Train on this many examples, chosen by content, the same ones every time."""

    buckets: bool = True
    """Show pictures in about their own shape, those of one size together. --no-buckets cuts all to the square."""

    bucket_step: int | None = None
    """Pixels between two lengths of a side. Not given: a sixteenth of the square's, in steps the model can take."""

    max_aspect: float = 2.5
    """The longest shape: how many times the shorter side the longer one may be. What is longer is cut."""

    upscale: bool = False
    """Enlarge pictures with fewer pixels than the model sees, instead of showing them smaller."""

    image_interpolation_mode: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    """Filter used to resize."""

    max_image_megapixels: int = 200
    """Largest image that is decoded, in millions of pixels."""

    caption_dropout: float | None = None
    """Share of examples, chosen anew each epoch, trained without their caption, so that guidance keeps working. Not
    given: 0.1, or 0 for a model whose sampler has no classifier-free guidance (FLUX)."""

    encoder_dropout: float = 0.0
    """Share of examples, drawn anew each epoch and for each text encoder by itself, of which that encoder reads
    nothing: its part of the embeddings is the null's (XL, SD3, FLUX). --caption_dropout drops all at once."""

    cache_dir: str | None = None
    """Where downloaded models and encoded examples are kept. Not given: the Hub's cache and ~/.cache/t2i-lora."""

    dataloader_num_workers: int = 0
    """Processes that load cached examples; the result is the same for any number."""

    @property
    def sources(self) -> tuple["DataOptions", ...]:
        """The options of each source of the data: what its own table says, else what the run says."""
        return tuple(dataclasses.replace(self, source=(), **table) for table in self.source) or (self,)

    @property
    def has_class(self) -> bool:
        """Whether there are pictures of a class."""
        return self.with_prior_preservation or self.class_data_dir is not None

    @property
    def of_class(self) -> "DataOptions":
        """How the class's pictures are read and shown: as the subject's, but for what makes captions the subject's."""
        usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(SourceOptions)}
        own = {name: usual[name] for name in OF_THE_SUBJECT}
        own |= {"train_data_dir": self.class_data_dir, "instance_prompt": self.class_prompt}
        sides = [table["resolution"] for table in self.source if "resolution" in table]
        if self.resolution is None and sides:
            own["resolution"] = sides[0]
        return dataclasses.replace(self, source=(), **UNWEIGHED, **own)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """Those of all sources, each once."""
        words = [source.trigger_word for source in self.sources]
        return tuple(dict.fromkeys(word for word in words if word is not None))

    @property
    def has_masks(self) -> bool:
        """Whether the loss of some source looks only at parts of pictures."""
        return any(source.masked_loss for source in self.sources)

    def dropout_for(self, *, supports_cfg: bool) -> float:
        """The caption dropout for a model whose sampler has classifier-free guidance, or has not."""
        return DROPOUT * supports_cfg if self.caption_dropout is None else self.caption_dropout

    @property
    def dropout_share(self) -> float:
        """The caption dropout in force, once the model is known."""
        assert self.caption_dropout is not None
        return self.caption_dropout

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            num_class_images=(1, 100000),
            max_train_samples=(1, infinity),
            bucket_step=(SIZE_MULTIPLE, infinity),
            max_aspect=(1, 16),
            validation_split=(0, 0.9),
            max_image_megapixels=(1, infinity),
            caption_dropout=(0, 1),
            encoder_dropout=(0, 1),
            dataloader_num_workers=(0, infinity),
        )
        problems += not_utf8(self, "evaluation_data_dir", "class_data_dir", "cache_dir")
        found = super().problems() + problems
        for name in ("balance", "weight_column"):
            if getattr(self, name) is not None and not getattr(self, name).strip():
                found.append(f"--{name} is empty; name a column.")
        found += self._weight_problems()
        return found + self._bucket_problems() + self._class_problems() + self._source_problems()

    @property
    def weight_of_value(self) -> dict[str, float] | None:
        """The weights of --weight_values by value; None where the column holds numbers. Raises ValueError for none."""
        return None if self.weight_values is None else value_weights.parsed(self.weight_values)

    def _weight_problems(self) -> list[str]:
        """What is wrong with the weights of values."""
        try:
            _ = self.weight_of_value
        except ValueError as error:
            return [f"--weight_values: {error}."]
        if self.weight_values is not None and self.weight_column is None:
            return ["--weight_values has an effect only with --weight_column, which names the column of the values."]
        return []

    def _class_problems(self) -> list[str]:
        """What is wrong with the options of the class's pictures."""
        prompt, place, problems = self.class_prompt, self.class_data_dir, list[str]()
        if self.with_prior_preservation and prompt is None and place is None:
            needs = "--class_prompt, as in 'a photo of a dog', or --class_data_dir"
            problems.append(f"--with_prior_preservation needs {needs}.")
        if prompt is not None and not prompt.strip():
            problems.append("--class_prompt is empty; say what the class is, as in 'a photo of a dog'.")
        elif prompt is not None and not self.with_prior_preservation and place is None:
            problems.append("--class_prompt has an effect only with --with_prior_preservation or --class_data_dir.")
        triggers = (self.trigger_word, *(table.get("trigger_word") for table in self.source))
        for trigger in dict.fromkeys(map(str, filter(None, triggers))):
            if prompt is not None and captions.has_word(prompt, trigger):
                problems.append(f"--class_prompt {prompt!r} holds the trigger word {trigger!r}; leave it out there.")
        if place == "":
            problems.append("--class_data_dir is empty; name a folder.")
        elif place is not None and place in (
            self.train_data_dir,
            *(table.get("train_data_dir") for table in self.source),
        ):
            problems.append(f"--class_data_dir {place} is what is trained on; give pictures of others of its class.")
        if self.num_class_images != 100 and prompt is None and place is None:
            problems.append("--num_class_images has an effect only with --class_prompt or --class_data_dir.")
        return problems

    def _source_problems(self) -> list[str]:
        """What is wrong with the tables of sources."""
        if not self.source:
            return []
        problems = [
            f"--{name} stands beside [[source]]; put it into a table of its own."
            for name in ("train_data_dir", "dataset_name", "dataset_config_name")
            if getattr(self, name) is not None
        ]
        of_source = {field.name for field in dataclasses.fields(SourceOptions)}
        of_run = {field.name for field in dataclasses.fields(self)} - of_source
        for number, table in enumerate(self.source, start=1):
            found = table_problems(table, of_run)
            if not found:
                (own,) = dataclasses.replace(self, source=(table,)).sources
                shared = SourceOptions.problems(self)
                found = [problem for problem in SourceOptions.problems(own) if problem not in shared]
            problems += [f"[[source]] {number}: {problem}" for problem in found]
        if not problems and len({source.own for source in self.sources}) < len(self.source):
            problems.append("[[source]]: two of them are the same; keep one, with more repeats.")
        return problems

    def _bucket_problems(self) -> list[str]:
        """What is wrong with the options of buckets."""
        problems = []
        if self.bucket_step is not None and self.bucket_step % SIZE_MULTIPLE:
            near = nearest_multiple(self.bucket_step, SIZE_MULTIPLE)
            problems.append(f"--bucket_step {self.bucket_step} must be a multiple of {SIZE_MULTIPLE}; {near} is near.")
        idle = {"bucket_step": None, "max_aspect": 2.5, "upscale": False}
        problems += [
            f"--{name} has an effect only with buckets; leave out --no-buckets or it."
            for name, default in idle.items()
            if not self.buckets and getattr(self, name) != default
        ]
        return problems
