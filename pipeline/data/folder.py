"""What lies in a dataset folder: images, caption files, metadata files, and everything that is left out."""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.data import images
from pipeline.data.rows import Findings
from pipeline.notes import Note

VECTORS, PHOTOS = "svg svgz eps", "heic heif hif jxl jxr exr hdr"
RAW_PHOTOS = "raw dng nef cr2 cr3 arw orf rw2 raf pef srw x3f 3fr iiq erf kdc mrw"
UNREAD = frozenset(f".{name}" for name in f"{VECTORS} {PHOTOS} {RAW_PHOTOS}".split())
JUNK = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "zbthumbnail.info"})
JUNK_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
DOCUMENTS = frozenset({"readme.md", "license", "license.md", "croissant.json", "croissant.csv"})
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
RUN_FILES = ("run.toml", "status.json")
SPLITS = {"--train_data_dir": ("train",), "--evaluation_data_dir": ("test", "validation", "val")}
ALL_SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval"})


@dataclass
class Contents:
    """The files of a folder and the folders in it, by their names within it, with slashes."""

    root: Path
    images: dict[str, Path] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)  # name without its extension -> caption files
    masks: dict[str, Path] = field(default_factory=dict)  # of images, by the images' names, once they are taken
    tables: dict[str, list[str]] = field(default_factory=dict)  # folder, '' for the root -> its metadata files
    unread: list[str] = field(default_factory=list)  # images in formats that are not decoded
    others: list[str] = field(default_factory=list)

    def has_any(self, folder: str) -> bool:
        """Whether an image or a metadata file lies in this folder itself."""
        return folder in self.tables or any(_parent(name) == folder for name in (*self.images, *self.unread))


def look(root: Path, flag: str, caption_extensions: frozenset[str], findings: Findings) -> Contents:
    """Everything in a folder, or in its split for training where the folder consists of splits.

    Linked folders are read too, each once. Output folders of runs are not, and what is left out is noted.
    """
    noted = len(findings.notes)
    contents = _scan(root, caption_extensions, findings)
    split = _split(contents, flag)
    if split is not None:
        del findings.notes[noted:]
        others = {name.split("/")[0] for name in contents.images} - {split}
        findings.notes += [Note(f"only {root / split} is read; left out", f"{name}/") for name in sorted(others)]
        contents = _scan(root / split, caption_extensions, findings)
    for name in contents.others:
        kind = extension_of(name) or "other"
        findings.notes.append(Note(f"left out: {kind} files are neither images nor captions", name))
    return contents


@functools.lru_cache(maxsize=2**17)  # of each file it is asked several times
def extension_of(name: str) -> str:
    """The extension of a file in small letters, with its dot; '' where what follows the last dot is none."""
    extension = PurePosixPath(name).suffix.lower()
    return extension if re.fullmatch(r"\.[a-z0-9_]*[a-z][a-z0-9_]*~?", extension) else ""


def stem_of(name: str) -> str:
    """A name without its extension."""
    return name[: len(name) - len(extension_of(name))]


def keys_of(names: Iterable[str]) -> set[str]:
    """What the caption files of these images are called, without the extension: a.txt and a.png.txt are of a.png."""
    return {key for name in names for key in (name, stem_of(name))}


def orphans(captions: Mapping[str, list[str]], names: Iterable[str]) -> list[str]:
    """The caption files that belong to none of these images."""
    keys = keys_of(names)
    return sorted(file for key, files in captions.items() if key not in keys for file in files)


def mask_of(name: str) -> str:
    """What the image is called that a mask of this name belongs to, without extension; '' where it names no mask.

    x.mask.png and x-masklabel.png lie beside x.png, masks/x.png beside it or at the top of the dataset.
    """
    if "mask" not in name:
        return ""
    path = PurePosixPath(name)
    for ending in (".mask", "-masklabel"):
        if path.stem.endswith(ending):
            return str(path.with_name(path.stem.removesuffix(ending)))
    rest = list(path.parts[:-1])
    if "masks" not in rest:
        return ""
    rest.remove("masks")
    return str(PurePosixPath(*rest, path.stem))


def take_masks(contents: Contents, findings: Findings) -> None:
    """Put masks apart from images; a mask of no image, or the second of one, is a problem."""
    owners = {stem_of(name): name for name in contents.images if not mask_of(name)}
    for name in [name for name in contents.images if mask_of(name)]:
        path, owner = contents.images.pop(name), owners.get(mask_of(name))
        if owner is None:
            findings.problems.append(f"{name} is the mask of an image that is not there ({mask_of(name)}.png, say)")
        elif owner in contents.masks:
            findings.problems.append(f"{name} and {contents.masks[owner].name} are two masks of {owner}; keep one")
        else:
            contents.masks[owner] = path


def _scan(root: Path, caption_extensions: frozenset[str], findings: Findings) -> Contents:
    contents = Contents(root)
    for folder in _folders(root, findings):
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            name = f"{prefix}{entry.name}"
            low = entry.name.lower()
            if _is(entry.is_dir) or low.startswith(".") or low in JUNK or low in DOCUMENTS:
                continue
            extension = extension_of(entry.name)
            if not _is(entry.is_file) and not entry.is_symlink():
                contents.others.append(name)  # a pipe, say, which would never end
            elif low in METADATA:
                contents.tables.setdefault(_parent(name), []).append(name)
            elif extension in caption_extensions:
                contents.captions.setdefault(stem_of(name), []).append(name)
            elif extension in images.extensions() or (not extension and images.is_image(Path(entry.path))):
                contents.images[name] = Path(entry.path)
            elif extension in UNREAD:
                contents.unread.append(name)
            else:
                contents.others.append(name)
    contents.images = dict(sorted(contents.images.items()))
    return contents


def _is(what: Callable[[], bool]) -> bool:
    """What an entry of a folder says it is; nothing, where links lead round in circles."""
    try:
        return what()
    except OSError:
        return False


def _folders(root: Path, findings: Findings) -> Iterator[Path]:
    """The folder and all below it, each once: real ones first, then those that links lead to."""
    seen = {str(parent) for parent in root.resolve().parents}  # a link to one of these leads back here
    waiting, links = [root], list[Path]()
    while waiting or links:
        folder = waiting.pop(0) if waiting else links.pop(0)
        name, real = f"{folder.relative_to(root).as_posix()}/", os.path.realpath(folder)
        if real in seen:
            findings.notes.append(Note("left out: a link to a folder that is read already or lies above", name))
        elif all((folder / file).is_file() for file in RUN_FILES):
            if folder == root:
                findings.problems.append("it is the output folder of a run; move the images to a folder of their own")
                return
            findings.notes.append(Note("left out: the output folder of a run", name))
        else:
            seen.add(real)
            try:
                entries = [Path(entry.path) for entry in os.scandir(folder) if _is(entry.is_dir)]
            except OSError as error:
                findings.problems.append(f"{name} cannot be opened ({error.strerror})")
                continue
            yield folder
            for child in sorted(entries):
                if not child.name.startswith((".", *JUNK_FOLDERS)):
                    (links if child.is_symlink() else waiting).append(child)


def _split(contents: Contents, flag: str) -> str | None:
    """The sub-folder to read in place of a folder that holds nothing itself but is cut into splits."""
    inside = {name.split("/")[0] for name in contents.images}
    if contents.has_any(""):
        return None
    for split in SPLITS.get(flag, ()):
        if split in inside and (split in contents.tables or inside <= ALL_SPLITS):
            return split
    return None


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def hints(contents: Contents) -> list[str]:
    """What lies in a folder that could hold the captions or images that are missed, and the step to take."""
    found = []
    beside: dict[str, list[str]] = {}  # extension -> files called like an image
    unread: dict[str, list[str]] = {}  # extension -> files of which nothing is known
    stems = keys_of(contents.images)
    for name in contents.others:
        extension = extension_of(name)
        if stem_of(name) in stems:
            beside.setdefault(extension, []).append(name)
        elif extension in (".csv", ".tsv", ".jsonl"):
            target = "metadata.jsonl" if extension == ".jsonl" else "metadata.csv"
            found.append(f"if {name} holds the captions, call it {target}, with the columns file_name and text")
        elif extension == ".json" and _parent(name) == "" and name not in ("dataset_info.json", "state.json"):
            found.append(f"if {name} holds the captions, make it metadata.jsonl: one object a line, file_name and text")
        elif extension == ".tar":
            found.append(f"{name} is not opened; unpack it, or give a WebDataset as --dataset_name")
        elif extension in (".zip", ".gz", ".tgz", ".7z", ".rar"):
            found.append(f"{name} is not opened; unpack it")
        elif extension not in (".parquet", ".arrow"):
            unread.setdefault(extension, []).append(name)
    found += [
        f"{name} looks like a mask; --masked_loss reads it as one" for name in contents.images if mask_of(name) in stems
    ]
    tables = [name for name in contents.others if extension_of(name) in (".parquet", ".arrow")]
    if tables:
        found.append(f"{tables[0]} is a table; give the folder as --dataset_name instead")
    if not contents.images:
        kinds = {kind: f"{kind} is not read" if kind else "without an extension it is not read" for kind in unread}
        found += [f"{names[0]}{_more(names)}: {kinds[kind]}" for kind, names in unread.items()]
    for extension, names in beside.items():
        step = f"--caption_extension {extension} reads such files"
        if extension in (".json", ".npz", ".safetensors"):
            step = "captions are read from .txt or .caption files"
        found.append(f"{names[0]}{_more(names)}: {step}")
    folders: dict[str, list[str]] = {}
    for name in orphans(contents.captions, contents.images):
        folders.setdefault(_parent(name), []).append(name)
    for folder, names in folders.items():
        if contents.has_any(folder):
            found.append(f"{names[0]}{_more(names)}: not called like an image; a.txt belongs to a.png")
        else:
            found.append(
                f"{folder or '.'}/ holds {len(names)} caption file(s); put each beside its image, called alike"
            )
    return found


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
