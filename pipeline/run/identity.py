"""What makes two runs the same run: equal identities make a resume exact."""

from typing import Any

from pipeline.data.sources import by_source
from pipeline.hashing import digest, fingerprint_of_adapter
from pipeline.run.context import RunContext

# Options that may differ between a run and its continuation, and whose effect on the weights, where they have one, is
# recorded otherwise. Two change bits and nothing more: --deterministic and --gradient_checkpointing.
NOT_IDENTITY = frozenset(
    {
        "pretrained_model_name_or_path",
        "single_file_config",
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
        "init_lora",
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "data_card",
        "require_data_card",
        "balance",
        "class_data_dir",
        "class_prompt",
        "num_class_images",
        "allow_undocumented_data",
    }
)


def _deciding(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in NOT_IDENTITY}


def _sources(context: RunContext) -> list[dict[str, Any]]:
    """What each of several sources says for itself, and which examples it has; in no order of theirs."""
    found = [
        {**_deciding(dict(table)), "examples": digest("\n".join(example.id for example in examples).encode())}
        for table, examples in zip(
            context.run.data.source, by_source(context.run.data, context.data.manifest), strict=True
        )
    ]
    return sorted(found, key=repr)


def _drawing(context: RunContext) -> dict[str, Any]:
    """What decides the pictures of the class that the base draws."""
    preview = context.run.preview
    return {"guidance_scale": preview.guidance_scale, "num_inference_steps": preview.num_inference_steps}


def _groups(context: RunContext) -> str:
    """Which example is of which group."""
    return digest("\n".join(f"{example.id} {example.group}" for example in context.data.manifest.examples).encode())


def identity_of(context: RunContext) -> dict[str, Any]:
    """All that decides the trained weights, by name."""
    family, data, plan = context.family, context.data, context.plan
    kept = _deciding(context.run.flat())
    return {
        **kept,
        **({"sources": _sources(context)} if context.run.data.source else {}),
        "dataset": data.shown.fingerprint,
        "held_out": data.held_out.fingerprint if data.held_out else None,
        "base_model": family.source.fingerprint((family.denoiser, "scheduler")),
        "encoders": digest((context.cache.image_encoder + context.cache.text_encoder).encode()),
        "start": fingerprint_of_adapter(context.run.adapter.init_lora),
        "num_steps": plan.num_steps,
        "global_batch": plan.global_batch,
        **(_drawing(context) if data.class_images is not None and data.class_images.num_drawn else {}),
        **({"balance": dict(data.balance.weights), "groups": _groups(context)} if data.balance is not None else {}),
        "buckets": [[str(bucket.size), len(bucket.entries)] for bucket in plan.buckets],
    }
