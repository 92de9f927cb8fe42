"""Options of one source of data: where it is, what its captions are, and how its pictures are shown."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from pipeline.data import captions
from pipeline.data.left_out import MAX_COLUMNS
from pipeline.errors import not_utf8, out_of_bounds

MAX_SIDE = 32768  # pixels
PLACES = ("train_data_dir", "dataset_name")  # where data may be
SIZE_MULTIPLE = 8  # pixels: what every model needs; a family may need more


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What each source of a run with several may say for itself."""

    train_data_dir: str | None = None
    """Folder of images with metadata.jsonl, metadata.csv, metadata.parquet or one .txt or .caption per image.
    Sub-folders are read too; where all images lie in sub-folders named N_words, their images count N times. Neither
    this nor dataset_name given: the starter dataset."""

    dataset_name: str | None = None
    """A dataset of the `datasets` library instead of a folder of images: its Hub id, a folder or file of parquet or of
    WebDataset (.tar), or what save_to_disk wrote. Its train split is read."""

    dataset_config_name: str | None = None
    """Configuration of dataset_name, where it has several."""

    repeats: int = 1
    """How often each image counts in an epoch, each time with a crop, noise and caption drawn anew."""

    image_column: str | None = None
    """Column of the image. Not given: file_name in a metadata file (where 'image' means the same), image in a
    dataset."""

    caption_column: str = "text"
    """Column of the caption, or several, as in text,short; it may hold a list. Of several one is drawn each epoch."""

    caption_weights: str | None = None
    """How often each of an image's captions is drawn, in their order, as in 3,1. Not given: all alike."""

    caption_template: str | None = None
    """Makes captions from columns, as in 'a {colour} {kind}': the values of categories become the condition."""

    column_dropout: float = 0.0
    """With --caption_template: share of examples, drawn anew for each epoch and each column, whose caption is without
    that column, and without what stands around it in brackets, as in 'a {kind}[ in {place}]'."""

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

    resolution: int | str | None = None
    """Side in pixels of the square that has as many pixels as the model sees of a picture, or several, as in
    512,768,1024: then each picture is shown at each for which it has the pixels. Not given: the model's own size."""

    center_crop: bool = False
    """Cut what does not fit the shape evenly from both edges instead of at random."""

    random_flip: bool = False
    """Mirror half of the views from left to right."""

    random_rotation: float = 0.0
    """Turn each view by up to so many degrees either way, enlarged by as much as it takes to leave no corner empty."""

    color_jitter: float = 0.0
    """Change brightness, contrast and saturation of each view by up to this share, up or down."""

    cache_variants: int = 4
    """Random views kept per image; 1 when nothing of them is left to chance, for then all are equal."""

    alpha_background: str = "white"
    """Colour put behind transparent pixels: a name or #rrggbb."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be decoded or is of a kind that is not read; skipped ones are counted and
    listed."""

    missing_caption: Literal["error", "skip", "empty"] = "error"
    """What to do with an image without a caption; skipped or emptied ones are counted and listed."""

    prompt_weights: Literal["error", "strip", "keep"] = "error"
    """What to do with captions that weigh words, as in (red hat:1.2), which A1111 reads in prompts and training does
    not: refuse them, leave their words, or train on them as they are."""

    masked_loss: bool = False
    """Look only at the white part of a mask: x.mask.png or x-masklabel.png beside x.png, masks/x.png, the column mask
    of a table, or else the transparency of the image itself. Images without any count whole."""

    @property
    def own(self) -> tuple[Any, ...]:
        """All that a source says for itself: equal for equal sources, whatever the run around them."""
        return tuple(getattr(self, field.name) for field in fields(SourceOptions))

    @property
    def place(self) -> str:
        """The folder, or the name of the dataset; '' for the starter dataset."""
        return self.train_data_dir or self.dataset_name or ""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            repeats=(1, 10000),
            cache_variants=(1, infinity),
            caption_variants=(1, infinity),
            random_rotation=(0, 45),
            color_jitter=(0, 0.9),
            keep_tokens=(0, infinity),
            tag_dropout=(0, 0.99),
            column_dropout=(0, 0.9),
        )
        problems += not_utf8(self, "train_data_dir", "dataset_name") + self._size_problems()
        if self.alpha_background != "white":
            from PIL import ImageColor

            try:
                ImageColor.getrgb(self.alpha_background)
            except ValueError:
                problems.append(f"--alpha_background {self.alpha_background!r} is no colour; as 'grey' or '#808080'.")
        problems += [f"--{name} is empty; name a folder or a dataset." for name in PLACES if getattr(self, name) == ""]
        if self.image_column == "":
            problems.append("--image_column is empty; name the column that holds the image.")
        if self.train_data_dir is not None and self.dataset_name is not None:
            problems.append("--train_data_dir and --dataset_name name two sources of data; give one.")
        if self.dataset_config_name is not None and self.dataset_name is None:
            problems.append("--dataset_config_name has an effect only with --dataset_name.")
        return problems + self._caption_problems() + self._tag_problems()

    @property
    def caption_extensions(self) -> frozenset[str]:
        """The extensions of caption files, with their dot, in small letters."""
        given = self.caption_extension
        return frozenset({".txt", ".caption"} if given is None else {f".{given.lower().lstrip('.')}"})

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
            f"--resolution {side} must be a multiple of {SIZE_MULTIPLE}; {near} is near."
            for side in map(int, words)
            if side != (near := nearest_multiple(side, SIZE_MULTIPLE))
        ]
        problems += [f"--resolution {side} is more than {MAX_SIDE}." for side in map(int, words) if side > MAX_SIDE]
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
        problems += self._template_problems()
        if not all(self.caption_columns):
            problems.append("--caption_column is empty; name the column that holds the caption.")
        try:
            _ = self.weights
        except ValueError as error:
            problems.append(f"--caption_weights {self.caption_weights} {error}.")
        if len(self.caption_columns) > 1 and self.caption_template is not None:
            problems.append("--caption_column names several and --caption_template makes one of columns; give one.")
        return problems

    def _template_problems(self) -> list[str]:
        """What is wrong with the template of captions, and with what leaves its columns out."""
        if self.caption_template is None:
            unused = "--column_dropout has an effect only with --caption_template."
            return [unused] if self.column_dropout else []
        try:
            columns = captions.fields_of(self.caption_template)
        except ValueError as error:
            return [f"--caption_template {error}."]
        if not self.column_dropout:
            return []
        problems = []
        if len(columns) > MAX_COLUMNS:
            ways = f"{2 ** len(columns)} captions of each picture"
            problems.append(f"--column_dropout with {len(columns)} columns makes {ways}; name at most {MAX_COLUMNS}.")
        if self.caption_weights is not None:
            problems.append("--column_dropout makes the weights of captions itself; leave --caption_weights out.")
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
        """Views kept per image: one where nothing is left to chance."""
        is_random = not self.center_crop or self.random_flip or self.random_rotation > 0 or self.color_jitter > 0
        return self.cache_variants if is_random else 1


def _words_of(resolution: int | str | None) -> list[str]:
    return [] if resolution is None else [word.strip() for word in str(resolution).split(",")]


def nearest_multiple(number: int, multiple: int) -> int:
    """The multiple that is next to a number."""
    return max(multiple, round(number / multiple) * multiple)
