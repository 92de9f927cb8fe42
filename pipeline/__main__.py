"""The verbs: t2i-lora VERB --help, or python -m pipeline VERB --help."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import App, Parameter

import pipeline
from pipeline import argv as command_line
from pipeline import console
from pipeline.adapter.names import Kind
from pipeline.errors import EXIT_DONE, EXIT_USER, ConfigError, UserError
from pipeline.sharing.hub import HubError

app = App(
    name="t2i-lora",
    help="Train, and what can be done beside it. Also: python -m pipeline.",
    help_format="plaintext",
    version=pipeline.__version__,
    default_parameter=Parameter(name_transform=str, negative=(), show_env_var=False),
    result_action="return_value",
)


@app.command
def train(*flags: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Train, with the flags of train_lora.py; `train --help` shows them.

    Example: t2i-lora train --pretrained_model_name_or_path user/model --train_data_dir photos
    """


@app.command
def sample(
    output_dir: Path,
    *,
    prompt: list[str],
    seed: int = 0,
    num_images: int = 1,
    scale: float = 1.0,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    to: Path | None = None,
) -> None:
    """Draw pictures with a trained adapter, beside those of the base.

    Example: python -m pipeline sample outputs/demo --prompt "a large fox on a blue background" --num_images 4

    Parameters
    ----------
    output_dir
        The output folder of a run, or one of its checkpoints.
    prompt
        What to draw; may be given several times.
    seed
        Seed of the first picture of each prompt; the next ones count up from it.
    num_images
        Pictures per prompt.
    scale
        Scale of the adapter: 0 is the base model, 1 what was trained.
    guidance_scale
        Classifier-free guidance. Not given: the run's.
    num_inference_steps
        Sampling steps. Not given: the run's.
    to
        Folder for the pictures, which must not exist yet. Not given: OUTPUT_DIR/drawn.
    """
    from pipeline.commands import sample as sampling

    sampling.sample(
        output_dir,
        prompts=prompt,
        seed=seed,
        num_images=num_images,
        scale=scale,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        to=to or output_dir / "drawn",
    )


@app.command
def report(output_dir: Path) -> None:
    """Make the page of a finished run again from what lies in its folder.

    Example: python -m pipeline report outputs/demo

    Parameters
    ----------
    output_dir
        The output folder of a finished run.
    """
    from pipeline.report import page

    console.say(f"Report  {page.write(output_dir)}")


@app.command
def publish(
    output_dir: Path, *, repo: str | None = None, token: str | None = None, allow_undocumented_data: str | None = None
) -> None:
    """Share the adapter of a finished run on the Hub, in one commit: adapter, card, settings and the card's pictures.

    Example: python -m pipeline publish outputs/demo --repo user/stickers

    Parameters
    ----------
    output_dir
        The output folder of a finished run.
    repo
        Repository on the Hub, user/name. Not given: the folder's name, under your account.
    token
        Token of the Hub. Not given: that of HF_TOKEN or `hf auth login`.
    allow_undocumented_data
        Why data without a card may be shared; the reason is shown.
    """
    from pipeline.sharing import publish as sharing

    for line in sharing.publish(output_dir, repo, token, allow_undocumented_data):
        console.say(line)


@app.command
def card(name: str, *, dataset: Path | None = None) -> None:
    """Begin the card of a dataset, data_cards/NAME.md: what must be known before an adapter trained on it is shared.

    Example: python -m pipeline card my_pictures --dataset my_pictures

    Parameters
    ----------
    name
        What the dataset is called: the last part of its folder or Hub id.
    dataset
        Its folder, to note in the card which data it was written for.
    """
    from pipeline.commands import data_card

    console.say(f"Card  {data_card.begin(name, dataset)}: fill in what says TODO")


@app.command
def inspect(adapter: Path, *, base: Path | None = None, json: bool = False) -> None:
    """Say what an adapter is: format, family, ranks, scales, size by block, what it says of itself, what is wrong.

    Example: python -m pipeline inspect outputs/demo

    Parameters
    ----------
    adapter
        A .safetensors file, an output folder or a folder of PEFT.
    base
        Folder of its base model: needed for names that two families share (kohya's of UNets), and checked where given.
    json
        The same for programs.
    """
    from pipeline.commands import adapters

    adapters.inspect(adapter, base, json)


@app.command
def export(adapter: Path, to: Path, *, kind: Kind, base: Path | None = None, rank: int | None = None) -> None:
    """Write an adapter in another format, verified by reading it back.

    Example: python -m pipeline export outputs/demo demo.safetensors --kind kohya --base my_model

    Parameters
    ----------
    adapter
        A .safetensors file, an output folder or a folder of PEFT.
    to
        A new .safetensors file; for peft a new folder.
    kind
        diffusers, comfyui, kohya (for its scripts, A1111 and Forge), bfl (FLUX's original names) or peft.
    base
        Folder of its base model, for kohya's names of UNets, and for DoRA outside diffusers.
    rank
        Cut every layer to this rank and print what is lost; DoRA becomes a plain LoRA, whose difference is not exact.
    """
    from pipeline.commands import adapters

    adapters.export(adapter, to, kind, base, rank)


@app.command
def merge(
    adapters: list[Path],
    *,
    to: Path,
    weight: list[float] | None = None,
    rank: int | None = None,
    base: Path | None = None,
) -> None:
    """Add adapters up: exactly, where ranks add up, or cut to a rank, and print what is lost, block by block.

    Example: python -m pipeline merge outputs/a outputs/b --to both.safetensors --weight 0.7 --weight 0.5 --rank 16

    Parameters
    ----------
    adapters
        Files or folders of adapters of one base model.
    to
        A new .safetensors file.
    weight
        Weight of each, in their order. Not given: 1.
    rank
        Cut every layer to this rank.
    base
        Folder of their base model, for kohya's names.
    """
    from pipeline.commands import adapters as files

    weights = weight or [1.0] * len(adapters)
    if len(weights) != len(adapters):
        raise ConfigError(f"--weight is given {len(weights)} times for {len(adapters)} adapters; give one for each.")
    files.merge(list(zip(adapters, weights, strict=True)), to, rank, base)


@app.command
def families() -> None:
    """List the model families that can be trained, and what each was tested on.

    Example: python -m pipeline families
    """
    from pipeline.families import registry

    console.say(registry.table())


@app.command
def miniature(family: str, folder: Path, *, prediction_type: str | None = None, seed: int = 0) -> None:
    """Write a random-weight miniature of a model family, for tests and dry runs.

    Example: python -m pipeline miniature sd /tmp/miniature

    Parameters
    ----------
    family
        Which family; python -m pipeline families lists them.
    folder
        A new folder.
    prediction_type
        For sd and sdxl: epsilon, the default, or v_prediction.
    seed
        Decides the weights.
    """
    from pipeline.families import miniature as miniatures

    with console.quiet_libraries():
        miniatures.write(family, folder, prediction=prediction_type, seed=seed)
    console.say(f"Miniature  {folder}")


@app.command
def bench(kind: Literal["cpu"], *, rounds: int = 3, to: Path | None = None) -> None:
    """Measure this trainer against a plain loop of diffusers' pieces, in CPU seconds on one thread.

    Example: python -m pipeline bench cpu --to docs/benchmarks.md

    Parameters
    ----------
    kind
        What to measure: cpu.
    rounds
        How often both are run in turn; a round takes about two minutes.
    to
        File for the page. Not given: the terminal.
    """
    from pipeline import atomic
    from pipeline.bench import cpu, table

    page = table.page(cpu.compare(rounds))
    if to is not None:
        atomic.write_text(to, page)
    console.say(page if to is None else f"Page  {to}")


def main(argv: list[str] | None = None) -> int:
    """Carry out one verb; returns the exit code."""
    try:
        words = sys.argv[1:] if argv is None else argv
        if words[:1] == ["train"]:  # whose words are its own
            from pipeline.run.main import run_and_report

            return run_and_report(words[1:])
        command_line.require_text(words)
        app(command_line.with_home(words), exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, UserError, HubError) as error:
        console.say_error(f"Error: {str(error).strip()}")
        return EXIT_USER
    except OSError as error:  # a place that cannot be read or written
        console.say_error(f"Error: {error.filename or 'A file'} cannot be used: {error.strerror or error}.")
        return EXIT_USER
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
