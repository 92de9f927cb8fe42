"""The verbs: python -m pipeline VERB --help."""

import sys
from pathlib import Path

import cyclopts
from cyclopts import App, Parameter

import pipeline
from pipeline.errors import EXIT_DONE, EXIT_USER, CheckpointError, ConfigError, UserError

app = App(
    name="python -m pipeline",
    help="What can be done beside training (python train_lora.py).",
    help_format="plaintext",
    version=pipeline.__version__,
    default_parameter=Parameter(name_transform=str, negative=(), show_env_var=False),
    result_action="return_value",
)


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
    """Draw pictures with a trained adapter, base beside tuned.

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
        Strength of the adapter: 0 is the base model, 1 what was trained.
    guidance_scale
        Classifier-free guidance. Not given: the run's.
    num_inference_steps
        Sampling steps. Not given: the run's.
    to
        Folder for the pictures, which must not exist yet. Not given: OUTPUT_DIR/drawn.
    """
    from pipeline.verbs import draw

    draw(output_dir, prompt, seed, num_images, scale, guidance_scale, num_inference_steps, to or output_dir / "drawn")


@app.command
def report(output_dir: Path) -> None:
    """Make the page of a finished run again from what lies in its folder.

    Example: python -m pipeline report outputs/demo

    Parameters
    ----------
    output_dir
        The output folder of a finished run.
    """
    if not output_dir.is_dir():
        raise CheckpointError(f"{output_dir} does not exist; give the output folder of a run.")
    from pipeline.report import page

    _say(f"Report  {page.write(output_dir)}")


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

    miniatures.write(family, folder, prediction=prediction_type, seed=seed)
    _say(f"Miniature  {folder}")


@app.command
def bench(kind: str, *, rounds: int = 3, to: Path | None = None) -> None:
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
    if kind != "cpu":
        raise ConfigError(f"bench {kind!r}: cpu is offered.")
    from pipeline import durable
    from pipeline.bench import cpu, table

    page = table.page(cpu.compare(rounds))
    if to is None:
        _say(page)
    else:
        durable.write_text(to, page)
        _say(f"Page  {to}")


def main(argv: list[str] | None = None) -> int:
    """Carry out one verb; returns the exit code."""
    try:
        app(sys.argv[1:] if argv is None else argv, exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, UserError) as error:
        sys.stderr.write(f"Error: {str(error).strip()}\n")
        return EXIT_USER
    return EXIT_DONE


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
