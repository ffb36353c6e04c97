"""The hub, as a stand-in on this machine that speaks its HTTP API."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tunesmith.errors import ModelError, RunError
from tunesmith.export.stage import Exported
from tunesmith.run.directory import RunDir

Leave = Callable[..., Exported]
TOKEN = "hf_" + "x" * 34
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's library of its own


class Hub(ThreadingHTTPServer):
    """Repositories in memory: {name: {"private": ..., "files": {path: bytes}}}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repos: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.loses: str | None = None
        """A file that does not arrive."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, value: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _is_known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._send({"error": "Invalid credentials"}, 401)
        return False

    def do_GET(self) -> None:
        if not self._is_known():
            return
        name = "/".join(self.path.split("?")[0].split("/")[3:5])
        repo = self.server.repos.get(name)
        if repo is None:
            self._send({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
            return
        if "/tree/" in self.path:
            self._send(
                [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in repo["files"].items()]
            )
            return
        files = [{"rfilename": path} for path in repo["files"]]
        self._send({"id": name, "private": repo["private"], "siblings": files, "sha": "0" * 40, "tags": []})

    def do_POST(self) -> None:
        if not self._is_known():
            return
        body, path = self._body(), self.path.split("?")[0]
        if path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'anna'}/{values['name']}"
            private = values.get("private", values.get("visibility") == "private")  # of older and newer libraries
            self.server.repos.setdefault(name, {"private": private, "files": {}})
            self._send({"url": f"{self.server.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": _mode(f), "shouldIgnore": False} for f in files]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._send({"objects": [self._upload(one) for one in json.loads(body)["objects"]], "transfer": "basic"})
        elif "/commit/" in path:
            self._commit(path, [json.loads(line) for line in body.splitlines()])
        else:
            self._send({"error": path}, 404)

    def do_PUT(self) -> None:
        data = self._body()
        self.server.stored[hashlib.sha256(data).hexdigest()] = data
        self._send({})

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.server.address}/store/{one['oid']}"}}}

    def _commit(self, path: str, lines: list[dict[str, Any]]) -> None:
        name = "/".join(path.split("/")[3:5])
        files = self.server.repos[name]["files"]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        files.pop(self.server.loses, None)
        self._send({"commitUrl": f"{self.server.address}/{name}/commit/1", "commitOid": "1" * 40, "success": True})


def _mode(file: dict[str, Any]) -> str:
    return "lfs" if file["path"].endswith(".safetensors") else "regular"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


def test_a_private_repository_with_card_recipe_and_report(tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    done = leave(tiny_run, "hub", repo="anna/shows")
    assert done.address == done.record.address == f"{hub.address}/anna/shows"
    repo = hub.repos["anna/shows"]
    assert repo["private"] is True
    assert {"model.safetensors", "README.md", "EXPORT.json", "recipe.yaml", "report.html"} < set(repo["files"])
    assert repo["files"]["model.safetensors"] == (done.path / "model.safetensors").read_bytes()
    assert b"loaded again" in repo["files"]["README.md"]
    assert str(tiny_run.path).encode() not in b"".join(repo["files"].values())
    assert TOKEN.encode() not in b"".join(repo["files"].values())


def test_a_repository_that_exists(tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    hub.repos["anna/shows"] = {"private": True, "files": {"old.txt": b"kept"}}
    with pytest.raises(RunError, match=r"anna/shows: exists already. Write over it with --force"):
        leave(tiny_run, "hub", repo="anna/shows")
    leave(tiny_run, "hub", repo="anna/shows", force=True)
    assert "model.safetensors" in hub.repos["anna/shows"]["files"]


def test_a_repository_that_all_can_see(tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    hub.repos["anna/shows"] = {"private": False, "files": {}}
    with pytest.raises(RunError, match=r"anna/shows: all can see it. Say so with --public"):
        leave(tiny_run, "hub", repo="anna/shows", force=True)
    assert hub.repos["anna/shows"]["files"] == {}


def test_for_all_to_see(tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    leave(tiny_run, "hub", repo="anna/shows", public=True)
    assert hub.repos["anna/shows"]["private"] is False


def test_no_token(tiny_run: RunDir, leave: Leave, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ModelError, match=r"no token. Log in with: hf auth login, or set HF_TOKEN"):
        leave(tiny_run, "hub", repo="anna/shows")


def test_a_token_without_rights(tiny_run: RunDir, leave: Leave, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "y" * 34)
    with pytest.raises(ModelError, match=r"anna/shows: the hub"):
        leave(tiny_run, "hub", repo="anna/shows")


def test_a_file_that_did_not_arrive(tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    hub.loses = "tokenizer.json"
    with pytest.raises(ModelError, match=r"tokenizer.json did not arrive"):
        leave(tiny_run, "hub", repo="anna/shows")


@pytest.mark.parametrize("name", ["shows", "anna/shows/more", "anna/sh ows"])
def test_a_name_that_is_none(name: str, tiny_run: RunDir, leave: Leave, hub: Hub) -> None:
    with pytest.raises(RunError, match=r"expected OWNER/NAME"):
        leave(tiny_run, "hub", repo=name)


def test_offline(tiny_run: RunDir, leave: Leave, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set"):
        leave(tiny_run, "hub", repo="anna/shows")
