"""Every pair of optional flags together, two steps each: nothing raises, and the exported file is verified."""

import functools
import itertools
import random
from pathlib import Path

import pytest
from PIL import Image

from pipeline.training.options import OptimOptions
from tests.conftest import dedupe, status

pytestmark = pytest.mark.invariant
ON = ("on",)
CHOICES: dict[str, tuple[str | None, ...]] = {
    "optimizer": (None, "adamw_8bit", "prodigy", "adafactor", "adamw_schedule_free"),
    # Others are other functions of the step alone (tests/training/test_schedule.py).
    "lr_scheduler": (None, "constant", "cosine_with_restarts"),
    "random_flip": (None, *ON),
    "center_crop": (None, *ON),
    "random_rotation": (None, "5"),
    "color_jitter": (None, "0.2"),
    "use_ema": (None, *ON),
    "scale_lr": (None, *ON),
    "gradient_checkpointing": (None, *ON),
    "gradient_accumulation_steps": (None, "2"),
    "validation_split": (None, "0.5"),
    "keep": (None, "last"),
    "early_stopping_patience": (None, "1"),
    "snr_gamma": (None, "5"),
    "noise_offset": (None, "0.1"),
    "guided_target": (None, "cfg"),
    "loss_type": (None, "huber"),
    "weighting_scheme": (None, "beta"),
    "preservation_weight": (None, "1"),
    "lora_alpha": (None, "2"),
    "lora_layers": ("attention+mlp", "to_q,conv1", "attention", "condition_only"),
    "rank_pattern": (None, "to_*=2"),
    "alpha_pattern": (None, "to_*=3"),
    "use_rslora": (None, *ON),
    "use_dora": (None, *ON),
    "lora_dropout": (None, "0.1"),
    "lora_init": (None, "kaiming", "pissa"),
    "mixed_precision": (None, "bf16"),
    "report_to": (None, "tensorboard"),
    "checkpoints_total_limit": (None, "1"),
    "max_train_samples": (None, "3"),
    "validation_steps": (None, "1"),
    "validation_prompt": (None, "a red square"),
    "caption_dropout": (None, "1"),
    "caption_template": (None, "a {text}"),
    "trigger_word": (None, "square"),
    "shuffle_tags": (None, *ON),
    "masked_loss": (None, *ON),
    "caption_prefix": (None, "ohwx,"),
    "missing_caption": (None, "skip"),
    "lr_warmup_steps": (None, "1"),
    "max_grad_norm": (None, "0.1"),
}
PLACES = {name: place for place, name in enumerate(CHOICES)}
Pair = tuple[tuple[str, str | None], tuple[str, str | None]]


def argv_of(chosen: dict[str, str | None]) -> list[str]:
    given = {name: value for name, value in chosen.items() if value is not None}
    if given.get("optimizer") == "prodigy":
        given["learning_rate"] = "1000"  # or two steps would move weights by a millionth, and rounding be seen
    words = ([f"--{name}"] if value == "on" else [f"--{name}", value] for name, value in given.items())
    return [word for pair in words for word in pair]


def allowed(chosen: dict[str, str | None]) -> bool:
    """Whether the command line takes it: what is refused in a sentence is tested elsewhere."""
    if chosen["early_stopping_patience"] and not chosen["validation_split"]:
        return False
    if chosen["use_dora"] and chosen["lora_init"] == "pissa":
        return False
    return optimizer_allowed(chosen["optimizer"], chosen["lr_scheduler"], chosen["use_ema"], chosen["scale_lr"])


@functools.cache
def optimizer_allowed(optimizer: str | None, scheduler: str | None, ema: str | None, scaled: str | None) -> bool:
    options = OptimOptions(
        optimizer=optimizer or "adamw", lr_scheduler=scheduler, use_ema=bool(ema), scale_lr=bool(scaled)
    )
    return not options.problems()


def pair_of(name: str, value: str | None, other: str, its: str | None) -> Pair:
    """The two in the order of `CHOICES`."""
    return ((name, value), (other, its)) if PLACES[name] < PLACES[other] else ((other, its), (name, value))


def pairs_of(chosen: dict[str, str | None]) -> set[Pair]:
    return {((a, chosen[a]), (b, chosen[b])) for a, b in itertools.combinations(CHOICES, 2)}


def filled(seed: Pair, left: set[Pair], chance: random.Random) -> dict[str, str | None] | None:
    """A command line with this pair: one flag after the other gets the value that is new beside most of those before.

    As AETG does it (Cohen et al. 1997, section 3). None where something in it clashes.
    """
    decided = dict(seed)
    rest = [name for name in CHOICES if name not in decided]
    for name in chance.sample(rest, len(rest)):
        values = chance.sample(CHOICES[name], len(CHOICES[name]))
        open_yet = dict.fromkeys(CHOICES) | decided
        values = [value for value in values if allowed(open_yet | {name: value})] or values
        before = list(decided.items())
        new = [sum(pair_of(name, value, *other) in left for other in before) for value in values]
        decided[name] = values[new.index(max(new))]
    return decided if allowed(decided) else None


def every_pair() -> set[Pair]:
    return {((a, x), (b, y)) for a, b in itertools.combinations(CHOICES, 2) for x in CHOICES[a] for y in CHOICES[b]}


def covering() -> tuple[list[dict[str, str | None]], set[Pair]]:
    """Few command lines that hold every allowed pair of values, and the pairs none may hold."""
    chance = random.Random(1)
    left = every_pair()
    runs, impossible = [], set()
    while left:  # flags of many values first: their pairs decide how many lines there are
        seed = min(left, key=lambda pair: (-len(CHOICES[pair[0][0]]) * len(CHOICES[pair[1][0]]), str(pair)))
        found = [chosen for _ in range(10) if (chosen := filled(seed, left, chance))]
        if found:
            runs.append(max(found, key=lambda chosen: len(pairs_of(chosen) & left)))
            left -= pairs_of(runs[-1])
        else:
            impossible.add(seed)
            left.discard(seed)
    return runs, impossible


RUNS, IMPOSSIBLE = covering()


def test_only_what_is_refused_in_a_sentence_is_left_out():
    assert set().union(*map(pairs_of, RUNS)) == every_pair() - IMPOSSIBLE
    assert not any(allowed(dict.fromkeys(CHOICES) | dict(pair)) for pair in IMPOSSIBLE)
    together = {tuple(sorted((a, b))) for (a, _), (b, _) in IMPOSSIBLE}
    assert together <= {
        ("lr_scheduler", "optimizer"),
        ("optimizer", "scale_lr"),
        ("optimizer", "use_ema"),
        ("early_stopping_patience", "validation_split"),
        ("lora_init", "use_dora"),
    }


def see_through(folder: Path) -> None:
    """Make the pictures transparent on their left, which are masks then."""
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            shown = picture.convert("RGBA")
        shown.paste((0, 0, 0, 0), (0, 0, 40, shown.height))
        shown.save(path)


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_two_steps(trainer, small, colours, tmp_path, number):
    out = tmp_path / "out"
    chosen = RUNS[number]
    # Small pictures: half precision is emulated on most CPUs, and this is about options, not about pixels.
    short = ["--max_train_steps", "2", "--num_inference_steps", "1", "--resolution", "16"]
    if chosen["masked_loss"] is not None:
        see_through(colours)
    ended = trainer(*dedupe([*small, *short, *argv_of(chosen)]), "--output_dir", out)
    assert ended.code == 0, (argv_of(chosen), ended.output)
    assert "Traceback" not in ended.output
    assert status(out)["state"] == "done"
