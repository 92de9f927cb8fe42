"""Options of the run itself: optimizer, length, checkpoints, previews."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import out_of_bounds

Scheduler = Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """How the adapter moves."""

    learning_rate: float = 1e-4
    """Learning rate after warm-up."""

    scale_lr: bool = False
    """Multiply the learning rate by accumulation x batch size x processes."""

    lr_scheduler: Scheduler = "cosine"
    """Shape of the learning rate after warm-up."""

    lr_warmup_steps: int | None = None
    """Optimizer steps of linear warm-up. Not given: 5 % of the run, at most 100 (0 for 'constant')."""

    adam_beta1: float = 0.9
    """AdamW's decay of the gradient average."""

    adam_beta2: float = 0.999
    """AdamW's decay of the squared-gradient average."""

    adam_weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""

    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""

    max_grad_norm: float = 1.0
    """Gradients are clipped to this total norm."""

    use_ema: bool = False
    """Average the adapter's weights over the steps; the average is what is measured, drawn with and handed over."""

    ema_decay: float = 0.999
    """How much of the average each step keeps, once the run is long enough for it."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            lr_warmup_steps=(0, infinity),
            adam_beta1=(0, 0.999999),
            adam_beta2=(0, 0.999999),
            adam_weight_decay=(0, infinity),
            max_grad_norm=(1e-12, infinity),
            ema_decay=(0, 0.999999),
        )
        for name in ("learning_rate", "adam_epsilon"):
            value = getattr(self, name)
            if not 0 < value < infinity:
                problems.append(f"--{name} is {value:g}, but must be a finite number above 0.")
        return problems


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How long, where to, and what is saved on the way."""

    output_dir: str | None = None
    """Folder for everything the run makes. Not given: outputs/<dataset name>."""

    overwrite_output_dir: bool = False
    """Start anew in an output folder that is not empty; what this tool made there is removed first."""

    resume_from_checkpoint: str | None = None
    """'latest' or a checkpoint folder. With 'latest' and no checkpoint the run starts at step 0."""

    seed: int = 0
    """Decides every random number of the run."""

    train_batch_size: int = 4
    """Examples per process and micro-step."""

    gradient_accumulation_steps: int = 1
    """Micro-steps per optimizer step."""

    max_train_steps: int | None = None
    """Optimizer steps in all; wins over num_train_epochs."""

    num_train_epochs: int = 100
    """Passes over the dataset, when max_train_steps is not given."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time, the same result."""

    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the computation; the adapter itself stays float32. Not given: accelerate's setting."""

    allow_tf32: bool = False
    """Let float32 matrix products use TF32 on NVIDIA cards since Ampere."""

    checkpointing_steps: int = 500
    """Optimizer steps between two checkpoints."""

    checkpoints_total_limit: int | None = None
    """Checkpoints kept; the oldest goes only when a newer one is safely on disk. Not given: all."""

    keep: Literal["best", "last"] = "best"
    """What is handed over: the weights with the lowest held-out loss, or those of the last step. Where nothing is held
    out, the last."""

    early_stopping_patience: int | None = None
    """Stop after this many validations in a row without a lower held-out loss. Not given: never."""

    report_to: str = "none"
    """'tensorboard' or 'none'; metrics.jsonl is always written."""

    logging_dir: str = "logs"
    """Folder for tensorboard, inside the output folder."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            train_batch_size=(1, infinity),
            gradient_accumulation_steps=(1, infinity),
            max_train_steps=(1, infinity),
            num_train_epochs=(1, infinity),
            checkpointing_steps=(1, infinity),
            checkpoints_total_limit=(1, infinity),
            early_stopping_patience=(1, infinity),
        )
        if self.report_to not in ("none", "tensorboard"):
            problems.append(f"--report_to is {self.report_to!r}; 'tensorboard' and 'none' are offered.")
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            problems.append("--overwrite_output_dir removes what --resume_from_checkpoint would start from; give one.")
        return problems


@dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """Pictures made on the way and for the page."""

    validation_prompt: tuple[str, ...] = ()
    """A prompt to draw, base beside tuned; may be given several times."""

    num_validation_images: int = 4
    """Pictures per prompt."""

    validation_epochs: int | None = None
    """Epochs between validations; validation_steps says the same in optimizer steps."""

    validation_steps: int | None = None
    """Optimizer steps between validations, previews and held-out loss alike. Neither given: previews at the end only,
    the held-out loss as often as a tenth of the run's work allows, at most ten times."""

    guidance_scale: float = 7.5
    """Classifier-free guidance of the previews."""

    num_inference_steps: int = 25
    """Sampling steps of the previews."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        infinity = float("inf")
        problems = out_of_bounds(
            self,
            num_validation_images=(1, infinity),
            validation_epochs=(1, infinity),
            validation_steps=(1, infinity),
            guidance_scale=(0, infinity),
            num_inference_steps=(1, 1000),
        )
        if self.validation_epochs is not None and self.validation_steps is not None:
            problems.append("--validation_epochs and --validation_steps say the same thing twice; give one.")
        return problems
