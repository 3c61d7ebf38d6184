"""Sessions of routes: responses that stream rows, and sockets that stay open."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Stack, code_blocks, free_port, log_in, wait_until

# The application with more routes. The recipes of AGENTS.md follow: the model, and the stream.
ROUTES = """
from collections.abc import Iterator

from fastapi import WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select, text

from app.api.deps import CurrentUser, SessionDep
from app.core.database import session_scope
from app.main import app
from app.models import User

router = app


@app.get("/count")
def count(session: SessionDep) -> int:
    return session.scalar(select(func.count()).select_from(User)) or 0


@app.get("/wrong")
def wrong(session: SessionDep) -> StreamingResponse:
    def lines() -> Iterator[str]:
        for email in session.scalars(select(User.email)):
            yield f"{email}\\n"

    return StreamingResponse(lines())


@app.get("/wrong-yield", response_class=StreamingResponse)
def wrong_yield(session: SessionDep) -> Iterator[str]:
    yield from session.scalars(select(User.email))


@app.websocket("/idle")
async def idle(websocket: WebSocket, session: SessionDep) -> None:
    await websocket.accept()
    async for _ in websocket.iter_text():
        pass


@app.websocket("/busy")
async def busy(websocket: WebSocket, session: SessionDep) -> None:
    session.execute(text("SELECT 1"))
    await idle(websocket, session)
"""
CREATE_NOTES = """
with session_scope() as session:
    Base.metadata.create_all(session.connection())


@app.post("/notes")
def create_note(text: str, session: SessionDep, user: CurrentUser) -> None:
    session.add(Note(user_id=user.id, text=text))
"""


def recipe(project: Path, word: str) -> str:
    """Return the Python block of AGENTS.md that has a word."""
    blocks = code_blocks((project / "AGENTS.md").read_text(), "python")
    return next((block for block in blocks if word in block), "")


def start_api(stack: Stack, folder: Path, code: str) -> httpx.Client:
    """Start the API with more routes, and return a client for it once it answers."""
    (folder / "more_routes.py").write_text(code)
    port = free_port()
    uvicorn = stack.project / ".venv/bin/uvicorn"
    path = f"{stack.project}:{folder}"
    stack.start("api", uvicorn, "more_routes:app", f"--port={port}", PYTHONPATH=path)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def live() -> bool:
        assert stack.processes["api"].poll() is None, stack.log("api")
        with suppress(httpx.HTTPError):
            return client.get("/health/live").status_code == 200
        return False

    wait_until(live, message="the API does not answer")
    return client


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def stack(
    request: pytest.FixtureRequest, installed: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The servers of a project, with one database after the other."""
    project = installed(database=request.param)
    with Stack(project, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def api(stack: Stack, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of the API with more routes."""
    yield start_api(stack, tmp_path, ROUTES)
    stack.kill("api")


@pytest.mark.parametrize("path", ["/wrong", "/wrong-yield"])
def test_stream_with_the_session_of_the_route_is_an_error_at_once(
    stack: Stack, api: httpx.Client, path: str
) -> None:
    """SQLAlchemy would open the closed session again, and nobody would close it."""
    log_in(api)
    for _ in range(25):
        with pytest.raises(httpx.RemoteProtocolError):  # And not an empty answer with status 200.
            api.get(path)
    assert "InvalidRequestError: This Session has been permanently closed" in stack.log("api")
    assert api.get("/count").status_code == 200


def test_stream_as_the_recipe_says(stack: Stack, tmp_path: Path) -> None:
    model, stream = recipe(stack.project, "class Note("), recipe(stack.project, "StreamingResponse")
    assert stream, "AGENTS.md has no recipe for a response that streams rows"
    code = "\n".join([ROUTES, model, CREATE_NOTES, stream])
    api = start_api(stack, tmp_path, code)
    user = log_in(api)
    for number in range(3):
        assert user.post("/notes", params={"text": f"note {number}"}).status_code == 200
    for _ in range(25):
        assert user.get("/export").text == "note 0\nnote 1\nnote 2\n"
    assert api.get("/count").status_code == 200
    stack.kill("api")


def test_commits_do_not_wait_for_threads_that_wait_for_them(stack: Stack) -> None:
    """The threads of all routes wait for a row that a finished route has locked."""
    user = log_in(stack.start_api(DATABASE_POOL_SIZE="60", DATABASE_TIMEOUT="15"))
    with ThreadPoolExecutor(60) as clients:
        answers = clients.map(lambda _: user.post("/auth/logout-everywhere"), range(120))
    assert {answer.status_code for answer in answers} == {204}
    stack.kill("api")


def open_socket(
    port: int, path: str
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Ask for a WebSocket, and return the connection and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection.request("GET", path, headers=headers)
    return connection, connection.getresponse()


@pytest.mark.parametrize("path", ["/idle", "/busy"])
def test_open_sockets_do_not_make_others_wait_for_ever(api: httpx.Client, path: str) -> None:
    """Once every session is taken, requests and sockets are refused after a while."""
    port = api.base_url.port
    assert port
    with ExitStack() as open_sockets:
        while True:
            connection, answer = open_socket(port, path)
            open_sockets.callback(connection.close)
            if answer.status != 101:
                break
        assert (answer.status, bool(answer.headers["Retry-After"])) == (503, True)
        refused = api.get("/count")
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert api.get("/health/live").status_code == 200
    wait_until(lambda: api.get("/count").status_code == 200)
