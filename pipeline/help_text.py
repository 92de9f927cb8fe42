"""The text of --help: every flag with its meaning and default, in the groups of the method."""

import ast
import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import ConfigError

INTRODUCTION = """Usage: accelerate launch train_lora.py [FLAGS]
       python train_lora.py --help GROUP     (one group, or one flag)

Fine-tune a text-to-image model with LoRA, and verify the adapter that comes out. With no flags: the starter base on the
starter dataset. Any flag is also a key of --config run.toml, where several sources of data are tables [[source]].

    accelerate launch train_lora.py
    accelerate launch train_lora.py --train_data_dir photos \\
      --pretrained_model_name_or_path user/model
    python train_lora.py --config outputs/demo/run.toml \\
      --resume_from_checkpoint latest"""
MEANINGS = {  # of the flags that are no option of a run
    "config": "A run.toml to start from; flags override it.",
    "recipe": "A shipped recipe to start from; --config and flags override it, with none too, as in --snr_gamma none.",
    "dry_run": "Check everything and print the plan, without loading a denoiser.",
    "for": "With --dry_run: plan memory and time for a card that is not here, such as rtx4090, rtx3060, h100.",
    "debug": "Show tracebacks.",
    "version": "Print the version.",
}
WORDS = {str: "TEXT", int: "N", float: "X"}
MIN_WIDTH, MAX_WIDTH = 79, 120  # of a terminal: nothing is broken at 80 columns


def documented(section: object) -> dict[str, str]:
    """The string under each field of a dataclass, on one line."""
    texts = {}
    kinds = (kind for kind in reversed(type(section).__mro__) if dataclasses.is_dataclass(kind))
    bodies = (ast.parse(inspect.getsource(kind)).body[0].body for kind in kinds)  # type: ignore[attr-defined]  # a class
    for field, text in itertools.chain.from_iterable(map(itertools.pairwise, bodies)):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                texts[name] = " ".join(words.split())
    return texts


def shown(value: object) -> str:
    """A default as people write it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def help_text(groups: Mapping[str, object], wanted: str | None) -> str:
    """The introduction and every group, or the group or flag that is wanted. Raises ConfigError if there is none."""
    width = max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH))
    name = None if wanted is None else wanted.lstrip("-").replace("-", "_")
    if name is None:
        return "\n\n".join([_wrapped(INTRODUCTION, width), *(_group(*pair, width) for pair in groups.items())])
    if name in groups:
        return _group(name, groups[name], width)
    for section in groups.values():
        if name in documented(section):
            return _flag(section, name, documented(section)[name], width)
    raise ConfigError(f"--help {wanted}: neither a group ({', '.join(groups)}) nor a flag.")


def _group(name: str, section: object, width: int) -> str:
    lines = [textwrap.fill(f"{name}: {str(type(section).__doc__).splitlines()[0]}", width)]
    lines += [_flag(section, flag, text, width) for flag, text in documented(section).items()]
    if name == "run":
        lines += [_entry(f"--{flag}", text, width) for flag, text in MEANINGS.items()]
    return "\n".join(lines)


def _flag(section: object, name: str, text: str, width: int) -> str:
    annotation, default = get_type_hints(type(section))[name], getattr(section, name)
    word = _word(annotation)
    if len(f"  --{name} {word}") > MIN_WIDTH:
        word, text = "NAME", f"{text} One of {word.replace('|', ', ')}."
    usual = "" if default is None or default == () else f" [{shown(default)}]"
    return _entry(f"--{name} {word}" if word else f"--{name}, --no-{name}", text + usual, width)


def _entry(head: str, text: str, width: int) -> str:
    return f"  {head}\n{textwrap.fill(text, width, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"


def _word(annotation: Any) -> str:
    """What stands for a value: its choices, or its kind; nothing for a switch."""
    parts = [part for part in (get_args(annotation) or (annotation,)) if part not in (NoneType, Ellipsis)]
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    return "|".join(map(str, choices)) or ("" if bool in parts else WORDS.get(parts[0], "TEXT"))


def _wrapped(text: str, width: int) -> str:
    """Paragraphs filled to a width; indented lines stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith((" ", "Usage")) else textwrap.fill(p, width) for p in paragraphs)
