"""Models on the hub: uploaded to a stand-in for it, and opened from there."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import warm
from conftest import SHORT_PLAY, TINY

pytestmark = pytest.mark.slow
COMMIT = "0123456789abcdef" * 2 + "01234567"
NAME = "somebody/model"
SCRIPT = "raise SystemExit('a stranger was here')"


class StandIn(BaseHTTPRequestHandler):
    """Answers as the hub does, for one repository without large files."""

    files: dict[str, bytes]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path
        self.asked.append(f"POST {path} {self.headers.get('Authorization')}")
        if path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/{NAME}", "name": NAME})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == f"/api/models/{NAME}/preupload/main":
            given = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": file["path"], **modes} for file in given]})
        elif path == f"/api/models/{NAME}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/{NAME}/commit/{COMMIT}"
            self._json({"commitUrl": url, "commitOid": COMMIT})
        else:
            self._json({"error": path}, 404)

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        self.asked.append(f"{self.command} {path}")
        if path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            self._json({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/{NAME}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": name, "oid": f"{i:040x}", "size": len(content)}
                for i, (name, content) in enumerate(self.files.items())
            ]
            self._json(entries)
        elif path.startswith(f"/{NAME}/resolve/"):
            self._send(self.files[path.rpartition("/")[2]], {"X-Repo-Commit": COMMIT})
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815  (the base class's spelling)

    def log_message(self, *args: Any) -> None:
        pass

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), headers or {}, status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "ETag": f'"{hash(content):x}"'}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[tuple[type[StandIn], dict[str, str]]]:
    """The stand-in, and the environment that leads to it."""
    handler = type("Handler", (StandIn,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield handler, {"HF_ENDPOINT": address, "HF_TOKEN": "hf_token", "HF_HUB_DISABLE_XET": "1"}
    server.shutdown()
    server.server_close()


def test_a_model_goes_to_the_hub_and_comes_back(
    hub: tuple[type[StandIn], dict[str, str]], tmp_path: Path
) -> None:
    handler, env = hub
    env |= {"HF_HOME": str(tmp_path / "hf"), "TRM_CACHE_DIR": str(tmp_path / "cache")}

    def call(command: str, *words: str) -> warm.Ended:
        return warm.run_cold(f"trm_lightning.{command}", *words, folder=tmp_path, env=env)

    settings = [*TINY, *SHORT_PLAY, "data=builtin_char", "model=looped", "hydra.run.dir=run"]
    assert call("train", *settings).returncode == 0
    pushed = call("export", "run=run", f"push_to_hub={NAME}", "license=mit")
    assert pushed.returncode == 0 and f"/{NAME}/commit/{COMMIT}" in pushed.stdout, pushed.stderr
    assert handler.files.keys() == {file.name for file in (tmp_path / "run/export").iterdir()}
    assert "POST /api/repos/create Bearer hf_token" in handler.asked

    handler.files |= {"modeling.py": SCRIPT.encode(), "sitecustomize.py": SCRIPT.encode()}
    written = [call("generate", f"run={run}", "n_tokens=20") for run in ("run", f"hf://{NAME}")]
    assert written[1].returncode == 0 and written[0].stdout == written[1].stdout != "", written[
        1
    ].stderr
    (copy,) = (tmp_path / "cache" / "hub").glob("*@*")
    assert not list(copy.rglob("*.py")) and not any("modeling" in path for path in handler.asked)
    lost = call("generate", "run=hf://somebody/else")
    assert lost.returncode == 2 and "hf://somebody/else could not be downloaded" in lost.stderr
