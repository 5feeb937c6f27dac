"""Google's credentials of a user, which are renewed with a token: it works, has expired, or was revoked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.object_stores import ObjectStore

_PROGRAM = """
import sys
from google.oauth2 import credentials
credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT = sys.argv[1]
from voxshard.cli import main
main(sys.argv[2:])
"""
REFRESH, SECRET, ACCESS = "marked-refresh-token", "marked-client-secret", "marked-access-token"


@dataclass
class TokenServer:
    """The endpoint at which a refresh token is exchanged for an access token."""

    uri: str = ""
    status: int = 200
    answer: dict[str, str | int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    state = TokenServer(answer={"access_token": ACCESS, "expires_in": 3600, "token_type": "Bearer"})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.requests.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            content = json.dumps(state.answer).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.uri = f"http://127.0.0.1:{server.server_address[1]}/token"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def prepared(gcs: ObjectStore, tokens: TokenServer, tmp_path: Path) -> tuple[int, str]:
    """Exit code and last line of a command of a user who ran `gcloud auth application-default login`."""
    (tmp_path / "x.csv").write_text("path\na.wav\n")
    gcs.put(tmp_path / "x.csv", gcs.url("of-a-user.csv"))
    credentials = {
        "type": "authorized_user", "client_id": "clinic.apps", "client_secret": SECRET, "refresh_token": REFRESH,
        "account": "someone@clinic.example",
    }  # fmt: skip
    (tmp_path / "adc.json").write_text(json.dumps(credentials))
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "adc.json")}
    environment |= {"GOOGLE_CLOUD_PROJECT": "clinic", "FSSPEC_GS_TOKEN": "google_default"}
    words = ["prepare", "table", gcs.url("of-a-user.csv"), "--no-probe", "--out", str(tmp_path / "m.parquet")]
    command = [sys.executable, "-c", _PROGRAM, tokens.uri, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for secret in (REFRESH, SECRET, ACCESS):
        assert secret not in done.stdout + done.stderr
        assert not [path for path in tmp_path.rglob("*.parquet") if secret.encode() in path.read_bytes()]
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_an_access_token_is_fetched_with_the_refresh_token(
    gcs: ObjectStore, tokens: TokenServer, tmp_path: Path
) -> None:
    code, line = prepared(gcs, tokens, tmp_path)
    assert code == 0, line
    assert REFRESH in tokens.requests[0]


@pytest.mark.parametrize("reason", ["Token has been expired or revoked.", "reauth related error (invalid_rapt)"])
def test_a_refresh_token_that_has_expired_or_was_revoked_is_one_line_with_the_identity(
    reason: str, gcs: ObjectStore, tokens: TokenServer, tmp_path: Path
) -> None:
    tokens.status, tokens.answer = 400, {"error": "invalid_grant", "error_description": reason}
    code, line = prepared(gcs, tokens, tmp_path)
    assert code == 4
    assert line.startswith(f"voxshard: {gcs.url('of-a-user.csv')}: no usable credentials (RefreshError: ")
    assert reason in line
    assert "identity used: Google account someone@clinic.example" in line
    assert "run `gcloud auth application-default login`, then run the same command again" in line
