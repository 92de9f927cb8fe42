"""Sharing on the Hub: which files may leave, whether they may go there, and the one commit that brings them."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, listed
from pipeline.sharing.redact import TOKEN, scrubbed_run_toml

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

ADAPTER, CARD, SETTINGS = ALWAYS = ("pytorch_lora_weights.safetensors", "README.md", "run.toml")
WAITS_SECONDS = (2.0, 4.0, 8.0, 16.0)  # between the attempts of an upload
SILENCE_SECONDS = 60.0  # the client of the Hub would wait for ever on a connection that went dead
TOKENS_PAGE = "https://huggingface.co/settings/tokens"

NAME = r"(?!\S*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?"
EMAIL = r"(?<![\w.+-])(?!git@)[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"  # git@host is how one clones
ESCAPES = re.compile(r"\\[nrt]")  # a line break inside a string of JSON or TOML
MEANING = {
    401: "the Hub does not accept the token",
    403: "the token may not write there",
    404: "there is no such repository, or the token may not see it",
    412: "somebody else keeps committing to it",
    429: "the Hub asks for fewer requests",
}


class HubError(RuntimeError):
    """The upload did not happen; the files of the run are as they were."""


class UploadFailed(HubError):
    """The Hub did not take it; it may later."""


def chosen(folder: Path) -> list[str]:
    """The files of an output folder that may be shared, as relative POSIX paths; nothing else ever leaves.

    The adapter, its card and settings, the file for ComfyUI, and the previews the card shows. A link is left out:
    what it points to was not chosen.
    """
    card = folder / CARD
    shown = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = _for_comfyui(folder)
    pictures = [path.relative_to(folder).as_posix() for path in folder.glob("samples/**/*.png")]
    found += [name for name in pictures if name in shown]
    home = folder.resolve()
    return sorted(n for n in [*ALWAYS, *found] if (folder / n).is_file() and (folder / n).resolve() == home / n)


def _for_comfyui(folder: Path) -> list[str]:
    """The file that the run wrote, as it says itself; of a run that does not say it, all there are."""
    there = [path.relative_to(folder).as_posix() for path in folder.glob("comfyui/*.safetensors")]
    try:
        facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return there
    says_it = isinstance(facts, dict) and "comfyui" in facts
    return [name for name in there if name == facts["comfyui"]] if says_it else there


def full_name(name: str | None, folder: Path, token: str | None, endpoint: str | None = None) -> str:
    """'user/name' of a repository given with or without its user, or called like the folder.

    Raises ConfigError if the user has to be asked for and cannot be.
    """
    name = name or re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-.")
    if "/" in name:
        return name
    from huggingface_hub import HfApi

    token = _ready(f"user/{name}", token, ConfigError)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        _limit_silence()
        return f"{api.whoami()['name']}/{name}"
    except Exception as error:  # no connection, no such token, or something that is no Hub at the other end
        raise ConfigError(
            f"The Hub at {api.endpoint} does not say whose account this is: {_reason(error, token)}."
        ) from error


def require_access(repo: str, token: str | None, endpoint: str | None = None) -> None:
    """Make sure, before training, that an upload to `repo` will be allowed; creates the repository.

    `token` None means the one of HF_TOKEN or `hf auth login`, `endpoint` None the one of HF_ENDPOINT.
    Raises ConfigError with one sentence that never holds the token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    token = _ready(repo, token, ConfigError)
    api = HfApi(endpoint=endpoint, token=token)
    person: dict[str, object] = {}
    try:
        _limit_silence()
        person = api.whoami()
        try:
            api.auth_check(repo, write=True)  # create_repo is content with any repository that can be read
        except RepositoryNotFoundError:
            api.create_repo(repo, exist_ok=True)
    except HfHubHTTPError as error:
        if error.response.status_code == 403:
            raise ConfigError(_forbidden(repo, person)) from error
        raise ConfigError(f"Nothing can be shared as {repo}: {_reason(error, token)}.") from error
    except Exception as error:  # no connection, or something that is no Hub at the other end
        raise ConfigError(
            f"The Hub at {api.endpoint} cannot be reached ({_reason(error, token)}): check the connection, or train "
            "without sharing and publish later."
        ) from error


def upload(
    folder: Path,
    repo: str,
    token: str | None,
    message: str,
    *,
    endpoint: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Bring the chosen files of `folder` to the existing repository `repo` in one commit; returns its URL.

    There is no commit when the Hub has them all already. Waits and tries again up to four times when the connection
    breaks, the Hub is busy or out of order, or somebody else committed meanwhile. Raises HubError when that does not
    help (UploadFailed), and before anything moves when a file holds a secret or a private path.
    """
    from huggingface_hub import HfApi

    token = _ready(repo, token, HubError)
    names = chosen(folder)
    if ADAPTER not in names:
        raise HubError(f"There is nothing to share: {folder} holds no {ADAPTER}.")
    if problems := _leaks(folder, names, token):
        raise HubError(f"Nothing was shared, for these would become public:\n{listed(problems)}")
    api = HfApi(endpoint=endpoint, token=token)
    attempt = 0
    while True:
        try:
            _commit(api, folder, names, repo, message)
            return f"{api.endpoint}/{repo}"
        except Exception as error:  # the HTTP client and hf_xet have errors of their own
            if attempt == len(WAITS_SECONDS) or not _may_pass(error):
                raise UploadFailed(
                    f"The upload to {api.endpoint}/{repo} failed at attempt {attempt + 1}: {_reason(error, token)}. "
                    f"Your files are untouched in {folder}."
                ) from error
        pause(WAITS_SECONDS[attempt])
        attempt += 1


def _ready(repo: str, token: str | None, refuse: Callable[[str], Exception]) -> str:
    """The token to use, once all that can be known without a connection is right."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise refuse("HF_HUB_OFFLINE is set: unset it, or train without sharing and publish later.")
    if not re.fullmatch(f"{NAME}/{NAME}", repo, re.ASCII) or repo.endswith(".git"):
        raise refuse(f"{repo!r} is no name of a repository: give user/name, of letters, digits, '-', '_' and '.'.")
    token = (token or get_token() or "").strip()
    if not token:
        raise refuse(f"There is no Hub token: make one that may write at {TOKENS_PAGE}, then run `hf auth login`.")
    if not re.fullmatch(r"[!-~]+", token):  # no header can hold it, and the client's error would show it
        raise refuse("The Hub token holds spaces or characters that no token has: paste it again.")
    return token


def _commit(api: "HfApi", folder: Path, names: list[str], repo: str, message: str) -> None:
    """One attempt, from the start: a commit whose answer was lost is then found to be there already."""
    from huggingface_hub import CommitOperationAdd

    _limit_silence()
    parent = api.model_info(repo, timeout=SILENCE_SECONDS).sha
    files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=_shared(folder, name)) for name in names]
    api.create_commit(repo, files, commit_message=message, parent_commit=parent)


def _shared(folder: Path, name: str) -> Path | bytes:
    """What is sent of a file: all of it, but of the settings what is private stays here."""
    if name != SETTINGS:
        return folder / name
    return scrubbed_run_toml((folder / name).read_text(encoding="utf-8")).encode("utf-8")


def _limit_silence() -> None:
    from huggingface_hub import get_session

    get_session().timeout = SILENCE_SECONDS


def _forbidden(repo: str, person: dict[str, object]) -> str:
    """Why the Hub said 403."""
    owner, name, groups = repo.split("/")[0], str(person.get("name")), person.get("orgs")
    mine = [name, *(str(group.get("name")) for group in (groups if isinstance(groups, list) else []))]
    if person and owner.lower() not in [known.lower() for known in mine]:
        return f"You are {name} on the Hub and not in {owner}: share under {' or '.join(mine)}."
    return f"The Hub token may not write to {repo}: make one that may at {TOKENS_PAGE}."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: the client wraps what happens to large files."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _answer(error: BaseException) -> "HfHubHTTPError | None":
    """What the Hub answered, if it did."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((cause for cause in _chain(error) if isinstance(cause, HfHubHTTPError)), None)


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: 412 is a commit of somebody else, 429 too many requests."""
    if answer := _answer(error):
        status = answer.response.status_code
        return status >= 500 or status in (408, 412, 429)
    return isinstance(error, json.JSONDecodeError) or not isinstance(error, ValueError)  # a proxy's page is no JSON


def _reason(error: BaseException, token: str) -> str:
    """What happened, in one clause and without the token."""
    if answer := _answer(error):
        status = answer.response.status_code
        if status in MEANING:
            return f"{MEANING[status]} ({status})"
        said = (answer.server_message or "") if error is answer else str(error)
        clause = f"the Hub {'is out of order' if status >= 500 else 'refused'} ({status})"
    elif isinstance(error, json.JSONDecodeError):
        return "what answered is not the Hub"
    else:
        cause = list(_chain(error))[-1]
        said, clause = str(cause), type(cause).__name__
    said = " ".join(said.replace(token, "TOKEN").split())[:200].rstrip(".")
    return f"{clause}: {said}" if said else clause


def _leaks(folder: Path, names: list[str], token: str) -> list[str]:
    """A line for every secret or private path in the files: where it is and of which kind, but not itself."""
    kinds = {"a Hub token": rf"{TOKEN}|{re.escape(token)}"}
    home = Path(os.path.expanduser("~"))  # where there is none, this stays as it is
    for kind, path in (("the path of your home folder", home), ("the path of this folder", folder)):
        places = [place for place in {path.absolute(), path.resolve()} if len(place.parts) > 1]
        if places:
            kinds[kind] = rf"(?<![\w.-])(?:{'|'.join(re.escape(str(place)) for place in places)})(?![\w-])"
    problems = []
    for name in names:
        try:
            found_here = _shared(folder, name)
            text = found_here.decode("utf-8") if isinstance(found_here, bytes) else _text(found_here)
            text = ESCAPES.sub(" ", text)
        except (OSError, ValueError, SyntaxError) as error:
            raise HubError(f"Nothing was shared: {name} cannot be read ({type(error).__name__}).") from error
        for kind, pattern in kinds.items() if name == SETTINGS else {**kinds, "an e-mail address": EMAIL}.items():
            if found := re.search(pattern, text):
                line = f", line {text.count(chr(10), 0, found.start()) + 1}" if name in ALWAYS[1:] else ""
                problems.append(f"{name}{line}: {kind}")
    return problems


def _text(path: Path) -> str:
    """What can be read in a file: all of a text, the header of tensors, the notes in a picture."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))  # a damaged one may claim anything
        notes = header.pop("__metadata__", {})
        return "\n".join([*header, *notes, *notes.values()])
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as picture:
            picture.load()  # notes may follow the pixels
            return "\n".join(f"{name} {value!s}" for name, value in picture.info.items())
    return path.read_text(encoding="utf-8", errors="replace")
