"""Write docs/flags.md from the code: every option, its default, and diffusers' default where it has the flag too.

python docs/make_flags.py          write it
python docs/make_flags.py --check  fail if it is out of date
"""

import sys
import tomllib
from pathlib import Path

from pipeline import argv, config, shipped
from pipeline.help_text import MEANINGS, documented, shown

TARGET = Path(__file__).parent / "flags.md"

# Defaults of examples/text_to_image/train_text_to_image_lora.py in diffusers 0.42.
DIFFUSERS = {
    "pretrained_model_name_or_path": "required", "revision": "none", "variant": "none", "train_data_dir": "none",
    "dataset_name": "none", "dataset_config_name": "none", "use_8bit_adam": "off",
    "image_column": "image", "caption_column": "text", "validation_prompt": "none", "num_validation_images": "4",
    "validation_epochs": "1", "max_train_samples": "none", "output_dir": "sd-model-finetuned-lora", "cache_dir": "none",
    "seed": "none", "resolution": "512", "center_crop": "off", "random_flip": "off", "train_batch_size": "16",
    "num_train_epochs": "100", "max_train_steps": "none", "gradient_accumulation_steps": "1",
    "gradient_checkpointing": "off", "learning_rate": "0.0001", "scale_lr": "off", "lr_scheduler": "constant",
    "lr_warmup_steps": "500", "snr_gamma": "none", "allow_tf32": "off", "dataloader_num_workers": "0",
    "adam_beta1": "0.9", "adam_beta2": "0.999", "adam_weight_decay": "0.01", "adam_epsilon": "1e-08",
    "max_grad_norm": "1.0", "prediction_type": "none", "logging_dir": "logs", "mixed_precision": "none",
    "report_to": "tensorboard", "checkpointing_steps": "500", "checkpoints_total_limit": "none",
    "resume_from_checkpoint": "none", "noise_offset": "0", "rank": "4", "image_interpolation_mode": "lanczos",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    starter = tomllib.loads(shipped.recipe("starter").read_text(encoding="utf-8"))
    lines = [
        "# Flags",
        "",
        "Made by `make docs` from the code. Each flag is also a key of `--config run.toml`. The last column is the",
        "default of diffusers' `train_text_to_image_lora.py` where that script has the flag.",
        "",
        "With no `--pretrained_model_name_or_path` the starter recipe applies: "
        + ", ".join(f"`{name} = {shown(value)}`" for name, value in starter.items())
        + ".",
    ]
    lines += ["", "Recipes (`--recipe NAME`), each a file in `pipeline/recipes/`:", ""]
    for path in sorted(shipped.recipe("starter").parent.glob("*.toml")):
        lines.append(f"- `{path.stem}`: {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
    for section in config.Run().sections:
        texts = documented(section)
        lines += [
            "",
            f"## {type(section).__doc__}",
            "",
            "| flag | meaning | default | diffusers |",
            "|---|---|---|---|",
        ]
        for name, text in texts.items():
            ours, theirs = shown(getattr(section, name)), DIFFUSERS.get(name, "")
            lines.append(f"| `--{name}` | {text} | {ours} | {theirs} |")
    lines += ["", "## About the run", "", "| flag | meaning |", "|---|---|"]
    lines += [
        *(f"| `--{name}` | {text} |" for name, text in MEANINGS.items()),
        "",
        "## Refused, with the alternative",
        "",
        "| flag | instead |",
        "|---|---|",
    ]
    lines += [f"| `--{name}` | {sentence} |" for name, sentence in argv.REFUSED.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == page() else "docs/flags.md is out of date: make docs")
    TARGET.write_text(page(), encoding="utf-8")
