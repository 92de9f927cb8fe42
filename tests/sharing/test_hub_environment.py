"""Sharing in a process of its own: what the environment says is what counts."""

import os
import subprocess
import sys

import pytest

from tests.sharing.loopback import TOKEN
from tests.sharing.sending import REPO

pytestmark = [
    pytest.mark.unit,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # how huggingface_hub calls its client
]


def run_alone(server, out, **environment):
    """Share in a process of its own, for the client reads the environment when it is imported."""
    words = [
        "import sys, pathlib",
        "from pipeline.sharing import hub",
        "heavy = {'torch', 'diffusers', 'huggingface_hub', 'PIL'} & set(sys.modules)",
        "assert not heavy, heavy",
        f"hub.require_access('{REPO}', None)",
        "hub.WAITS_SECONDS = (0.0, 0.0, 0.0, 0.0)",
        f"sys.stdout.write(hub.upload(pathlib.Path(sys.argv[1]), '{REPO}', None, 'Paper'))",
    ]
    given = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(out.parent / "hf"), **environment}
    command = [sys.executable, "-c", "\n".join(words), str(out)]
    return subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60)


def test_the_endpoint_is_that_of_the_environment(server, out):
    ended = run_alone(server, out, HF_HUB_DISABLE_XET="1")
    assert (ended.returncode, ended.stdout) == (0, f"{server.endpoint}/{REPO}"), ended.stderr
    assert [commit.message for commit in server.own_commits(REPO)] == ["Paper"]


def test_offline_by_the_environment(server, out):
    ended = run_alone(server, out, HF_HUB_OFFLINE="1")
    assert "ConfigError: HF_HUB_OFFLINE is set" in ended.stderr
    assert server.requests == []


def test_an_error_of_xet_is_said_in_a_sentence(server, out):
    """The loopback Hub has no Xet storage, and the client does not fall back to LFS."""
    ended = run_alone(server, out, HF_HUB_DISABLE_XET="0")
    assert "UploadFailed: The upload to " in ended.stderr
    assert "failed at attempt 5: ConnectionError" in ended.stderr
    assert server.own_commits(REPO) == []
