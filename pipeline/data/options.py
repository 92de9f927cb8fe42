"""Options of the dataset."""

from dataclasses import dataclass
from typing import Literal

from pipeline.data import captions
from pipeline.errors import out_of_bounds

SIZE_MULTIPLE = 8  # pixels: what every model needs; a family may need more


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained on, and how pictures become model input."""

    train_data_dir: str | None = None
    """Folder of images with metadata.jsonl, metadata.csv or one .txt per image. Neither this nor dataset_name given:
    the starter dataset."""

    dataset_name: str | None = None
    """A dataset of the `datasets` library instead of a folder of images: its Hub id, a folder of parquet files, or what
    save_to_disk wrote. Its train split is read."""

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
    """Column of the caption. It may hold a list of captions; one of them is drawn for each epoch."""

    caption_template: str | None = None
    """Makes captions from columns, as in 'a {colour} {kind}': the values of categories become the condition."""

    trigger_word: str | None = None
    """A word that every caption must hold, because prompts will; each caption without it is named."""

    max_train_samples: int | None = None
    """Train on this many examples, chosen by content, the same ones every time."""

    resolution: int | None = None
    """Side in pixels of the square the model sees. Not given: the model's own size."""

    center_crop: bool = False
    """Cut the square from the centre instead of a random place."""

    random_flip: bool = False
    """Mirror half of the views from left to right."""

    cache_variants: int = 4
    """Random views kept per image; 1 when centred and not flipped, for then all views are equal."""

    image_interpolation_mode: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    """Filter used to resize."""

    alpha_background: str = "white"
    """Colour put behind transparent pixels: a name or #rrggbb."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be decoded; skipped ones are counted and listed."""

    missing_caption: Literal["error", "skip", "empty"] = "error"
    """What to do with an image without a caption; skipped or emptied ones are counted and listed."""

    caption_dropout: float | None = None
    """Share of examples, chosen anew each epoch, trained without their caption, so that guidance keeps working. Not
    given: 0.1, or 0 for a model whose sampler has no classifier-free guidance (FLUX)."""

    cache_dir: str | None = None
    """Where downloaded models and encoded examples are kept. Not given: the Hub's cache and ~/.cache/t2i-lora."""

    dataloader_num_workers: int = 0
    """Processes that load cached examples; the result is the same for any number."""

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
            resolution=(8, infinity),
            validation_split=(0, 0.9),
            cache_variants=(1, infinity),
            caption_dropout=(0, 1),
            dataloader_num_workers=(0, infinity),
        )
        if self.resolution is not None and self.resolution % SIZE_MULTIPLE:
            near = round(self.resolution / SIZE_MULTIPLE) * SIZE_MULTIPLE
            problems.append(f"--resolution {self.resolution} must be a multiple of {SIZE_MULTIPLE}; {near} is near.")
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
        if self.trigger_word is not None and not any(letter.isalnum() for letter in self.trigger_word):
            problems.append(f"--trigger_word {self.trigger_word!r} holds no letter or digit; give a word.")
        if self.caption_template is not None:
            try:
                captions.fields_of(self.caption_template)
            except ValueError as error:
                problems.append(f"--caption_template {error}.")
        if self.caption_column == "":
            problems.append("--caption_column is empty; name the column that holds the caption.")
        return problems

    @property
    def variants(self) -> int:
        """Views kept per image: one where crop and flip leave nothing to chance."""
        return 1 if self.center_crop and not self.random_flip else self.cache_variants
