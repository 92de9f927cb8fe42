"""Every option once: a flag, a key of run.toml and a field of a dataclass are the same name.

The sections live beside their owners; this file assembles them in the order of the method, and
is the only place that knows the command line. It imports nothing heavy.
"""

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter

import pipeline
from pipeline.adapter.options import AdapterOptions
from pipeline.data.options import DataOptions
from pipeline.errors import ConfigError, listed
from pipeline.evaluation.options import PreviewOptions
from pipeline.families.options import ModelOptions
from pipeline.objective.options import ObjectiveOptions
from pipeline.sharing.options import ShareOptions
from pipeline.training.options import OptimOptions, TrainOptions

HELP = """Fine-tune a text-to-image model with LoRA, and prove the adapter that comes out.

With no flags: the starter base on the starter dataset. Any flag is also a key of --config run.toml.

Examples:

    accelerate launch train_lora.py
    accelerate launch train_lora.py --pretrained_model_name_or_path user/model --train_data_dir photos
    python train_lora.py --config outputs/demo/run.toml --resume_from_checkpoint latest
"""

SECRETS = ("hub_token",)  # never written anywhere

# Flags of diffusers' training scripts that are refused, each with its alternative.
REFUSED = {
    "cache_latents": "latents are always kept, as mean and deviation: leave it out.",
    "upcast_before_saving": "the adapter is trained and saved in float32 anyway: leave it out.",
    "proportion_empty_prompts": "say it with --caption_dropout.",
    "local_rank": "accelerate launch tells each process its rank: leave it out.",
    "enable_xformers_memory_efficient_attention": "PyTorch's own efficient attention is always on: leave it out.",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, complete: what is adapted, to what, how, for how long and where to."""

    model: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions()
    data: Annotated[DataOptions, Parameter(name="*")] = DataOptions()
    objective: Annotated[ObjectiveOptions, Parameter(name="*")] = ObjectiveOptions()
    adapter: Annotated[AdapterOptions, Parameter(name="*")] = AdapterOptions()
    optim: Annotated[OptimOptions, Parameter(name="*")] = OptimOptions()
    train: Annotated[TrainOptions, Parameter(name="*")] = TrainOptions()
    preview: Annotated[PreviewOptions, Parameter(name="*")] = PreviewOptions()
    share: Annotated[ShareOptions, Parameter(name="*")] = ShareOptions()

    @property
    def sections(self) -> tuple[Any, ...]:
        """The sections, in the order of the method."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def problems(self) -> list[str]:
        """What is wrong with the options, alone and together, one sentence each."""
        problems = [problem for section in self.sections for problem in section.problems()]
        if self.optim.text_encoder_lr is not None and not self.adapter.train_text_encoder:
            problems.append("--text_encoder_lr has an effect only with --train_text_encoder.")
        return problems

    def flat(self) -> dict[str, Any]:
        """Every option by its flag's name."""
        return {name: value for section in self.sections for name, value in dataclasses.asdict(section).items()}

    def to_toml(self) -> str:
        """The run as run.toml; reading it back gives an equal Run."""
        lines = [
            f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")  # which TOML wants escaped
            for name, value in self.flat().items()
            if value is not None and value != () and name not in SECRETS
        ]
        return "\n".join(lines) + "\n"

    def replaced(self, **values: Any) -> "Run":
        """The run with some options changed, by flag name. Raises ConfigError for a name that no flag has."""
        known = self.flat()
        for name in values.keys() - known.keys():
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"{name} is no option" + (f'; did you mean "{near[0]}"?' if near else "."))
        values = {name: _plain(value) for name, value in values.items()}
        sections = {}
        for field in dataclasses.fields(self):
            section = getattr(self, field.name)
            own = {name: value for name, value in values.items() if name in dataclasses.asdict(section)}
            sections[field.name] = dataclasses.replace(section, **own)
        return Run(**sections)


def _plain(value: Any) -> Any:
    """A value as the command line gives it: paths as text, several values as a tuple."""
    return str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    run: Run
    dry_run: bool
    debug: bool


def parse(argv: list[str]) -> Command | None:
    """The command line as a checked Command; None when it only asked for help or the version.

    Values come from the command line, else --config, else --recipe (where neither these nor a model
    are named: the starter recipe), else the defaults. Raises ConfigError for an unknown name, a wrong type or a
    value out of bounds.
    """
    config, recipe = _value_of(argv, "config"), _value_of(argv, "recipe")
    keys = _keys_of(Path(config)) if config is not None else set()
    given = keys | {word.lstrip("-").split("=")[0] for word in argv if word.startswith("--")}
    refusals = [f"--{name}: {REFUSED[name]}" for name in sorted(given & REFUSED.keys())]
    if refusals:
        raise ConfigError("\n".join(refusals))
    if recipe is None and config is None and "pretrained_model_name_or_path" not in given:
        recipe = "starter"
    sources = [Path(config)] if config is not None else []
    sources += [recipe_path(recipe)] if recipe is not None else []
    app = _app([cyclopts.config.Toml(path, allow_unknown=False, must_exist=True) for path in sources])
    try:
        command = app(argv, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise ConfigError(str(error).strip()) from error
    if not isinstance(command, Command):
        return None
    if "num_train_epochs" in given and "max_train_steps" not in given:  # a recipe's length gives way
        command = dataclasses.replace(command, run=command.run.replaced(max_train_steps=None))
    problems = command.run.problems()
    if problems:
        raise ConfigError(problems[0] if len(problems) == 1 else f"{len(problems)} options:\n{listed(problems)}")
    return command


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe; ConfigError lists what there is."""
    folder = Path(str(files("pipeline").joinpath("recipes")))
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"--recipe {name!r} is not a shipped recipe; there is {', '.join(names)}.")
    return folder / f"{name}.toml"


def _app(configs: list[Any]) -> App:
    app = App(
        name="train_lora.py",
        help=HELP,
        help_format="plaintext",
        version=pipeline.__version__,
        default_parameter=Parameter(name_transform=str, negative_iterable=(), show_env_var=False),
        config=configs,
        result_action="return_value",
    )

    @app.default
    def _main(
        *,
        run: Annotated[Run, Parameter(name="*")] = Run(),
        config: Path | None = None,
        recipe: str | None = None,
        dry_run: bool = False,
        debug: bool = False,
    ) -> Command:
        """Fine-tune.

        Parameters
        ----------
        config
            A run.toml to start from; flags override it.
        recipe
            A shipped recipe to start from; --config and flags override it.
        dry_run
            Check everything and print the plan, without loading a denoiser.
        debug
            Show tracebacks.
        """
        return Command(run, dry_run, debug)

    return app


def _value_of(argv: list[str], name: str) -> str | None:
    for position, word in enumerate(argv):
        if word == f"--{name}":
            if position + 1 == len(argv):
                raise ConfigError(f"--{name} needs a value after it.")
            return argv[position + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def _keys_of(path: Path) -> set[str]:
    if not path.is_file():
        raise ConfigError(f"--config {path}: there is no such file.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}") from error
    nested = sorted(key for key, value in table.items() if isinstance(value, dict))
    if nested:
        raise ConfigError(
            f"--config {path} has the table [{nested[0]}]; run.toml is flat: one key per flag, no tables."
        )
    return set(table)
