"""What the verbs do with adapter files: look at them, write them in another format, add them up."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import pipeline
from pipeline import atomic
from pipeline.adapter.files import arithmetic, cutting, kohya, layouts, peft_config, reader, summary
from pipeline.adapter.files.layouts import Layout
from pipeline.adapter.files.reader import AdapterFile
from pipeline.adapter.names import DENOISERS, Kind, as_in_files, is_magnitude, pairs
from pipeline.console import quiet_libraries, say, tell
from pipeline.errors import CheckpointError, ConfigError, listed
from pipeline.families import registry
from pipeline.families.base import Family
from pipeline.families.meta import Layers, layer_shapes
from pipeline.families.options import ModelOptions

TOLERANCE = 1e-6  # of what is added to a weight; files of 16 bits round more


def inspect(path: Path, base: Path | None, as_json: bool) -> None:
    """Say what an adapter is and what is wrong with it. Raises CheckpointError, at the end, for one without use."""
    layers = _layers(_family(base))
    facts = summary.summary(reader.parse(path, layers))
    say(json.dumps(facts, indent=2) if as_json else summary.text(facts))
    if facts["problems"]:
        reader.read(path, layers)  # layers of zeros alone are no hindrance


def export(path: Path, to: Path, kind: Kind, base: Path | None, rank: int | None = None) -> None:
    """Write an adapter in another format, and prove it by reading it back.

    `to` is a new .safetensors file, for PEFT a new folder. `base` is the folder of the base model: needed to
    read and to write kohya's names, and for DoRA outside diffusers. With `rank` every layer is cut to it, DoRA made a
    plain LoRA, and what is lost printed block by block. Raises ConfigError for what cannot be written so,
    CheckpointError for a file that cannot be read.
    """
    _require_new(to, folder=kind == "peft")
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank} must be at least 1.")
    family = _family(base)
    layers = _layers(family)
    file, lost = _read(path, layers, rank), list[str]()
    if rank is not None:
        file, lost = cutting.cut(file, rank, lambda names: cutting.loaded(family)(names))
    if kind == "comfyui" and cutting.has_dora(file):
        tensors = _whole_for_comfyui(file, family, layers)
        _commit(to, tensors, _note(file), lambda temp: _require_bytes(tensors, load_file(temp)))
    elif kind == "peft":
        with _named(to):
            atomic.commit_folder(to, lambda temp: _write_peft(temp, file, layers))
    elif kind != "diffusers":
        tensors, header = _in_layout(file, kind, family, layers, to)
        _commit(to, tensors, header | _note(file), lambda temp: _require_equal(file.tensors, reader.read(temp, layers)))
    else:
        _refuse_lost_dora(file)
        tensors = as_in_files(file.tensors)
        _commit(to, tensors, _note(file), lambda temp: _require_equal(tensors, reader.read(temp, None)))
    say("\n".join([f"Adapter  {to}", *lost]))


def merge(paths_and_weights: list[tuple[Path, float]], to: Path, rank: int | None, base: Path | None) -> None:
    """Write the weighted sum of adapters as one file, of `rank` at most if that is given.

    Without `rank` it is exact, and the ranks add up. With it, what is lost is printed block by block. Raises
    ConfigError and CheckpointError for what makes no sum.
    """
    _require_new(to, folder=False)
    layers = _layers(_family(base))
    parts = [(_read(path, layers), weight) for path, weight in paths_and_weights]
    _require_one_family([file for file, _ in parts])
    whole = arithmetic.merged([(file.tensors, weight) for file, weight in parts])
    _refuse_nothing(whole)
    result, errors = (whole, dict[str, float]()) if rank is None else arithmetic.resized(whole, rank)
    note = json.dumps({"version": pipeline.__version__, "merged_with_weights": [weight for _, weight in parts]})
    result = as_in_files(result)
    _commit(to, result, {summary.NOTE: note}, lambda temp: _require_equal(result, reader.read(temp, None)))
    ranks = [len(a) for a, _ in pairs(result).values()]
    number = f"{len(parts)} adapter{'s' if len(parts) > 1 else ''}"
    say(f"Adapter  {to}: {number} in {len(ranks)} layers, rank {max(ranks)} at most")
    if rank is not None:
        sizes = {name: arithmetic.norm(*pair) for name, pair in pairs(whole).items()}
        say("\n".join(cutting.shares_lost(sizes, errors)))


def _whole_for_comfyui(file: AdapterFile, family: Family | None, layers: Layers | None) -> dict[str, Tensor]:
    weights_of = cutting.loaded(family)
    assert family is not None, "or there are no weights"
    assert layers is not None, "nor their shapes"
    if cutting.are_fused(type(family)):
        raise ConfigError(
            f"DoRA of {family.name} is written for ComfyUI only as a product; give --rank, as in --rank 32."
        )
    return cutting.whole_for_comfyui(file, type(family), layers, weights_of)


def _read(path: Path, layers: Layers | None, rank: int | None = None) -> AdapterFile:
    """The adapter of a file, and on stderr what of the file is left out."""
    file = reader.read(path, layers, rank)
    for note in file.notes:
        tell(f"note: {path}: {note}")
    return file


def _note(file: AdapterFile) -> dict[str, str]:
    """Our own entry in the header, as it was."""
    return {summary.NOTE: file.header.get(summary.NOTE) or json.dumps({"version": pipeline.__version__})}


def _family(base: Path | None) -> Family | None:
    if base is None:
        return None
    folder = None if base.is_file() else ModelOptions(pretrained_model_name_or_path=str(base)).local_folder
    if folder is None:
        raise CheckpointError(f"{base} is no folder; --base takes the folder of a diffusers model.")
    return registry.detect(folder)


def _layers(family: Family | None) -> Layers | None:
    if family is None:
        return None
    with quiet_libraries():
        return layer_shapes(family)


def _require_new(to: Path, *, folder: bool) -> None:
    if to.exists():
        raise ConfigError(f"{to} exists; give a new name, nothing is overwritten.")
    if folder and to.suffix == ".safetensors":
        raise ConfigError(f"{to}: PEFT's format is a folder; leave .safetensors out.")
    if not folder and to.suffix != ".safetensors":
        raise ConfigError(f"{to} must end in .safetensors.")


def _commit(to: Path, tensors: dict[str, Tensor], header: dict[str, str], check: Callable[[Path], None]) -> None:
    """Write a file temp, check it there, and only then under its name."""
    temp = to.with_name(f".{to.stem}.unchecked.safetensors")
    with _named(to):
        try:
            atomic.write_tensors(temp, tensors, header)
            check(temp)
            atomic.write_bytes(to, temp.read_bytes())
        finally:
            temp.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(to: Path) -> Iterator[None]:
    """What cannot be written is called by the name that was given."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{to} cannot be written: {error.strerror or error}.") from error


def _require_equal(written: dict[str, Tensor], back: AdapterFile) -> None:
    """Raise CheckpointError unless what was read back adds to every weight what it should."""
    expected, found = pairs(written), pairs(back.tensors)
    problems = [f"{name} is not in both" for name in sorted(expected.keys() ^ found.keys())]
    for name in expected.keys() & found.keys():
        rounding = max(torch.finfo(value.dtype).eps for value in (*expected[name], *found[name]))
        off = arithmetic.distance(expected[name], found[name])
        off /= arithmetic.norm(*expected[name]) or 1.0  # halves that are not zero may add nothing
        if not off <= max(TOLERANCE, rounding):
            problems.append(f"{name} is {off:.2g} off")
    magnitudes = {name for name in (*written, *back.tensors) if is_magnitude(name)}
    for name in sorted(magnitudes):
        if name not in written or name not in back.tensors or not torch.equal(written[name], back.tensors[name]):
            problems.append(f"{name} is not the same")
    if problems:
        raise CheckpointError(
            f"What was written does not read back as the same adapter, so it is not kept:\n{listed(problems)}"
        )


def _require_bytes(written: dict[str, Tensor], back: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless every tensor comes back as it was."""
    wrong = [name for name in written.keys() | back.keys() if name not in written or name not in back]
    wrong += [name for name in written.keys() & back.keys() if not torch.equal(written[name], back[name])]
    if wrong:
        raise CheckpointError(
            f"What was written does not read back the same, so it is not kept:\n{listed(sorted(wrong))}"
        )


def _in_layout(
    file: AdapterFile, layout: Layout, family: Family | None, layers: Layers | None, to: Path
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header for other programs, with one alpha for all layers: diffusers forgets those that differ."""
    own = type(family) if family else registry.named(file.family or summary.family_of(file.tensors))
    if own is not None:
        layouts.require_names(layout, own)
    if own is None or (family is None and own.comfyui_prefixes):
        raise ConfigError("kohya's names need the base model: give its folder with --base.")
    alphas = [round(alpha, 6) for alpha in file.alphas.values()]
    alpha = peft_config.commonest(alphas)
    tensors = layouts.to_layout(layout, file.tensors, dict.fromkeys(file.alphas, alpha), own, layers or {})
    if family is None:
        return tensors, {}
    facts = summary.facts_of(file.header)
    header = kohya.modelspec(
        architecture=family.architecture,
        title=facts.get("title", to.stem),
        size=family.native_size,
        rank=max(len(a) for a, _ in pairs(file.tensors).values()),
        alpha=alpha,
        trigger=facts.get("trigger"),
        licence=facts.get("licence"),
        tensors_digest=kohya.digest(tensors),
    )
    return tensors, header


def _write_peft(folder: Path, file: AdapterFile, layers: Layers | None) -> None:
    """A PEFT adapter of the denoiser; a folder for each model of the pipeline where others have adapters too."""
    components = {name.partition(".")[0] for name in file.tensors}
    if layers is None and not components <= set(DENOISERS):
        raise ConfigError("What PEFT calls a text encoder's layers depends on the model: give its folder with --base.")
    alone = components <= set(DENOISERS)
    for component in sorted(components):
        place = folder if alone else folder / component
        own = {name.partition(".")[2]: v for name, v in file.tensors.items() if name.startswith(f"{component}.")}
        named = {f"base_model.model.{name}": value for name, value in own.items()}
        atomic.write_tensors(place / reader.PEFT_FILE, named, _note(file))
        atomic.write_text(place / reader.PEFT_CONFIG, json.dumps(peft_config.config_of(own), indent=2) + "\n")
    _require_equal(file.tensors, reader.read(folder, layers))


def _refuse_lost_dora(file: AdapterFile) -> None:
    lost = [name for name in file.tensors if is_magnitude(name) and not name.startswith(DENOISERS)]
    if lost:
        raise ConfigError(f"diffusers does not load DoRA for text encoders; export to peft instead:\n{listed(lost)}")


def _require_one_family(adapters: Iterable[AdapterFile]) -> None:
    """Raise CheckpointError for adapters of two families."""
    several = list(adapters)
    guessed = {str(file.path): file.family or summary.family_of(file.tensors) for file in several}
    if len(set(guessed.values()) - {summary.UNKNOWN}) > 1:
        facts = [f"{path}: {family}" for path, family in guessed.items()]
        raise CheckpointError(f"These adapters are for different models:\n{listed(facts)}")


def _refuse_nothing(tensors: dict[str, Tensor]) -> None:
    """Raise ConfigError where adapters take back what others add, or add more than a number can be."""
    found = pairs(tensors).items()
    if vast := [name for name, (a, b) in found if not math.isfinite(float(a.norm() * b.norm()))]:
        raise ConfigError(f"With these weights the adapters add more than can be computed with:\n{listed(vast)}")
    gone = [name for name, (a, b) in found if arithmetic.norm(a, b) <= TOLERANCE * float(a.norm() * b.norm())]
    if gone:
        raise ConfigError(f"With these weights the adapters add nothing to some layers:\n{listed(gone)}")
