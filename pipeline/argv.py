"""The words of a command line before they are parsed: one spelling of flags, and what is wrong with single words."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline.errors import ConfigError, printable

FlagKind = Literal["switch", "whole", "values", "value"]  # --x or --no-x; a whole number; may be repeated; one value
NEGATIVE = "--no-"
LONG_DASHES = ("\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")  # that word processors make of hyphens

UNCONVERTED = re.compile(r"Invalid value for (?P<flag>\S+): unable to convert \"(?P<value>.*)\" into (?P<kind>.+)\.")
KINDS_OF_NUMBERS = {"int": "a whole number", "float": "a number", "int|Literal[auto]": "a whole number, or auto"}
ALSO_CALLED = {"instance_data_dir": "train_data_dir"}  # in diffusers' DreamBooth scripts, with the same meaning
# What kohya's scripts, diffusers' DreamBooth, ai-toolkit and OneTrainer call options that are here by another name.
OF_OTHERS = {
    "alpha_mask": "--masked_loss, which reads transparency too",
    "caption_dropout_rate": "--caption_dropout",
    "caption_tag_dropout_rate": "--tag_dropout",
    "class_tokens": "--instance_prompt",
    "enable_bucket": "always on: leave it out",
    "flip_aug": "--random_flip",
    "gradient_accumulation": "--gradient_accumulation_steps",
    "lora_rank": "--rank",
    "lr": "--learning_rate",
    "max_token_length": "--long_prompts chunks",
    "max_train_epochs": "--num_train_epochs",
    "min_snr_gamma": "--snr_gamma",
    "network_alpha": "--lora_alpha",
    "network_args": "--lora_layers and its neighbours, see --help adapter",
    "network_dim": "--rank",
    "network_dropout": "--lora_dropout",
    "network_module": "always LoRA: leave it out",
    "network_weights": "--init_lora",
    "optimizer_type": "--optimizer",
    "output_name": "--output_dir",
    "reg_data_dir": "--class_data_dir, with --with_prior_preservation",
    "sample_every_n_epochs": "--validation_epochs",
    "sample_every_n_steps": "--validation_steps",
    "sample_prompts": "--validation_prompt, once for each",
    "image_dir": "--train_data_dir",
    "is_reg": "--class_data_dir, with --with_prior_preservation",
    "num_repeats": "--repeats",
    "keep_tokens_separator": "not offered: see --keep_tokens",
    "save_every_n_epochs": "--checkpointing_steps, in steps",
    "save_every_n_steps": "--checkpointing_steps",
    "shuffle_caption": "--shuffle_tags",
    "shuffle_tokens": "--shuffle_tags",
    "steps": "--max_train_steps",
    "unet_lr": "--learning_rate",
    "v_parameterization": "read from the model's scheduler: leave it out",
    "vae": "--pretrained_vae_model_name_or_path",
    "xformers": "always on, as PyTorch's own attention: leave it out",
    "zero_terminal_snr": "--rescale_betas_zero_snr",
}


# Flags of diffusers' training scripts that are refused, each with its alternative.
REFUSED = {
    "source": "sources are tables [[source]] in the file that --config names; see docs/data.md.",
    "cache_latents": "latents are always kept, as mean and deviation: leave it out.",
    "upcast_before_saving": "the adapter is trained and saved in float32 anyway: leave it out.",
    "proportion_empty_prompts": "say it with --caption_dropout.",
    "local_rank": "accelerate launch tells each process its rank: leave it out.",
    "enable_xformers_memory_efficient_attention": "PyTorch's own efficient attention is always on: leave it out.",
}


def without(argv: Sequence[str], flag: str) -> list[str]:
    """The same words without the first use of a flag and what follows it; all of them where it is not there."""
    place = next((place for place, word in enumerate(argv) if word.split("=")[0] == flag), None)
    if place is None:
        return list(argv)
    rest = list(argv[place + 1 :])
    _take(rest)
    return [*argv[:place], *rest]


def value_of(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag, None where it is not given. Raises ConfigError for a flag without one."""
    for position, word in enumerate(argv):
        if word == f"--{name}":
            if position + 1 == len(argv):
                raise ConfigError(f"--{name} needs a value after it.")
            return argv[position + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def spelled(argv: Sequence[str]) -> list[str]:
    """The same words with underscores in the names of flags: --train-data-dir is --train_data_dir."""
    return [_spelled(word) for word in argv]


def _spelled(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    negative = NEGATIVE if re.match("--no[-_]", name) else "--"
    name = name[len(negative) :].replace("-", "_")
    return negative + ALSO_CALLED.get(name, name) + equals + value


def doubled(argv: Sequence[str], kinds: Mapping[str, FlagKind]) -> dict[str, str]:
    """A sentence for each flag that may be given once and is given more often, under one name or two."""
    given: dict[str, list[tuple[str, str]]] = {}  # as it was typed, with its value
    for place, word in enumerate(argv):
        name = bare(_spelled(word))
        if word.startswith("--") and kinds.get(name, "values") != "values":
            typed, equals, value = word.partition("=")
            rest = list(argv[place + 1 :])
            given.setdefault(name, []).append((typed, value if equals else "".join(_take(rest)[:1])))
    return {
        name: _doubled(several, is_switch=kinds[name] == "switch")
        for name, several in given.items()
        if len(several) > 1
    }


def _doubled(several: list[tuple[str, str]], *, is_switch: bool) -> str:
    """What is said of one flag, given several times: each time as it was typed, with its value."""
    names, values = list(dict.fromkeys(typed for typed, _ in several)), [repr(value) for _, value in several]
    if is_switch and len({_spelled(name) for name in names}) > 1:
        return f"{' and '.join(names)} say the opposite of each other; keep one."
    what = f"{' and '.join(names)} are one flag" if len(names) > 1 else f"{names[0]} takes one value"
    if is_switch:
        what = what if len(names) > 1 else f"{names[0]} is given {len(several)} times"
        return f"{what}; keep one."
    return f"{what}, given {', '.join(values[:-1])} and {values[-1]}; keep one."


def bare(flag: str) -> str:
    """The name of the option that a flag is about: rank of --rank=4, center_crop of --no-center_crop."""
    return flag.split("=")[0].removeprefix(NEGATIVE if flag.startswith(NEGATIVE) else "--")


def with_home(argv: Sequence[str]) -> list[str]:
    """The same words with ~ as the home folder where one begins, as in --to=~/pictures, which no shell expands."""
    return [re.sub(r"^(--[^=]+=)?(~.*)$", lambda m: (m[1] or "") + os.path.expanduser(m[2]), word) for word in argv]


def require_text(argv: Sequence[str]) -> None:
    """Raise ConfigError for words that Python could not decode: what it stands in their place fits no text."""
    odd = [word for word in argv if any("\ud800" <= letter <= "\udfff" for letter in word)]
    if not odd:
        return
    words = ", ".join(f"'{printable(word)}'" for word in odd)
    if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
        raise ConfigError(
            f"The locale is not UTF-8, so {words} cannot be read as text. Set PYTHONUTF8=1 (or LC_ALL=C.UTF-8) first."
        )
    raise ConfigError(f"{words}: not UTF-8. Give text as UTF-8, and rename files and folders to it.")


def problems(argv: Sequence[str], kinds: Mapping[str, FlagKind]) -> list[str]:
    """What is wrong with the words of a command line, one sentence each; unknown flags are not looked at."""
    found: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            if not word.startswith("-"):
                found.append(f"{word!r} belongs to no flag.")
            continue
        flag, equals, value = word.partition("=")
        kind = kinds.get(bare(flag))
        if kind is None:
            _take(words)
        elif kind == "switch":
            loose = [] if equals else _take(words)
            found += [f"{flag} takes no value; give {flag} or {_opposite(flag)}, without {_quoted(loose)}."] * bool(
                loose
            )
        elif not equals and (not words or _is_flag(words[0], kinds)):
            found.append(f"{flag} needs a value after it.")
        elif not equals and _has_dash(words[0]):
            found.append(f"{flag} needs a value; one that begins with a dash is written {flag}={words.pop(0)!r}.")
        else:
            value = value if equals else words.pop(0)
            found += [f"{flag} {value} must be a whole number."] * (kind == "whole" and not is_whole(value))
            loose = _take(words)
            if value == "=":
                found.append(f"{flag} = {' '.join(loose)}: no spaces around '='; write {flag}={' '.join(loose)}.")
            elif any(word.startswith(LONG_DASHES) for word in loose):
                found.append(f"{_quoted(loose)} begins with a long dash; flags begin with two hyphens, as in {flag}.")
            elif loose:
                several = f"; give {flag} once for each" if kind == "values" else ""
                found.append(f"{_quoted(loose)} after {flag} {value!r}: put text with spaces in quotes{several}.")
    return found


def in_words(refused: str) -> str:
    """What the parser says of a value, where it names a type of Python in the words for it."""
    found = UNCONVERTED.fullmatch(refused.strip())
    kind = KINDS_OF_NUMBERS.get(found["kind"]) if found else None
    return refused.strip() if found is None or kind is None else f"{found['flag']} {found['value']!r} must be {kind}."


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, or none at all, which the parser reports."""
    try:
        return float(str(value)).is_integer()
    except ValueError:
        return True


def _take(words: list[str]) -> list[str]:
    """Take the words up to the next flag; a number below zero is none."""
    taken = []
    while words and not _has_dash(words[0]):
        taken.append(words.pop(0))
    return taken


def _has_dash(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-(\d.*|\.\d.*|inf|nan)?", word)


def _is_flag(word: str, kinds: Mapping[str, FlagKind]) -> bool:
    return word.startswith("--") and bare(word) in kinds


def _opposite(flag: str) -> str:
    return f"--{flag.removeprefix(NEGATIVE)}" if flag.startswith(NEGATIVE) else f"{NEGATIVE}{flag.removeprefix('--')}"


def _quoted(words: list[str]) -> str:
    return ", ".join(map(repr, words))
