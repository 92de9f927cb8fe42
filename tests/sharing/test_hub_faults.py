"""A Hub that fails, refuses or falls silent: asked again where that may help, given up in a sentence where not."""

import json
import re
import threading

import huggingface_hub
import pytest

from pipeline.sharing import hub
from tests.sharing.loopback import TOKEN
from tests.sharing.sending import ADAPTER, CARD, REPO, SHARED, access, failure, share

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]
COMMIT, PUT, PREUPLOAD = r"POST .*/commit/", r"PUT /lfs/", r"POST .*/preupload/"


@pytest.mark.parametrize("path", [COMMIT, r"GET /api/models/[^/]+/[^/]+$", "POST /api/validate-yaml"])
@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_out_of_order_is_asked_again(server, out, path, status):
    access(server)
    server.fail_next(path, status, times=3)
    assert share(server, out) == [2, 4, 8]
    assert len(server.own_commits(REPO)) == 1


def test_the_page_of_a_proxy_is_no_answer(server, out):
    access(server)
    server.fail_next("POST /api/validate-yaml", 502, body=b"<html>Bad gateway</html>")
    assert share(server, out) == [2]


def test_a_hub_out_of_order_for_ever_is_given_up(server, out):
    access(server)
    server.fail_next(COMMIT, 503, times=10**6)
    sentence = failure(server, out)
    assert "failed at attempt 5: the Hub is out of order (503)" in sentence
    assert sum("/commit/" in line for line in server.requests) == 5
    assert server.own_commits(REPO) == []


@pytest.mark.parametrize("path", [COMMIT, PUT, PREUPLOAD])
@pytest.mark.parametrize("done_first", [False, True])
def test_a_cut_connection_ends_in_one_whole_commit(server, out, path, done_first):
    access(server)
    server.cut_next(path, done_first=done_first)
    share(server, out)
    assert [sorted(commit.changed) for commit in server.own_commits(REPO)] == [sorted(SHARED)]
    assert server.repositories[REPO][-1].files[ADAPTER] == (out / ADAPTER).read_bytes()


def test_a_connection_that_stays_cut_is_given_up(server, out):
    access(server)
    server.cut_next(PUT, times=10**6)
    assert "failed at attempt 5" in failure(server, out)


def test_a_silent_connection_is_not_waited_for_for_ever(server, out, monkeypatch):
    monkeypatch.setattr(hub, "SILENCE_SECONDS", 0.1)
    access(server)
    huggingface_hub.get_session().timeout = None  # as in a process that uploads a finished run
    silence, waits = threading.Event(), []
    server.cut_next(COMMIT, silence=silence)
    (fault,) = server.faults
    hub.upload(out, REPO, TOKEN, "Paper", endpoint=server.endpoint, pause=waits.append)
    assert waits == [2]
    assert not fault.was_cut  # the other end is still there, and silent
    silence.set()


def test_a_commit_of_somebody_else_is_built_upon(server, out):
    access(server)
    server.rivals = 1
    assert share(server, out) == [2]
    assert [commit.message for commit in server.repositories[REPO]] == ["initial commit", "rival", "Paper"]
    assert {"NOTES.md", *SHARED} <= set(server.repositories[REPO][-1].files)


def test_a_commit_of_somebody_else_each_time_is_given_up(server, out):
    access(server)
    server.rivals = 10**6
    assert "somebody else keeps committing to it (412)" in failure(server, out)


def test_a_bad_card_is_refused_by_the_hub_and_not_sent_again(server, out):
    access(server)
    (out / CARD).write_text("---\ntags: [\n---\n", encoding="utf-8")
    assert "attempt 1: the Hub refused (400): Invalid metadata in README.md. - bad front matter" in failure(server, out)


def test_a_refused_large_file_is_not_sent_again(server, out):
    access(server)
    server.fail_next(PUT, 400, times=10**6)
    assert "attempt 1: the Hub refused (400): Error while uploading" in failure(server, out)


def test_a_hub_that_takes_no_large_file_is_not_asked_again(server, out):
    access(server)
    full = {"oid": "0" * 64, "size": 1, "error": {"code": 507, "message": "the storage is full"}}
    server.fail_next("/objects/batch", 200, body=json.dumps({"objects": [full]}).encode())
    assert re.search("attempt 1: .*the storage is full", failure(server, out))


def test_what_the_hub_says_is_shown_without_the_token(server, out):
    access(server)
    server.fail_next(COMMIT, 422, body=json.dumps({"error": f"no commit with {TOKEN} today."}).encode())
    assert "attempt 1: the Hub refused (422): no commit with TOKEN today. Your files" in failure(server, out)
