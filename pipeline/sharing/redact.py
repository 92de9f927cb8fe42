"""What must not become public with an adapter: places on this machine, addresses, secrets, account and host."""

import functools
import getpass
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import run_toml
from pipeline.data.captions import has_word

TOKEN = r"hf_[A-Za-z0-9]{20,}"
NOTE = "  # shortened: it was private to the machine of the run"
SECRET = re.compile(rf"{TOKEN}|(?:gh[a-z]_|github_pat_|sk-)\w[\w-]{{19,}}")
SECRET_NAME = re.compile(r".*(?:TOKEN|API_KEY|SECRET|PASSWORD)")  # of variables of the environment
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")  # an e-mail address, or a user at a host
STOP = r"""\s"'`<>|,;)\]}"""  # ends a path within a text
PLACE = re.compile(  # an absolute path of two parts or more; one that begins with a home, a drive or a host
    rf"(?:file:/*|(?<![\w.~/\\-]))/(?!/)(?:[^{STOP}/]+/)+[^{STOP}/]*|(?<![\w/\\])~[\w.-]*/[^{STOP}]*"
    rf"|(?<!\w)[A-Za-z]:(?:\\|/(?!/))[^{STOP}]*|\\\\[\w.-]+\\[^{STOP}]*"
)
WHOLE_PLACE = re.compile(r"(?:file:|~|/|[A-Za-z]:[\\/]|\\\\).*|(?:.*[\\/])?\.\.(?:[\\/].*)?", re.DOTALL)
TEXTS = re.compile("prompt|template|word|column")  # in names of options that are said, not places
NAMELESS = {"root", "user", "ubuntu", "admin", "home", "localhost"}  # accounts and hosts that name nobody


def scrubbed_run_toml(text: str) -> str:
    """run.toml fit for sharing: of a place on this machine only the last part is left, of a secret nothing.

    Still a run.toml; doing it twice changes nothing more. Raises ConfigError for what is no run.toml.
    """
    table, before = run_toml.parse(text, "run.toml"), set(text.splitlines())
    table.pop("hub_token", None)

    def shared(inner: dict[str, Any]) -> dict[str, Any]:
        return {
            key: redacted(value, functools.partial(_without_places, whole=not TEXTS.search(key)))
            for key, value in inner.items()
        }

    def lines_of(inner: dict[str, Any]) -> list[str]:
        pairs = zip(inner.items(), shared(inner).items(), strict=True)
        lines = [(run_toml.entry(*public), public == own) for own, public in pairs]
        return [line if same and line + NOTE not in before else line + NOTE for line, same in lines]

    lines = lines_of({name: value for name, value in table.items() if name != run_toml.TABLES})
    for source in table.get(run_toml.TABLES, ()):
        lines += ["", f"[[{run_toml.TABLES}]]", *lines_of(source)]
    return "\n".join(lines) + "\n"


def redactor(public: str) -> Callable[[str], str]:
    """What takes out of a text all that is private here: places, addresses, secrets, the names of account and host.

    A name that is a word of `public` stays: whoever takes it for a trigger word wants it known.
    """
    names = {name for name in _names() if not has_word(public, name)}
    named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(names)) or "(?!)")

    def private(text: str) -> str:
        return named.sub("[name]", ADDRESS.sub("[address]", _without_places(text, whole=False)))

    return private


def redacted(value: Any, private: Callable[[str], str]) -> Any:
    """The same value with every text in it cleaned."""
    if isinstance(value, dict):
        return {key: redacted(inner, private) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, private) for inner in value]
    return private(value) if isinstance(value, str) else value


def _without_places(text: str, *, whole: bool) -> str:
    """A text without secrets and with only the last part of each path; `whole`: the text is a path if it begins so."""
    home = os.path.expanduser("~")
    secrets = [value for name, value in os.environ.items() if SECRET_NAME.fullmatch(name) and len(value) >= 8]
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    text = SECRET.sub("[secret]", text)
    if whole and WHOLE_PLACE.fullmatch(text):
        return _last_part(text)
    if len(Path(home).parts) > 1:
        text = re.sub(
            rf"(?<![\w.-]){re.escape(home)}(?:/[^{STOP}]*)?(?![\w-])", lambda found: _last_part(found[0]), text
        )
    return PLACE.sub(lambda found: _last_part(found[0]), text)


def _last_part(place: str) -> str:
    """The last part of a path; 'home' where that is a person's."""
    parts = [part for part in re.split(r"[\\/]+", place) if part]
    last = parts[-1] if parts else "~"
    of_person = last in _names() or last[0] == "~" or parts[-2:-1] in (["home"], ["Users"])
    bare = last in (".", "..") or last.endswith(":") or place.rstrip("/") == os.path.expanduser("~")
    return "home" if of_person or bare else last


def _names() -> set[str]:
    """The names of this account and this machine, but for those that name nobody."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run as a number without a name
        account = ""
    host = socket.gethostname()
    found = {account, Path(os.path.expanduser("~")).name, host, host.split(".")[0]}
    return {name for name in found if len(name) > 2 and name.lower() not in NAMELESS}
