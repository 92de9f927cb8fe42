"""Whether one may write to a repository is settled first: the token, the name, the organisation, the connection."""

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import validate_repo_id

from tests.sharing.loopback import TOKEN
from tests.sharing.sending import REPO, access, failure, refusal

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]


def test_access_makes_the_repository_once(server):
    access(server)
    access(server)
    access(server, "studio/paper")
    assert sorted(server.repositories) == [REPO, "studio/paper"]
    assert [len(history) for history in server.repositories.values()] == [1, 1]


def test_a_token_the_hub_rejects(server, out):
    server.token_is_valid = False
    assert "the Hub does not accept the token (401)" in refusal(server)
    assert server.requests == ["GET /api/whoami-v2"]
    server.token_is_valid = True
    access(server)
    server.token_is_valid = False
    assert "attempt 1: the Hub does not accept the token (401)" in failure(server, out)
    assert not [line for line in server.requests if line.startswith("PUT") or "/commit/" in line]


def test_a_token_that_may_only_read(server, out):
    access(server)
    server.may_write = False
    assert refusal(server).startswith("The Hub token may not write to jane/paper-stickers: make one")
    assert "attempt 1: the token may not write there (403)" in failure(server, out)
    assert not [line for line in server.requests if line.startswith("PUT") or "/commit/" in line]


@pytest.mark.parametrize("exists", [False, True])
def test_an_organisation_one_is_not_in(server, exists):
    if exists:
        server.commit("acme/paper", "initial commit", {})
    sentence = refusal(server, "acme/paper")
    assert sentence == "You are jane on the Hub and not in acme: share under jane or studio."


def test_a_hub_that_is_not_there(server):
    server.__exit__()
    assert f"{server.endpoint} cannot be reached (ConnectError: [Errno 111] Connection refused): " in refusal(server)


def test_something_else_answers(server):
    server.fail_next("GET", 200, body=b"<html>Welcome to the hotel</html>")
    assert "cannot be reached (what answered is not the Hub)" in refusal(server)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("jane/paper", True), ("jane/Paper_2.0-final", True), ("_/a", True), ("jane/" + "a" * 96, True),
        ("paper", False), ("jane/paper/x", False), ("", False), ("/paper", False), ("jane/", False),
        ("jane/pa per", False), ("jane/-a", False), ("jane/a.", False), ("jane/a--b", False), ("ja..ne/a", False),
        ("jane/a.git", False), ("jane/papér", False), ("jane/" + "a" * 97, False), ("jane/a\n", False),
    ],
)  # fmt: skip
def test_names_of_repositories(server, name, valid):
    if valid:
        validate_repo_id(name)
        server.organisations = ("_",)
        access(server, name)
        assert list(server.repositories) == [name]
    else:
        assert "is no name of a repository" in refusal(server, name)
        assert server.requests == []


def test_a_token_is_needed_and_may_come_from_the_machine(server, monkeypatch):
    assert refusal(server, token=None).startswith("There is no Hub token: ")
    assert refusal(server, token="  ").startswith("There is no Hub token: ")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    access(server, token=None)
    access(server, token=f"{TOKEN}\n")


@pytest.mark.parametrize("token", [f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}é"])
def test_a_token_no_header_can_hold(server, token):
    assert "paste it again" in refusal(server, token=token)


def test_offline_is_refused_before_any_connection(server, out, monkeypatch):
    access(server)
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(server).startswith("HF_HUB_OFFLINE is set: ")
    assert failure(server, out).startswith("HF_HUB_OFFLINE is set: ")
    assert server.requests == []
