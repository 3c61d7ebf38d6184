"""Schemathesis against the API: generated requests, valid and invalid, alone and in sequence."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Stack, log_in, project_environment

LIMITS = ("LOGIN_RATE_LIMIT", "LOGIN_ADDRESS_RATE_LIMIT")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(
    request: pytest.FixtureRequest, installed: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("schemathesis") / "s"
    unlimited = dict.fromkeys(LIMITS, "1000000/minute")
    with Stack(installed(database=request.param), folder, **unlimited) as stack:
        yield stack.start_api()


@pytest.mark.xdist_group("schemathesis")
@pytest.mark.parametrize("logged_in", [False, True], ids=["anonymous", "logged-in"])
def test_no_request_breaks_the_api(api: httpx.Client, tmp_path: Path, logged_in: bool) -> None:
    options: list[str] = []
    if logged_in:
        options += ["--header", f"Authorization: {log_in(api).headers['Authorization']}"]
        # It would end the login that all other requests use.
        options += ["--exclude-path", "/auth/logout-everywhere"]
    result = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", Path(__file__).with_name("schemathesis.toml")),
            *("run", f"{api.base_url}/openapi.json", "--checks", "all", "--no-color"),
            # A task that was cancelled can be read. Starlette allows the methods of one route only.
            *("--exclude-checks", "use_after_free,allow_header_conformance"),
            *("--max-examples", "20", "--seed", "1", "--generation-database", "none", *options),
        ],
        cwd=tmp_path,
        env=project_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-10_000:] + result.stderr
    assert "Stateful" in result.stdout
