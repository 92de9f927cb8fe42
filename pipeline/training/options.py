"""Options of the training: optimizer, length, checkpoints."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from pipeline import put_off
from pipeline.adapter.names import is_b
from pipeline.errors import not_utf8, out_of_bounds
from pipeline.training import tracker_names
from pipeline.training.speed_options import SpeedOptions

Scheduler = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
OptimizerName = Literal["adamw", "adamw_8bit", "prodigy", "adafactor", "adamw_schedule_free"]

# Where no learning rate is given. Prodigy finds the step itself and takes the rate as a factor.
RATES: dict[str, float] = {
    "adamw": 1e-4,
    "adamw_8bit": 1e-4,
    "prodigy": 1.0,
    "adafactor": 1e-4,
    "adamw_schedule_free": 3e-4,
}
PACKAGES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "adamw_schedule_free": "schedulefree"}
TEXT_FACTOR = 0.1  # of the denoiser's rate: text encoders forget quickly
AUTO_EXAMPLES = 4  # that --train_batch_size auto shows for each accumulation step, as its default number does
MIN_PRODIGY_RATE = 0.1  # below, a rate meant for another optimizer was surely given


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """How the adapter moves."""

    optimizer: OptimizerName = "adamw"
    """Which optimizer. Three need a package: adamw_8bit bitsandbytes, prodigy prodigyopt, adamw_schedule_free
    schedulefree."""

    use_8bit_adam: bool = False
    """The same as --optimizer adamw_8bit."""

    learning_rate: float | None = None
    """Learning rate after warm-up. Not given: 1e-4, 3e-4 for adamw_schedule_free, 1 for prodigy, which takes it as a
    factor on the rate it finds itself."""

    text_encoder_lr: float | None = None
    """Learning rate of the text encoders (--train_text_encoder). Not given: a tenth of the denoiser's."""

    lora_plus_ratio: float = 1.0
    """Learning rate of B as a multiple of A's (LoRA+, Hayou et al. 2024: 16, at a lower rate of A)."""

    scale_lr: bool = False
    """Multiply the learning rate by accumulation x batch size x processes."""

    lr_scheduler: Scheduler | None = None
    """Shape of the learning rate after warm-up. Not given: cosine, or constant_with_warmup for adamw_schedule_free."""

    lr_warmup_steps: int | None = None
    """Optimizer steps of linear warm-up. Not given: 5 % of the run, at most 100 (0 for 'constant')."""

    lr_num_cycles: int = 1
    """How often cosine_with_restarts falls from the peak to zero."""

    lr_power: float = 1.0
    """Exponent of the polynomial schedule."""

    adam_beta1: float = 0.9
    """Decay of the gradient average."""

    adam_beta2: float = 0.999
    """Decay of the squared-gradient average."""

    adam_weight_decay: float = 0.01
    """Decoupled weight decay, of every optimizer."""

    adam_epsilon: float = 1e-8
    """What keeps the division by a gradient's size finite."""

    max_grad_norm: float = 1.0
    """Gradients are clipped to this total norm."""

    use_ema: bool = False
    """Average the adapter's weights over the steps; the average is what is measured, sampled with and exported."""

    ema_decay: float = 0.999
    """How much of the average each step keeps, once the run is long enough for it."""

    @property
    def optimizer_name(self) -> str:
        """The optimizer, whichever flag named it."""
        return "adamw_8bit" if self.use_8bit_adam else self.optimizer

    @property
    def peak_rate(self) -> float:
        """The learning rate after warm-up, before --scale_lr."""
        return RATES[self.optimizer_name] if self.learning_rate is None else self.learning_rate

    @property
    def schedule_kind(self) -> Scheduler:
        """The shape of the learning rate."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        return "constant_with_warmup" if self.optimizer_name == "adamw_schedule_free" else "cosine"

    def factor_of(self, name: str, denoiser: str) -> float:
        """How the learning rate of a tensor, '<component>.<layer>...', differs from the schedule's."""
        factor = self.lora_plus_ratio if is_b(name) else 1.0
        if name.split(".")[0] in (denoiser, "") or not denoiser:
            return factor
        text = TEXT_FACTOR if self.text_encoder_lr is None else self.text_encoder_lr / self.peak_rate
        return factor * (1.0 if self.optimizer_name == "prodigy" else text)

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            lr_warmup_steps=(0, infinity),
            lr_num_cycles=(1, infinity),
            lr_power=(0, infinity),
            adam_beta1=(0, 0.999999),
            adam_beta2=(0, 0.999999),
            adam_weight_decay=(0, infinity),
            max_grad_norm=(1e-12, infinity),
            lora_plus_ratio=(1e-3, 1e3),
            ema_decay=(0, 0.999999),
        )
        for name in ("learning_rate", "text_encoder_lr", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < infinity:
                problems.append(f"--{name} is {value:g}, but must be a finite number above 0.")
        return problems + self._clashes()

    def _clashes(self) -> list[str]:
        """Options that do not go together, or would have no effect."""
        name, problems = self.optimizer_name, []
        if self.use_8bit_adam and self.optimizer not in ("adamw", "adamw_8bit"):
            problems.append(f"--use_8bit_adam and --optimizer {self.optimizer} name two optimizers; give one.")
        if name in PACKAGES and not put_off.is_installed(PACKAGES[name]):
            problems.append(f"--optimizer {name} needs a package that is missing: pip install {PACKAGES[name]}.")
        if name == "prodigy" and (self.peak_rate < MIN_PRODIGY_RATE or self.scale_lr):
            given = "--scale_lr" if self.scale_lr else f"--learning_rate {self.peak_rate:g}"
            problems.append(
                f"--optimizer prodigy finds the rate itself, {given} would distort it; give --learning_rate 1 alone."
            )
        if name == "prodigy" and (self.text_encoder_lr is not None or self.lora_plus_ratio != 1):
            problems.append(
                "--optimizer prodigy finds one rate for all weights; leave --text_encoder_lr and --lora_plus_ratio out."
            )
        if name == "adafactor" and (self.adam_beta1, self.adam_beta2, self.adam_epsilon) != (0.9, 0.999, 1e-8):
            problems.append("--optimizer adafactor has no adam_beta1, adam_beta2 and adam_epsilon; leave them out.")
        if name == "adamw_schedule_free" and not self.schedule_kind.startswith("constant"):
            problems.append(
                f"--optimizer adamw_schedule_free needs no schedule, but --lr_scheduler is {self.lr_scheduler}; "
                "leave it out."
            )
        if name == "adamw_schedule_free" and self.adam_beta1 == 0:
            problems.append("--optimizer adamw_schedule_free averages by --adam_beta1, which must be above 0.")
        if name == "adamw_schedule_free" and self.use_ema:
            problems.append("--optimizer adamw_schedule_free averages the weights itself; leave --use_ema out.")
        if self.lr_num_cycles != 1 and self.schedule_kind != "cosine_with_restarts":
            problems.append("--lr_num_cycles has an effect only with --lr_scheduler cosine_with_restarts.")
        if self.lr_power != 1 and self.schedule_kind != "polynomial":
            problems.append("--lr_power has an effect only with --lr_scheduler polynomial.")
        return problems


@dataclass(frozen=True, kw_only=True)
class TrainOptions(SpeedOptions):
    """How long, where to, and what is saved on the way."""

    output_dir: str | None = None
    """Folder for everything the run makes. Not given: outputs/<dataset name>."""

    overwrite_output_dir: bool = False
    """Start anew in an output folder that is not empty; what this tool made there is removed first."""

    resume_from_checkpoint: str | None = None
    """'latest' or a checkpoint folder. With 'latest' and no checkpoint the run starts at step 0."""

    seed: int = 0
    """Decides every random number of the run."""

    train_batch_size: int | Literal["auto"] = 4
    """Examples per process and micro-step. auto: as many as fit into the memory at hand of 4 x accumulation steps,
    which stay the examples of an optimizer step; one at a time with --gradient_checkpointing where it takes that."""

    gradient_accumulation_steps: int = 1
    """Micro-steps per optimizer step."""

    max_train_steps: int | None = None
    """Optimizer steps in all; wins over num_train_epochs."""

    num_train_epochs: int | None = None
    """Passes over the dataset, when max_train_steps is not given. Neither given: 100 for up to 40 images; beyond, the
    examples seen grow with the square root of their number."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time, the same result."""

    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the computation; the adapter itself stays float32. Not given: accelerate's setting."""

    allow_tf32: bool = False
    """Let float32 matrix products and convolutions use TF32 on NVIDIA cards since Ampere."""

    deterministic: bool = True
    """Use only GPU kernels that give the same bits every time, so that a resumed run ends as the whole one would."""

    checkpointing_steps: int = 500
    """Optimizer steps between two checkpoints."""

    checkpoints_total_limit: int | None = None
    """Checkpoints kept; the oldest goes only when a newer one is safely on disk. Not given: all."""

    keep: Literal["best", "last"] = "best"
    """Which weights are exported: those with the lowest held-out loss, or those of the last step. Where nothing is held
    out, the last."""

    early_stopping_patience: int | None = None
    """Stop after this many validations in a row without a lower held-out loss. Not given: never."""

    report_to: str = "none"
    """Trackers that accelerate knows, several with commas between: aim, clearml, comet_ml, dvclive, mlflow, swanlab,
    tensorboard, trackio, wandb; 'all' that are installed, or 'none'. metrics.jsonl is always written."""

    logging_dir: str = "logs"
    """Folder for what trackers keep on this machine, inside the output folder."""

    @property
    def batch_size(self) -> int:
        """Examples per process and micro-step, once that is decided."""
        assert isinstance(self.train_batch_size, int), "auto is resolved before a run is planned"
        return self.train_batch_size

    @property
    def examples_per_process(self) -> int:
        """Examples of an optimizer step in each process."""
        at_once = AUTO_EXAMPLES if self.train_batch_size == "auto" else self.batch_size
        return at_once * self.gradient_accumulation_steps

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        bounds = {} if self.train_batch_size == "auto" else {"train_batch_size": (1, infinity)}
        problems = out_of_bounds(
            self,
            **bounds,
            gradient_accumulation_steps=(1, infinity),
            max_train_steps=(1, infinity),
            num_train_epochs=(1, infinity),
            checkpointing_steps=(1, infinity),
            checkpoints_total_limit=(1, infinity),
            early_stopping_patience=(1, infinity),
        )
        problems += self.speed_problems()
        if self.offload_base and not self.gradient_checkpointing:
            problems.append("--offload_base needs --gradient_checkpointing: autograd would keep all blocks on the GPU.")
        problems += tracker_names.problems(self.report_to)
        if PurePath(self.logging_dir).is_absolute() or ".." in PurePath(self.logging_dir).parts or not self.logging_dir:
            problems.append(f"--logging_dir {self.logging_dir!r} must be a folder inside the output folder, as 'logs'.")
        problems += not_utf8(self, "output_dir", "resume_from_checkpoint")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            problems.append("--overwrite_output_dir removes what --resume_from_checkpoint would start from; give one.")
        return problems
