"""The API beside a ten-line application with the same statements, and beside peers.

    uv run python -m benchmarks.http [--folder FOLDER] [NAME=FOLDER:COMMAND ...]

Writes the table into benchmarks/README.md. COMMAND starts a peer in its folder, with {port} for its
port; its ``PEER_TOKEN`` is the access token of a user. Each server is one process on PostgreSQL.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.jobs import PROGRAMS, add_row, alternate, bake, cpu, inside, started
from benchmarks.tables import ratios, show
from tests.harness import Stack, free_port, listens, run, wait_until

SECONDS = 3
REQUESTS = {"me": ("GET", "/users/me"), "notify": ("POST", "/notify?user_id=1&message=hello")}
HEADER = (
    "| request | clients | API | requests/s | to Forge | CPU, ms per request | to ten lines "
    "| p99, ms | `/health/live` p99, ms | other than 2xx |"
)


def serve(stack: Stack, name: str, command: str, folder: Path) -> int:
    """Start a server and return its port once it listens."""
    port = free_port()
    environment = {"PYTHONPATH": f"{stack.project}:{PROGRAMS}", "PORT": str(port)}
    script = f"cd {shlex.quote(str(folder))} && exec {command.format(port=port)}"
    stack.start(name, "sh", "-c", script, **environment)
    wait_until(lambda: listens(port), message=f"{name} does not answer")
    return port


def load(stack: Stack, name: str, port: int, clients: int, request: tuple[str, str]) -> Any:
    """Return what the load generator has measured, with the processor time per request."""
    path = request[1]
    if name not in ("Forge", "ten lines"):
        path = path.replace("/users/me", os.environ.get("PEER_PATH", "/api/v1/users/me"))
        tokens = os.environ["PEER_TOKEN"]
    else:
        tokens = stack.tokens  # type: ignore[attr-defined]
    arguments = map(str, (port, clients, SECONDS, request[0], path, tokens))
    used = cpu(stack, name)
    output = run(sys.executable, PROGRAMS / "load.py", *arguments, cwd=PROGRAMS, env={**os.environ})
    result = json.loads(output)
    return result | {"cpu": (cpu(stack, name) - used) / sum(result["codes"].values())}


def codes(results: list[Any]) -> str:
    """Return the status codes of answers, without those of success."""
    counts: dict[str, int] = {}
    for result in results:
        for code, count in result["codes"].items():
            counts[code] = counts.get(code, 0) + count
    return ", ".join(f"{n} × {code}" for code, n in counts.items() if code[0] != "2") or "none"


def main() -> None:
    """Measure all requests with 1 to 256 clients, the servers in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peers", nargs="*")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16, 32, 64, 256])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        rows: list[str] = []
        with started(bake(folder, "postgresql")) as stack:
            uvicorn = stack.project / ".venv/bin/uvicorn"
            commands = {
                "Forge": (f"{uvicorn} app.main:app --port {{port}}", stack.project),
                "ten lines": (f"{uvicorn} ten_lines:app --port {{port}}", PROGRAMS),
            }
            for peer in arguments.peers:
                name, _, rest = peer.partition("=")
                place, _, command = rest.partition(":")
                commands[name] = (command, Path(place))
            ports = {name: serve(stack, name, *command) for name, command in commands.items()}
            for name, port in ports.items():
                refused = codes([load(stack, name, port, 1, REQUESTS["me"])])
                assert refused == "none", f"{name}: {refused}"
            for label, request in REQUESTS.items():
                names = [name for name in ports if label == "me" or name in ("Forge", "ten lines")]
                for clients in arguments.clients:
                    sides = {
                        name: partial(load, stack, name, ports[name], clients, request)
                        for name in names
                    }
                    many = alternate(sides)
                    rates = {name: [one["rate"] for one in runs] for name, runs in many.items()}
                    used = {name: [one["cpu"] for one in runs] for name, runs in many.items()}
                    for name, runs in many.items():
                        cells = [show(rates[name]), show(ratios(rates[name], rates["Forge"]), 2)]
                        cells += [show(used[name], 2)]
                        cells += [show(ratios(used[name], used["ten lines"]), 2)]
                        cells += [show([one[p] for one in runs]) for p in ("p99", "live_p99")]
                        title = f"`{request[0]} {request[1].split('?')[0]}`"
                        add_row("http", HEADER, rows, title, clients, name, *cells, codes(runs))
                    stack.broker.flushdb()
                    inside(stack, "reset()")


if __name__ == "__main__":
    main()
