"""A Hugging Face hub small enough for a test: the requests that streaming a data set makes.

Usage: `python hub_server.py FOLDER`, where FOLDER holds `<owner>/<name>/...`; prints its port.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

REVISION = "0123456789abcdef" * 2 + "01234567"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self.file(self.root / match[1] / match[2])
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/.*)?", path):
            self.api(match[1], match[2] or "", body)
        else:
            self.answer(b"{}", 404)

    do_HEAD = do_POST = do_GET

    def api(self, repository: str, request: str, body: bytes) -> None:
        root = self.root / repository
        if not root.is_dir():
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        elif request.startswith("/paths-info/"):
            asked = (
                json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            )
            self.json([self.entry(root, root / path) for path in asked if (root / path).exists()])
        elif match := re.fullmatch(r"/tree/[^/]+/?(.*)", request):
            self.json([self.entry(root, path) for path in sorted((root / match[1]).iterdir())])
        else:
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            names = [{"rfilename": path.relative_to(root).as_posix()} for path in files]
            self.json({"id": repository, "sha": REVISION, "siblings": names, "tags": []})

    def entry(self, root: Path, path: Path) -> dict:
        kind = "directory" if path.is_dir() else "file"
        name = path.relative_to(root).as_posix()
        return {"type": kind, "path": name, "oid": "ab" * 20, "size": path.stat().st_size}

    def file(self, path: Path) -> None:
        if not path.is_file():
            self.answer(b"", 404, X_Error_Code="EntryNotFound")
            return
        content, code = path.read_bytes(), 200
        headers = {"ETag": '"x"', "X_Repo_Commit": REVISION, "Accept_Ranges": "bytes"}
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            content, code = content[first : last + 1], 206
        self.answer(content, code, **headers)

    def json(self, value: object) -> None:
        self.answer(json.dumps(value).encode(), 200, Content_Type="application/json")

    def answer(self, body: bytes, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(server.server_port, flush=True)
    server.serve_forever()
