"""The verbs: t2i-lora VERB --help, or python -m pipeline VERB --help."""

import sys

import cyclopts
from cyclopts import App, Parameter

import pipeline
from pipeline import argv as command_line
from pipeline import console, put_off
from pipeline.errors import EXIT_DONE, EXIT_USER, UserError
from pipeline.sharing.hub import HubError
from pipeline.verbs import adapters, data, measures, models, runs

VERBS = (
    runs.train,
    runs.sample,
    measures.evaluate,
    measures.compare,
    measures.frontier,
    runs.report,
    runs.suspects,
    measures.memorisation,
    measures.forgetting,
    measures.fairness,
    runs.publish,
    data.check,
    data.card,
    adapters.inspect,
    adapters.export,
    adapters.merge,
    models.families,
    models.miniature,
    runs.bench,
)

app = App(
    name="t2i-lora",
    help="Train, and what can be done beside it. Also: python -m pipeline.",
    help_format="plaintext",
    version=pipeline.__version__,
    default_parameter=Parameter(name_transform=str, negative=(), show_env_var=False),
    result_action="return_value",
)
for verb in VERBS:
    app.command(verb)


def main(argv: list[str] | None = None) -> int:
    """Carry out one verb; returns the exit code."""
    put_off.install()
    try:
        words = sys.argv[1:] if argv is None else argv
        if words[:1] == ["train"]:  # whose words are its own
            from pipeline.run.main import run_and_report

            return run_and_report(words[1:])
        command_line.require_text(words)
        code = app(command_line.with_home(words), exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, UserError, HubError) as error:
        console.say_error(f"Error: {command_line.in_words(str(error))}")
        return EXIT_USER
    except OSError as error:  # a place that cannot be read or written
        console.say_error(f"Error: {error.filename or 'A file'} cannot be used: {error.strerror or error}.")
        return EXIT_USER
    return code if isinstance(code, int) else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
