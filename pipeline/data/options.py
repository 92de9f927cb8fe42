"""Options of the dataset."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.data import captions
from pipeline.errors import not_utf8, out_of_bounds

DROPOUT = 0.1  # of captions, where the sampler has classifier-free guidance (Ho & Salimans 2022, table 1)
MAX_SIDE = 32768  # pixels
SIZE_MULTIPLE = 8  # pixels: what every model needs; a family may need more


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained on, and how pictures become model input."""

    train_data_dir: str | None = None
    """Folder of images with metadata.jsonl, metadata.csv, metadata.parquet or one .txt or .caption per image.
    Sub-folders are read too; where all images lie in sub-folders named N_words, their images count N times. Neither
    this nor dataset_name given: the starter dataset."""

    dataset_name: str | None = None
    """A dataset of the `datasets` library instead of a folder of images: its Hub id, a folder or file of parquet, or
    what save_to_disk wrote. Its train split is read."""

    dataset_config_name: str | None = None
    """Configuration of dataset_name, where it has several."""

    evaluation_data_dir: str | None = None
    """Folder of a test set, in the same layout: reference images that are never trained on. The report shows each
    beside what base and adapter draw for its caption."""

    validation_split: float | None = None
    """Share of the images held out of training, by content; their loss decides which weights are kept. Not given: 0.1,
    at least 4 images, and none of fewer than 40."""

    image_column: str | None = None
    """Column of the image. Not given: file_name in a metadata file (where 'image' means the same), image in a
    dataset."""

    caption_column: str = "text"
    """Column of the caption, or several, as in text,short; it may hold a list. Of several one is drawn each epoch."""

    caption_weights: str | None = None
    """How often each of an image's captions is drawn, in their order, as in 3,1. Not given: all alike."""

    caption_template: str | None = None
    """Makes captions from columns, as in 'a {colour} {kind}': the values of categories become the condition."""

    caption_extension: str | None = None
    """Extension of the caption files beside the images. Not given: .txt and .caption."""

    caption_lines: Literal["joined", "separate"] = "joined"
    """What the lines of a caption file are: parts of one caption, or each a caption, one of which is drawn for each
    epoch."""

    caption_prefix: str | None = None
    """Put before every caption, with a space between, as in 'ohwx,'; it is never shuffled or left out."""

    caption_suffix: str | None = None
    """Put after every caption, likewise."""

    shuffle_tags: bool = False
    """Show the tags of a caption, as in 'ohwx, red hat, beach', in an order drawn for each epoch."""

    tag_dropout: float = 0.0
    """Share of the tags of a caption left out, drawn for each epoch."""

    keep_tokens: int = 0
    """Tags at the start of each caption that keep their place and are never left out."""

    caption_separator: str = ","
    """What stands between tags."""

    caption_variants: int = 10
    """Arrangements of its tags kept encoded for each caption, of which an epoch shows one. With --train_text_encoder
    nothing is kept and every epoch draws a new one."""

    instance_prompt: str | None = None
    """Caption of every image that has none of its own; it wins over the words in the name of an image's folder."""

    trigger_word: str | None = None
    """A word that every caption must hold, because prompts will; each caption without it is named."""

    max_train_samples: int | None = None
    """Train on this many examples, chosen by content, the same ones every time."""

    resolution: int | str | None = None
    """Side in pixels of the square that has as many pixels as the model sees of a picture, or several, as in
    512,768,1024: then each picture is shown at each for which it has the pixels. Not given: the model's own size."""

    buckets: bool = True
    """Show pictures in about their own shape, those of one size together. --no-buckets cuts all to the square."""

    bucket_step: int | None = None
    """Pixels between two lengths of a side. Not given: a sixteenth of the square's, in steps the model can take."""

    max_aspect: float = 2.5
    """The longest shape: how many times the shorter side the longer one may be. What is longer is cut."""

    upscale: bool = False
    """Enlarge pictures with fewer pixels than the model sees, instead of showing them smaller."""

    center_crop: bool = False
    """Cut what does not fit the shape evenly from both edges instead of at random."""

    random_flip: bool = False
    """Mirror half of the views from left to right."""

    cache_variants: int = 4
    """Random views kept per image; 1 when centred and not flipped, for then all views are equal."""

    image_interpolation_mode: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    """Filter used to resize."""

    alpha_background: str = "white"
    """Colour put behind transparent pixels: a name or #rrggbb."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be decoded or is of a kind that is not read; skipped ones are counted and
    listed."""

    max_image_megapixels: int = 200
    """Largest image that is decoded, in millions of pixels."""

    missing_caption: Literal["error", "skip", "empty"] = "error"
    """What to do with an image without a caption; skipped or emptied ones are counted and listed."""

    masked_loss: bool = False
    """Look only at the white part of a mask: x.mask.png or x-masklabel.png beside x.png, masks/x.png, or else the
    transparency of the image itself. Images without either count whole."""

    caption_dropout: float | None = None
    """Share of examples, chosen anew each epoch, trained without their caption, so that guidance keeps working. Not
    given: 0.1, or 0 for a model whose sampler has no classifier-free guidance (FLUX)."""

    cache_dir: str | None = None
    """Where downloaded models and encoded examples are kept. Not given: the Hub's cache and ~/.cache/t2i-lora."""

    dataloader_num_workers: int = 0
    """Processes that load cached examples; the result is the same for any number."""

    @property
    def caption_extensions(self) -> frozenset[str]:
        """The extensions of caption files, with their dot, in small letters."""
        given = self.caption_extension
        return frozenset({".txt", ".caption"} if given is None else {f".{given.lower().lstrip('.')}"})

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
            max_train_samples=(1, infinity),
            bucket_step=(SIZE_MULTIPLE, infinity),
            max_aspect=(1, 16),
            validation_split=(0, 0.9),
            cache_variants=(1, infinity),
            caption_variants=(1, infinity),
            keep_tokens=(0, infinity),
            tag_dropout=(0, 0.99),
            max_image_megapixels=(1, infinity),
            caption_dropout=(0, 1),
            dataloader_num_workers=(0, infinity),
        )
        problems += not_utf8(self, "train_data_dir", "dataset_name", "evaluation_data_dir", "cache_dir")
        problems += self._size_problems()
        if self.alpha_background != "white":
            from PIL import ImageColor

            try:
                ImageColor.getrgb(self.alpha_background)
            except ValueError:
                problems.append(f"--alpha_background {self.alpha_background!r} is no colour; as 'grey' or '#808080'.")
        if self.image_column == "":
            problems.append("--image_column is empty; name the column that holds the image.")
        if self.train_data_dir is not None and self.dataset_name is not None:
            problems.append("--train_data_dir and --dataset_name name two sources of data; give one.")
        if self.dataset_config_name is not None and self.dataset_name is None:
            problems.append("--dataset_config_name has an effect only with --dataset_name.")
        return problems + self._caption_problems() + self._tag_problems()

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of --resolution in pixels, the smallest first; none where the model decides."""
        return tuple(sorted({int(side) for side in _words_of(self.resolution)}))

    def _size_problems(self) -> list[str]:
        """What is wrong with the options of sizes."""
        words = _words_of(self.resolution)
        if not all(re.fullmatch("[0-9]+", word) for word in words):
            return [f"--resolution {self.resolution} is no whole number of pixels, or several as in 512,768,1024."]
        problems = [
            f"--resolution {side} must be a multiple of {SIZE_MULTIPLE}; {_near(side, SIZE_MULTIPLE)} is near."
            for side in map(int, words)
            if side % SIZE_MULTIPLE or not side
        ]
        problems += [f"--resolution {side} is more than {MAX_SIDE}." for side in map(int, words) if side > MAX_SIDE]
        if self.bucket_step is not None and self.bucket_step % SIZE_MULTIPLE:
            near = _near(self.bucket_step, SIZE_MULTIPLE)
            problems.append(f"--bucket_step {self.bucket_step} must be a multiple of {SIZE_MULTIPLE}; {near} is near.")
        idle = {"bucket_step": None, "max_aspect": 2.5, "upscale": False}
        problems += [
            f"--{name} has an effect only with buckets; leave out --no-buckets or it."
            for name, default in idle.items()
            if not self.buckets and getattr(self, name) != default
        ]
        return problems

    def _caption_problems(self) -> list[str]:
        """What is wrong with the options of captions."""
        problems = []
        trigger, prompt = self.trigger_word, self.instance_prompt
        if trigger is not None and not any(letter.isalnum() for letter in trigger):
            problems.append(f"--trigger_word {trigger!r} holds no letter or digit; give a word.")
        if self.caption_extension is not None and not re.fullmatch(r"\.?\w*[^\W\d]\w*", self.caption_extension):
            problems.append(f"--caption_extension {self.caption_extension!r} is none; as in '.txt'.")
        if prompt is not None and not prompt.strip():
            problems.append("--instance_prompt is empty; --missing_caption empty trains images without a caption.")
        elif prompt is not None and trigger is not None and not captions.has_word(self._around(prompt), trigger):
            problems.append(f"--instance_prompt {prompt!r} lacks the trigger word {trigger!r}; add it.")
        if prompt is not None and self.missing_caption != "error":
            problems.append("--instance_prompt leaves no image without a caption; leave --missing_caption out.")
        if prompt is not None and self.caption_template is not None:
            problems.append("--instance_prompt and --caption_template both make the captions; give one.")
        if self.caption_template is not None:
            try:
                captions.fields_of(self.caption_template)
            except ValueError as error:
                problems.append(f"--caption_template {error}.")
        if not all(self.caption_columns):
            problems.append("--caption_column is empty; name the column that holds the caption.")
        try:
            _ = self.weights
        except ValueError as error:
            problems.append(f"--caption_weights {self.caption_weights} {error}.")
        if len(self.caption_columns) > 1 and self.caption_template is not None:
            problems.append("--caption_column names several and --caption_template makes one of columns; give one.")
        return problems

    @property
    def caption_columns(self) -> tuple[str, ...]:
        """The columns that hold captions."""
        return tuple(name.strip() for name in self.caption_column.split(","))

    @property
    def weights(self) -> tuple[float, ...]:
        """Those of --caption_weights; () where there are none. Raises ValueError for what are none."""
        return () if self.caption_weights is None else captions.weights_of(self.caption_weights)

    def _around(self, prompt: str) -> str:
        return f"{self.caption_prefix or ''} {prompt} {self.caption_suffix or ''}"

    def _tag_problems(self) -> list[str]:
        """What is wrong with the options of tags and of what is put around captions."""
        problems = [
            f"--{name} is empty; leave it out."
            for name in ("caption_prefix", "caption_suffix")
            if (text := getattr(self, name)) is not None and not text.strip()
        ]
        if not self.caption_separator:
            problems.append("--caption_separator is empty; give what stands between tags, as in ',' or ' '.")
        if not self.varies_tags:
            idle = {"keep_tokens": 0, "caption_separator": ",", "caption_variants": 10}
            problems += [
                f"--{name} has an effect only with --shuffle_tags or --tag_dropout."
                for name, default in idle.items()
                if getattr(self, name) != default
            ]
        return problems

    @property
    def varies_tags(self) -> bool:
        """Whether a caption is another one in each epoch."""
        return self.shuffle_tags or self.tag_dropout > 0

    @property
    def variants(self) -> int:
        """Views kept per image: one where crop and flip leave nothing to chance."""
        return 1 if self.center_crop and not self.random_flip else self.cache_variants


def _words_of(resolution: int | str | None) -> list[str]:
    return [] if resolution is None else [word.strip() for word in str(resolution).split(",")]


def _near(number: int, multiple: int) -> int:
    return max(multiple, round(number / multiple) * multiple)
