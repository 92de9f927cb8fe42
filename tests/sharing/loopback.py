"""A small Hub in memory on 127.0.0.1: as much of the protocol as one model repository needs, and faults on demand."""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "loopback" * 4
Match = re.Match[str]
Data = dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """One commit: its message, what it changed, and the whole tree after it."""

    oid: str
    message: str
    changed: tuple[str, ...]
    files: dict[str, bytes]


@dataclass
class Fault:
    """What goes wrong with the next requests whose "METHOD /path" matches."""

    pattern: str
    times: int
    status: int = 0  # 0: no answer at all
    body: bytes = b""
    done_first: bool = False  # the work is done, only the answer is lost
    silence: threading.Event | None = None  # until it is set the connection is not cut, a minute at most
    was_cut: bool = False


class Refused(Exception):
    """An answer that is an error: status, message and, where the client looks at it, the code."""


@dataclass
class Hub:
    """The repositories, who may write, and what shall fail. Use it as a context manager."""

    user: str = "jane"
    organisations: tuple[str, ...] = ("studio",)
    may_write: bool = True
    token_is_valid: bool = True
    lfs_suffixes: tuple[str, ...] = (".safetensors", ".png")  # LFS, as is everything large
    repositories: dict[str, list[Commit]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by sha256
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    rivals: int = 0  # before so many commits of ours, somebody else commits

    def __enter__(self) -> "Hub":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail_next(self, pattern: str, status: int, times: int = 1, body: bytes = b'{"error": "out of order"}') -> None:
        """Answer the next `times` matching requests with `status`."""
        self.faults.append(Fault(pattern, times, status, body))

    def cut_next(self, pattern: str, times: int = 1, **how: Any) -> None:
        """Cut the next matching connections: half-way through the body, or after the work and before the answer."""
        self.faults.append(Fault(pattern, times, **how))

    def own_commits(self, repo: str) -> list[Commit]:
        """The commits that are neither the first, which the Hub makes, nor somebody else's."""
        return [commit for commit in self.repositories[repo] if commit.message not in ("initial commit", "rival")]

    def commit(self, repo: str, message: str, changes: dict[str, bytes]) -> Commit:
        """Put a commit on top."""
        history = self.repositories.setdefault(repo, [])
        files = {**(history[-1].files if history else {}), **changes}
        oid = hashlib.sha1(f"{repo} {len(history)} {message} {sorted(changes)}".encode()).hexdigest()
        history.append(Commit(oid, message, tuple(changes), files))
        return history[-1]

    # What the paths of the protocol do. Each gets the match of its path, the body and the headers.

    def whoami(self, *_: Any) -> Data:
        return {"type": "user", "name": self.user, "orgs": [{"name": name} for name in self.organisations], "auth": {}}

    def create(self, match: Match, body: bytes, _: Any) -> tuple[int, Data]:
        wish = json.loads(body)
        repo = f"{wish.get('organization') or self.user}/{wish['name']}"
        self._require_write(repo)
        if not (known := repo in self.repositories):
            self.commit(repo, "initial commit", {".gitattributes": b"*.safetensors filter=lfs"})
        return 409 if known else 200, {"url": f"{self.endpoint}/{repo}", "id": repo, "name": repo}

    def auth_check(self, match: Match, body: bytes, _: Any) -> Data:
        self._head(match["repo"])
        self._require_write(match["repo"])
        return {}

    def validate_yaml(self, match: Match, body: bytes, _: Any) -> tuple[int, Data]:
        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        try:
            yaml.safe_load(front[1] if front else "")
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": f"bad front matter: {type(error).__name__}"}]}
        return 200, {"errors": [], "warnings": []}

    def preupload(self, match: Match, body: bytes, _: Any) -> Data:
        held = self._head(match["repo"]).files
        self._require_write(match["repo"])
        rows = []
        for file in json.loads(body)["files"]:
            path, lfs = file["path"], self._is_lfs(file["path"], file["size"])
            oid = (sha256 if lfs else git_blob)(held[path]) if path in held else None
            rows.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
        return {"files": rows}

    def lfs_batch(self, match: Match, body: bytes, _: Any) -> Data:
        self._require_write(match["repo"])
        rows = json.loads(body)["objects"]
        for row in rows:
            if row["oid"] not in self.objects:
                where = f"{self.endpoint}/lfs/{row['oid']}"
                row["actions"] = {"upload": {"href": where}, "verify": {"href": f"{where}/verify"}}
        return {"transfer": "basic", "objects": rows}

    def lfs_put(self, match: Match, body: bytes, _: Any) -> Data:
        if sha256(body) != match["oid"]:
            raise Refused(400, "the bytes are not those of the name")
        self.objects[match["oid"]] = body
        return {}

    def lfs_verify(self, match: Match, body: bytes, _: Any) -> Data:
        if len(self.objects.get(match["oid"], b"")) != json.loads(body)["size"]:
            raise Refused(400, "the object is not here")
        return {}

    def add_commit(self, match: Match, body: bytes, _: Any) -> Data:
        repo, summary, parent, changes = match["repo"], "", None, dict[str, bytes]()
        self._require_write(repo)
        for line in body.splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                summary, parent = value["summary"], value.get("parentCommit")
            elif key == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changes[value["path"]] = self.objects[value["oid"]]
            else:
                raise Refused(400, f"unknown operation {key}")
        if self.rivals:
            self.rivals -= 1
            self.commit(repo, "rival", {"NOTES.md": f"{self.rivals}".encode()})
        if parent not in (None, self._head(repo).oid):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        oid = self.commit(repo, summary, changes).oid
        return {"commitOid": oid, "commitUrl": f"{self.endpoint}/{repo}/commit/{oid}"}

    def info(self, match: Match, body: bytes, _: Any) -> Data:
        head = self._head(match["repo"], match["revision"])
        return {"id": match["repo"], "sha": head.oid, "siblings": [{"rfilename": path} for path in head.files]}

    def tree(self, match: Match, body: bytes, _: Any) -> list[Data]:
        files = self._head(match["repo"], match["revision"]).files
        return [self._row(path, content) for path, content in sorted(files.items())]

    def paths_info(self, match: Match, body: bytes, _: Any) -> list[Data]:
        files, wanted = self._head(match["repo"], match["revision"]).files, parse_qs(body.decode())["paths"]
        return [self._row(path, files[path]) for path in wanted if path in files]

    def resolve(self, match: Match, body: bytes, headers: Any) -> tuple[int, bytes, dict[str, str]]:
        head = self._head(match["repo"], match["revision"])
        content = head.files.get(match["path"])
        if content is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        answer = {"X-Repo-Commit": head.oid, "ETag": f'"{git_blob(content)}"', "Accept-Ranges": "bytes"}
        if self._is_lfs(match["path"], len(content)):
            answer |= {"X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", "")):
            first, last = int(part[1]), int(part[2] or len(content) - 1)
            answer["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return 206, content[first : last + 1], answer
        return 200, content, answer

    def _head(self, repo: str, revision: str | None = None) -> Commit:
        if repo not in self.repositories:
            raise Refused(404, "Repository not found", "RepoNotFound")
        history = self.repositories[repo]
        found = [commit for commit in history if commit.oid == revision]
        if revision not in (None, "main") and not found:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0] if found else history[-1]

    def _require_write(self, repo: str) -> None:
        if not self.may_write or repo.split("/")[0] not in (self.user, *self.organisations):
            raise Refused(403, "You don't have the rights to write here")

    def _is_lfs(self, path: str, size: int) -> bool:
        return path.endswith(self.lfs_suffixes) or size > 10_000_000

    def _row(self, path: str, content: bytes) -> Data:
        row: Data = {"type": "file", "oid": git_blob(content), "size": len(content), "path": path}
        lfs = {"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 130}}
        return row | (lfs if self._is_lfs(path, len(content)) else {})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO = r"(?P<repo>[^/]+/[^/]+)"
OPEN, TOKEN_NEEDED = False, True
ROUTES = [
    (r"GET /api/whoami-v2", Hub.whoami, TOKEN_NEEDED),
    (r"POST /api/repos/create", Hub.create, TOKEN_NEEDED),
    (r"POST /api/validate-yaml", Hub.validate_yaml, OPEN),
    (rf"GET /api/models/{REPO}/auth-check/write", Hub.auth_check, TOKEN_NEEDED),
    (rf"POST /api/models/{REPO}/preupload/main", Hub.preupload, TOKEN_NEEDED),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Hub.lfs_batch, TOKEN_NEEDED),
    (r"PUT /lfs/(?P<oid>\w+)", Hub.lfs_put, OPEN),
    (r"POST /lfs/(?P<oid>\w+)/verify", Hub.lfs_verify, TOKEN_NEEDED),
    (rf"POST /api/models/{REPO}/commit/main", Hub.add_commit, TOKEN_NEEDED),
    (rf"GET /api/models/{REPO}(/revision/(?P<revision>\w+))?", Hub.info, OPEN),
    (rf"GET /api/models/{REPO}/tree/(?P<revision>\w+)", Hub.tree, OPEN),
    (rf"POST /api/models/{REPO}/paths-info/(?P<revision>\w+)", Hub.paths_info, OPEN),
    (rf"(HEAD|GET) /{REPO}/resolve/(?P<revision>\w+)/(?P<path>.+)", Hub.resolve, OPEN),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    hub: Hub

    def do_GET(self) -> None:
        line = f"{self.command} {unquote(urlsplit(self.path).path)}"
        self.hub.requests.append(line)
        fault = next((f for f in self.hub.faults if f.times and re.search(f.pattern, line)), None)
        length = int(self.headers.get("Content-Length", 0))
        if fault is None:
            self._answer(*self._work(line, self.rfile.read(length)))
            return
        fault.times -= 1
        if fault.status:
            self.rfile.read(length)
            self._answer(fault.status, fault.body, {})
            return
        if fault.done_first:
            self._work(line, self.rfile.read(length))
        else:
            self.rfile.read(length // 2)
        fault.was_cut = fault.silence is None or fault.silence.wait(60) or True
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_PUT = do_GET

    def _work(self, line: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        try:
            for pattern, work, needs_token in ROUTES:
                if match := re.fullmatch(pattern, line):
                    right, given = self.hub.token_is_valid, self.headers.get("Authorization")
                    if needs_token if given is None else not (right and given == f"Bearer {TOKEN}"):
                        raise Refused(401, "Invalid credentials in Authorization header")
                    answer: Any = work(self.hub, match, body, self.headers)
                    if isinstance(answer, tuple) and isinstance(answer[1], bytes):
                        return answer
                    status, data = answer if isinstance(answer, tuple) else (200, answer)
                    return status, json.dumps(data).encode(), {}
            raise Refused(404, f"no such path: {line}")
        except Refused as error:
            status, message, code = (*error.args, "")[:3]
            return status, b"{}", {"X-Error-Message": message, "X-Error-Code": code}

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
