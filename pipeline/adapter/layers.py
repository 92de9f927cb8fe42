"""Which layers are adapted, and each one's rank and alpha."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pipeline.adapter.options import AdapterOptions, patterns_of
from pipeline.errors import ConfigError
from pipeline.families.meta import ADAPTABLE
from pipeline.families.targets import TargetModules

LINEAR, CONV = "all-linear", "all-linear+conv"  # by the type of the layers; the other presets a family spells out
PRESETS = ("attention", "attention+mlp", LINEAR, CONV, "condition_only")


@dataclass(frozen=True)
class TargetModule:
    """One layer to be adapted."""

    name: str
    layer: nn.Module
    rank: int
    alpha: float
    use_rslora: bool
    use_dora: bool
    prefix: str = ""  # of a text encoder's layers, in patterns and draws

    @property
    def scale(self) -> float:
        """What the addition is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def num_weights(self) -> int:
        """Weights of A and B, and with DoRA of the magnitudes."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            inputs, outputs, sides = layer.in_features, layer.out_features, 1
        else:
            assert isinstance(layer, nn.Conv2d)
            inputs, outputs, sides = layer.in_channels, layer.out_channels, math.prod(layer.kernel_size)
        return self.rank * (inputs * sides + outputs) + (outputs if self.use_dora else 0)


def target_modules(model: nn.Module, options: AdapterOptions, targets: TargetModules) -> list[TargetModule]:
    """The layers of a denoiser that --lora_layers names. Raises ConfigError for what names none."""
    return target_modules_of({"denoiser": (model, targets)}, options)["denoiser"]


def target_modules_of(
    models: Mapping[str, tuple[nn.Module, TargetModules]], options: AdapterOptions
) -> dict[str, list[TargetModule]]:
    """The layers to adapt of each model, with their ranks and alphas; the denoiser comes first, then text encoders.

    Patterns see a text encoder's layers with its name before theirs, as in 'text_encoder.*=4'. Raises
    ConfigError for what names no layer.
    """
    layers: dict[str, nn.Module] = {}
    chosen: dict[str, str] = {}  # by name with prefix, of which model
    for number, (component, (model, targets)) in enumerate(models.items()):
        prefix = f"{component}." if number else ""
        own = {f"{prefix}{name}": module for name, module in model.named_modules() if _can_be_adapted(module)}
        flag = "text_encoder_layers" if number else "lora_layers"
        chosen |= dict.fromkeys(_chosen(own, flag, getattr(options, flag), targets), component)
        layers |= own
    names = list(chosen)
    ranks = _valued(names, "rank_pattern", options.rank_pattern)
    alphas = _valued(names, "alpha_pattern", options.alpha_pattern)
    found: dict[str, list[TargetModule]] = {component: [] for component in models}
    for name, component in chosen.items():
        rank = round(ranks.get(name, options.rank))
        alpha = alphas.get(name, float(rank) if options.lora_alpha is None else options.lora_alpha)
        prefix = f"{component}." if component != next(iter(models)) else ""
        plain = name.removeprefix(prefix)
        use_dora = options.use_dora and not prefix  # diffusers loses the magnitudes of a text encoder (0.42)
        module = TargetModule(plain, layers[name], rank, alpha, options.use_rslora, use_dora, prefix)
        found[component].append(module)
    return found


def _can_be_adapted(module: nn.Module) -> bool:
    """Linear and convolutional layers; not those that keep channels apart, whose weight is no product of two."""
    return isinstance(module, ADAPTABLE) and getattr(module, "groups", 1) == 1


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a layer: by the end of its name, from a dot on; * stands for anything."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _chosen(layers: dict[str, nn.Module], flag: str, text: str, targets: TargetModules) -> list[str]:
    """The names of the layers that some part of the flag's value selects."""
    selected: set[str] = set()
    unmatched = []
    for part in (part.strip() for part in text.split(",")):
        words = [part] if part in (LINEAR, CONV) else [word.strip() for word in part.split("+")]
        found = {word: _selected(layers, word, targets) for word in words}
        unmatched += [word for word, names in found.items() if not names]
        selected = selected.union(*found.values())
    if unmatched:
        endings = sorted({name.rsplit(".", 1)[-1] for name in layers if not name.rsplit(".", 1)[-1].isdigit()})
        raise ConfigError(
            f"--{flag}: {', '.join(unmatched)} matches no layer that can learn; "
            f"give {', '.join(PRESETS)}, or layers' names: they end in {', '.join(endings)}."
        )
    return [name for name in layers if name in selected]


def _selected(layers: dict[str, nn.Module], part: str, targets: TargetModules) -> set[str]:
    if part in (LINEAR, CONV):
        kinds = nn.Linear | nn.Conv2d if part == CONV else nn.Linear
        found = {name for name, layer in layers.items() if isinstance(layer, kinds)}
    else:
        patterns = targets.named.get(part, (part,))
        found = {name for name in layers if any(matches(name, pattern) for pattern in patterns)}
    return {name for name in found if not any(matches(name, pattern) for pattern in targets.without_gradient)}


def _valued(names: list[str], flag: str, text: str | None) -> dict[str, float]:
    """The value of each layer that some pattern names; of several patterns the last counts."""
    values: dict[str, float] = {}
    unmatched = []
    for pattern, value in patterns_of(flag, text).items():
        found = [name for name in names if matches(name, pattern)]
        values |= dict.fromkeys(found, value)
        if not found:
            unmatched.append(pattern)
    if unmatched:
        raise ConfigError(f"--{flag}: {', '.join(unmatched)} matches no adapted layer (see --lora_layers).")
    return values
