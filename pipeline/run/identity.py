"""What makes two runs the same run: equal identities make a resume exact."""

from typing import Any

from pipeline.adapter.files.reader import fingerprint_of
from pipeline.data.class_images import num_to_draw
from pipeline.data.manifest import column
from pipeline.data.sources import by_source
from pipeline.hashing import digest
from pipeline.run.context import RunContext
from pipeline.training.identity import Identity

# Options that may differ between a run and its continuation, and whose effect on the weights, where they have one, is
# recorded otherwise. Four change bits and nothing more: --deterministic, --gradient_checkpointing,
# --compile and --cuda_graphs.
NOT_IDENTITY = frozenset(
    {
        "pretrained_model_name_or_path",
        "single_file_config",
        "long_prompts",
        "pretrained_vae_model_name_or_path",
        "revision",
        "variant",
        "train_data_dir",
        "dataset_name",
        "dataset_config_name",
        "source",
        "repeats",
        "evaluation_data_dir",
        "cache_dir",
        "dataloader_num_workers",
        "deterministic",
        "output_dir",
        "overwrite_output_dir",
        "resume_from_checkpoint",
        "gradient_checkpointing",
        "cuda_graphs",
        "offload_base",
        "compile",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "report_to",
        "logging_dir",
        "keep",
        "early_stopping_patience",
        "validation_split",
        "validation_prompt",
        "validation_size",
        "num_validation_images",
        "validation_epochs",
        "validation_steps",
        "guidance_scale",
        "guidance_method",
        "guidance_against",
        "guidance_interval",
        "guidance_rescale",
        "apg_eta",
        "apg_norm",
        "apg_momentum",
        "cads_scale",
        "num_inference_steps",
        "clip_model_name_or_path",
        "comfyui_rank",
        "num_train_epochs",
        "max_train_steps",
        "prediction_type",
        "image_column",
        "caption_column",
        "caption_template",
        "caption_extension",
        "caption_lines",
        "instance_prompt",
        "trigger_word",
        "max_train_samples",
        "on_bad_image",
        "max_image_megapixels",
        "missing_caption",
        "prompt_weights",
        "init_lora",
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "data_card",
        "require_data_card",
        "balance",
        "weight_column",
        "weight_values",
        "class_data_dir",
        "class_prompt",
        "num_class_images",
        "allow_undocumented_data",
    }
)

# Options that came after checkpoints without them, each with the value that computes what was computed without it: a
# checkpoint that does not name it was made so. The value stays, whatever becomes of the option's default.
CAME_LATER: dict[str, Any] = {
    "caption_weights": None,
    "with_prior_preservation": False,
    "prior_loss_weight": 1.0,
    "random_rotation": 0.0,
    "color_jitter": 0.0,
    "loss_weighting": None,
    "normalize_weights": False,
    "loss_type": "l2",
    "huber_c": 0.1,
    "huber_schedule": "snr",
    "beta_a": 2.0,
    "beta_b": 2.0,
    "min_timestep": 0,
    "max_timestep": 1000,
    "stratified_timesteps": False,
    "multires_noise_iterations": 0,
    "multires_noise_discount": 0.3,
    "input_perturbation": 0.0,
    "guided_target": None,
    "guided_target_scale": 2.0,
    "guided_target_against": "live",
    "prompt_chunks": None,
    "clip_skip": None,
    "training_guidance": 1.0,
    "encoder_dropout": 0.0,
    "column_dropout": 0.0,
    "rescale_betas_zero_snr": False,
    "base_quantization": None,
}

NOT_FETCHED = frozenset({"base_model", "encoders"})  # what is only known once weights were fetched from the Hub
BY_DRAWING = frozenset({"dataset", "buckets", "num_steps"})  # what is only known once the base has drawn its pictures


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in NOT_IDENTITY}


def _sources(context: RunContext) -> list[dict[str, Any]] | None:
    """What each of several sources says for itself, and which examples it has; in no order of theirs."""
    tables = context.run.data.source
    if not tables:
        return None
    found = [
        {**_deciding(dict(table)), "examples": digest("\n".join(example.id for example in examples).encode())}
        for table, examples in zip(tables, by_source(context.run.data, context.data.manifest), strict=True)
    ]
    return sorted(found, key=repr)


def _drawing(context: RunContext) -> dict[str, Any]:
    """What decides the pictures of the class that the base draws."""
    preview, is_drawn = context.run.preview, num_to_draw(context.run.data, context.data.class_given) > 0
    return {name: getattr(preview, name) if is_drawn else None for name in ("guidance_scale", "num_inference_steps")}


def _groups(context: RunContext) -> dict[str, Any]:
    """What the groups of examples count, and which example is of which group."""
    balance, examples = context.data.balance, context.data.manifest.examples
    if balance is None:
        return {"balance": None, "groups": None}
    groups = "\n".join(f"{example.id} {example.group}" for example in examples)
    return {"balance": dict(balance.weights), "groups": digest(groups.encode())}


def _example_weights(context: RunContext) -> str | None:
    """What each example counts by --weight_column."""
    if context.run.data.weight_column is None:
        return None
    found = zip(*(column(context.data.manifest.examples, name) for name in ("id", "loss_weight")), strict=True)
    return digest("\n".join(f"{name} {weight!r}" for name, weight in found).encode())


def identity_of(context: RunContext, undecided: frozenset[str] = frozenset()) -> Identity:
    """All that decides the trained weights, by name; what does not apply is None, which is how a name stays known.

    `undecided` are those among them that this context cannot say yet.
    """
    family, data, plan = context.family, context.data, context.plan
    facts = {
        **_deciding(context.run.flat()),
        "sources": _sources(context),
        "dataset": data.shown.fingerprint,
        "held_out": data.held_out.fingerprint if data.held_out else None,
        "base_model": family.source.fingerprint((family.denoiser, "scheduler")),
        "encoders": digest((context.cache.image_encoder + context.cache.text_encoder).encode()),
        "start": fingerprint_of(context.run.adapter.init_lora),
        "num_steps": plan.num_steps,
        "global_batch": plan.global_batch,
        **_drawing(context),
        **_groups(context),
        "example_weights": _example_weights(context),
        "buckets": [[str(bucket.size), len(bucket.entries)] for bucket in plan.buckets],
    }
    return Identity(facts, CAME_LATER, undecided)
