"""Every option once: a flag, a key of run.toml and a field of a dataclass are the same name.

The sections live beside their owners; this file assembles them in the order of the method, and
is the only place that knows the command line. It imports nothing heavy.
"""

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
from cyclopts import App, Parameter

import pipeline
from pipeline import argv as command_line
from pipeline import cards, help_text, run_toml, shipped
from pipeline.adapter.options import SHAPING, AdapterOptions
from pipeline.console import say
from pipeline.data.options import DataOptions
from pipeline.errors import ConfigError, listed
from pipeline.evaluation.options import PreviewOptions
from pipeline.families.options import ModelOptions
from pipeline.objective.options import ObjectiveOptions
from pipeline.sharing.options import ShareOptions
from pipeline.training.options import OptimOptions, TrainOptions

GROUPS = {"optim": "optimizer", "train": "run", "preview": "previews", "share": "sharing"}  # where they differ
SECRETS = ("hub_token",)  # never written anywhere


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

    @property
    def groups(self) -> dict[str, Any]:
        """The sections by the names that --help has for them."""
        return {GROUPS.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)}

    def problems(self) -> list[str]:
        """What is wrong with the options, alone and together, one sentence each."""
        problems = [problem for section in self.sections for problem in section.problems()]
        if self.optim.text_encoder_lr is not None and not self.adapter.train_text_encoder:
            problems.append("--text_encoder_lr has an effect only with --train_text_encoder.")
        if self.objective.preservation_weight and self.adapter.train_text_encoder:
            problems.append("--preservation_weight keeps the denoiser alone; leave --train_text_encoder out.")
        if self.objective.guided_target is not None and self.adapter.train_text_encoder:
            problems.append(
                "--guided_target needs captions that are encoded before training; leave --train_text_encoder out."
            )
        if self.objective.prior_loss_weight != 1.0 and not self.data.with_prior_preservation:
            problems.append("--prior_loss_weight has an effect only with --with_prior_preservation.")
        for name in ("unmasked_weight", "unmasked_preservation"):
            if getattr(self.objective, name) and not self.data.has_masks:
                problems.append(f"--{name} has an effect only with --masked_loss.")
        return problems

    def flat(self) -> dict[str, Any]:
        """Every option by its flag's name."""
        return {name: value for section in self.sections for name, value in dataclasses.asdict(section).items()}

    def to_toml(self) -> str:
        """The run as run.toml; reading it back gives an equal Run."""
        return run_toml.text_of({name: value for name, value in self.flat().items() if name not in SECRETS})

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
            names = {option.name for option in dataclasses.fields(section)}
            own = {name: value for name, value in values.items() if name in names}
            sections[field.name] = dataclasses.replace(section, **own)
        return Run(**sections)

    def expanded(self) -> "Run":
        """The run with ~ as the home folder in every path."""
        return self.replaced(**_expanded(self.flat()), source=tuple({**t, **_expanded(t)} for t in self.data.source))


def _kind(annotation: Any) -> command_line.FlagKind:
    """What the command line takes for an option of this type."""
    types = set(get_args(annotation)) or {annotation}
    if bool in types:
        return "switch"
    if int in types:
        return "whole"
    return "values" if Ellipsis in types else "value"


KINDS: dict[str, command_line.FlagKind] = {
    **{field.name: _kind(field.type) for section in Run().sections for field in dataclasses.fields(section)},
    "config": "value",
    "recipe": "value",
    "dry_run": "switch",
    "for": "value",
    "debug": "switch",
}
PATHS = frozenset(  # options that may name a place on this machine
    name for name, kind in KINDS.items() if kind == "value" and name.endswith(("_dir", "_path"))
) | {"dataset_name", "init_lora", "single_file_config", "resume_from_checkpoint"}


def _expanded(values: Mapping[str, Any]) -> dict[str, str]:
    """The paths among some options that begin with ~, with the home folder in its place."""
    wanted = {name: str(value) for name, value in values.items() if name in PATHS and str(value).startswith("~")}
    return {name: os.path.expanduser(value) for name, value in wanted.items()}


def _plain(value: Any) -> Any:
    """A value as the command line gives it: paths as text, several values as a tuple."""
    return str(value) if isinstance(value, Path) else tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    run: Run
    dry_run: bool
    debug: bool
    yielding: frozenset[str] = frozenset()  # options that only the recipe sets: they give way to what was asked for
    notes: tuple[str, ...] = ()  # what gave way
    card: str | None = None  # that a dry run is for; None: the device at hand


def parse(argv: list[str]) -> Command | None:
    """The command line as a checked Command; None when it only asked for help or the version.

    Values come from the command line, else --config, else --recipe (where neither these nor a model
    are named: the starter recipe), else the defaults. Raises ConfigError for an unknown name, a wrong type or a
    value out of bounds.
    """
    command_line.require_text(argv)
    typed, argv = argv, command_line.spelled(argv)
    place = next((index for index, word in enumerate(argv) if word in ("--help", "-h")), None)
    if place is not None:
        say(help_text.help_text(Run().groups, next(iter(argv[place + 1 :]), None)))
        return None
    config, recipe = _path_of(argv, "config"), command_line.value_of(argv, "recipe")
    table = run_toml.read(config) if config is not None else {}
    tables = table.pop("source", ())
    on_line = {command_line.bare(word) for word in argv if word.startswith("--")}
    given = table.keys() | on_line
    refusals = [f"--{name}: {command_line.REFUSED[name]}" for name in sorted(given & command_line.REFUSED.keys())]
    refusals = refusals or command_line.problems(argv, KINDS)
    refusals += run_toml.problems(table, KINDS, config) if config is not None else []
    if refusals:
        raise ConfigError("\n".join(refusals))
    if recipe is None and config is None and "pretrained_model_name_or_path" not in given:
        recipe = "starter"
    given_in: list[Any] = []
    if config is not None:
        given_in.append(cyclopts.config.Dict(table, allow_unknown=False, source=str(config)))
    if recipe is not None:
        given_in.append(cyclopts.config.Toml(shipped.recipe(recipe), allow_unknown=False, must_exist=True))
    command = _parsed(_app(given_in, given | _of_recipe(recipe)), argv, command_line.doubled(typed, KINDS))
    if not isinstance(command, Command):
        return None
    run = command.run.replaced(source=tables)
    if "num_train_epochs" in given and "max_train_steps" not in given:  # a recipe's length gives way
        run = run.replaced(max_train_steps=None)
    run = run.expanded()
    if config is not None and "output_dir" not in on_line:
        run_toml.require_in_place(config, run.train.output_dir, run.train.resume_from_checkpoint)
    yielding = _yielding(_of_recipe(recipe), table, on_line)
    problems = run.problems()
    problems += ["--learning_rate is for another optimizer"] * ("optimizer" in given and "learning_rate" in yielding)
    is_other = run.objective.loss_weighting in ("soft_min_snr", "p2")
    problems += ["--snr_gamma is that of min_snr"] * (is_other and "snr_gamma" in yielding)
    problems += ["--rank is that of --init_lora"] * ("rank" in yielding and "init_lora" in on_line)
    run, notes = giving_way(run, problems, yielding)
    command = dataclasses.replace(command, run=run, yielding=yielding, notes=notes)
    if problems := run.problems() + cards.problems(command.card, dry_run=command.dry_run):
        raise ConfigError(problems[0] if len(problems) == 1 else f"{len(problems)} options:\n{listed(problems)}")
    return command


def taken(table: dict[str, Any], where: str) -> Run:
    """The options of a table as the parser takes them. Raises ConfigError for a wrong type or no choice."""
    run: Run = _parsed(_app([cyclopts.config.Dict(table, allow_unknown=False, source=where)], table.keys()), [], {}).run
    return run


def _parsed(app: App, argv: list[str], doubled: Mapping[str, str]) -> Any:
    """What the parser makes of a command line, with a sentence for each flag that is given more than once.

    Raises ConfigError with all that it does not take, a line each.
    """
    refusals: list[str] = []
    words = argv
    while True:
        try:
            command = app(words, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            flag = getattr(getattr(error, "token", None), "keyword", None) or ""
            refusals.append(_refusal(error, flag, doubled))
            rest = command_line.without(words, flag)
            if rest == words:  # it stands in a file
                raise ConfigError("\n".join(refusals)) from error
            words = rest
        else:
            if refusals:
                raise ConfigError("\n".join(dict.fromkeys(refusals)))
            return command


def _refusal(error: cyclopts.CycloptsError, flag: str, doubled: Mapping[str, str]) -> str:
    """What is said of something that the parser does not take."""
    meant = command_line.OF_OTHERS.get(flag.removeprefix("--"))
    if isinstance(error, cyclopts.RepeatArgumentError) and command_line.bare(flag) in doubled:
        return doubled[command_line.bare(flag)]
    return command_line.in_words(str(error)) if meant is None else f"Unknown option: {flag}. Here it is {meant}."


def _yielding(of_recipe: set[str], table: dict[str, Any], on_line: set[str]) -> frozenset[str]:
    """The options that only a recipe sets; with --init_lora also those of run.toml that the adapter itself decides."""
    decided = {"rank", *SHAPING} & table.keys() if "init_lora" in on_line else set[str]()
    return frozenset(((of_recipe - table.keys()) | decided) - on_line)


def _of_recipe(recipe: str | None) -> set[str]:
    """The options that a recipe sets. Raises ConfigError where there is none of this name."""
    return set() if recipe is None else set(tomllib.loads(shipped.recipe(recipe).read_text(encoding="utf-8")))


def giving_way(run: Run, problems: list[str], yielding: frozenset[str]) -> tuple[Run, tuple[str, ...]]:
    """The run without the `yielding` values that the problems name, and a note for each: a recipe only has defaults."""
    named = {name: p for p in problems for name in sorted(yielding) if re.search(rf"--{name}\b", p)}
    values, defaults = run.flat(), Run().flat()
    notes = tuple(f"--{name} {values[name]} gives way: {problem.split('; ')[0]}" for name, problem in named.items())
    return run.replaced(**{name: defaults[name] for name in named}), notes


def _app(configs: list[Any], given: Set[str]) -> App:
    """The parser of the options that are given, for each takes time; of all if one is unknown, to name the nearest."""
    fields = [field for section in Run().sections for field in dataclasses.fields(section)]
    is_known = given <= KINDS.keys()
    asked = [(field.name, field.type, field) for field in fields if field.name in given or not is_known]
    options = dataclasses.make_dataclass("Options", asked, namespace={"__module__": __name__}, kw_only=True)
    defaults = options()
    app = App(
        name="train_lora.py",
        help_flags=(),  # see help_text.py
        version=pipeline.__version__,
        default_parameter=Parameter(
            name_transform=str, negative_iterable=(), show_env_var=False, parse=re.compile("^(?!source$)")
        ),
        config=configs,
        result_action="return_value",
    )

    @app.default
    def _main(
        *,
        run: Annotated[options, Parameter(name="*")] = defaults,  # type: ignore[valid-type]  # made just above
        config: Path | None = None,
        recipe: str | None = None,
        dry_run: bool = False,
        card: Annotated[str | None, Parameter(name="--for")] = None,
        debug: bool = False,
    ) -> Command:
        return Command(Run().replaced(**vars(run)), dry_run, debug, card=card)

    return app


def _path_of(argv: list[str], name: str) -> Path | None:
    return None if (value := command_line.value_of(argv, name)) is None else Path(os.path.expanduser(value))
