"""Options of the dataset."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained on, and how pictures become model input."""

    train_data_dir: str | None = None
    """Folder of images with metadata.jsonl or one .txt per image. Not given: the starter dataset."""

    evaluation_data_dir: str | None = None
    """Folder, in the same layout, of true images never trained on: the page shows them beside what was learnt."""

    validation_split: float | None = None
    """Share of the images held out of training, by content; their loss chooses what is published. Not given: 0.1, at
    least 4 images, and none of fewer than 40."""

    image_column: str = "file_name"
    """Key of the file name in metadata.jsonl."""

    caption_column: str = "text"
    """Key of the caption in metadata.jsonl."""

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

    caption_dropout: float = 0.1
    """Share of examples, drawn anew each epoch, trained with the null caption, so that guidance keeps working."""

    cache_dir: str | None = None
    """Where downloaded models and encoded examples are kept. Not given: the Hub's cache and ~/.cache/t2i-lora."""

    dataloader_num_workers: int = 0
    """Processes that load cached examples; the result is the same for any number."""

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
        if self.image_column == "":
            problems.append("--image_column is empty; name the key of metadata.jsonl that holds the file name.")
        return problems

    @property
    def variants(self) -> int:
        """Views kept per image: one where crop and flip leave nothing to chance."""
        return 1 if self.center_crop and not self.random_flip else self.cache_variants
