"""The errors users meet. Each says what was given, what the rule is, and what to do.

UserError            exit code 2
|- ConfigError       an option or a combination of options
|- DataError         the dataset
`- CheckpointError   a base model, an adapter or a checkpoint to resume from
TrainingStopped      exit code 4: training stopped itself
Interrupted          exit code 75 (SIGTERM, SIGHUP) or 130 (Ctrl-C): checkpointed first
PeerLost             exit code 1: another process of the run is gone
"""

import re

EXIT_DONE, EXIT_BUG, EXIT_USER, EXIT_AFTERWARDS, EXIT_STOPPED, EXIT_TERMINATED, EXIT_CTRL_C = 0, 1, 2, 3, 4, 75, 130


class UserError(ValueError):
    """Something the user can put right; shown without a traceback."""


class ConfigError(UserError):
    """An option, or a combination of options, that cannot be honoured."""


class DataError(UserError):
    """A dataset that cannot be trained on as it is; names every culprit."""


class CheckpointError(UserError):
    """A base model, adapter or checkpoint that is missing, damaged or unsuited."""


class TrainingStopped(RuntimeError):
    """Training cannot go on or has nothing to export: non-finite loss, no gradient, failed verification."""


class Interrupted(BaseException):
    """The run was asked to stop. No Exception, like KeyboardInterrupt: no library may take it for its own error."""

    def __init__(self, exit_code: int, step: int) -> None:
        super().__init__(
            f"stopped on {'Ctrl-C' if exit_code == EXIT_CTRL_C else 'SIGTERM or SIGHUP'} after step {step}"
        )
        self.exit_code, self.step = exit_code, step


class PeerLost(RuntimeError):
    """Another process of the same run has died or does not answer."""


def printable(text: str) -> str:
    r"""A text with what cannot be written as UTF-8 escaped: bytes of a file name that are none become \xe9."""
    return re.sub("[\ud800-\udfff]", lambda found: _escaped(ord(found[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def not_utf8(section: object, *names: str) -> list[str]:
    """A sentence for every path among these fields of `section` that UTF-8, and so run.toml, cannot hold."""
    given = ((name, getattr(section, name)) for name in names)
    return [
        f"--{name} {printable(value)}: the name is not UTF-8 and cannot be kept in run.toml; rename the folder."
        for name, value in given
        if value is not None and printable(value) != value
    ]


def reason(error: BaseException) -> str:
    """The first line of what a library says; its kind where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def listed(problems: list[str], limit: int = 20) -> str:
    """One problem per line; past `limit`, the number of those left out."""
    lines = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  - ... and {len(problems) - limit} more")
    return "\n".join(lines)


def out_of_bounds(section: object, **bounds: tuple[float | int, float | int]) -> list[str]:
    """A sentence for every field of `section` outside its bounds (both ends allowed); None is always inside."""
    problems = []
    for name, (low, high) in bounds.items():
        value = getattr(section, name)
        if value is not None and not low <= value <= high:
            rule = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
            problems.append(f"--{name} is {value:g}, but must be {rule}.")
    return problems
