"""The admin page with a real worker: in a browser, and attacked."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import Bake
from tests.harness import Stack, find_program, log_in, wait_for_task, wait_until

pytestmark = pytest.mark.xdist_group("admin")

PASSWORD = "correct horse battery staple"  # The harness registers users with it.
ADMIN = "admin@example.com"
# All requests come from one address.
LIMITS = {"LOGIN_RATE_LIMIT": "100000/minute", "LOGIN_ADDRESS_RATE_LIMIT": "100000/minute"}
ENQUEUE = """
import json, sys
from app.core.celery import celery_app
from app.core.database import session_scope
from app.jobs import enqueue
celery_app.loader.import_default_modules()
name, owner, kwargs = sys.argv[1:]
with session_scope() as session:
    job = enqueue(session, celery_app.tasks[name], owner_id=int(owner), **json.loads(kwargs))
print(job.id)
"""
ADD = """
import sys
from uuid import uuid4
from sqlalchemy import insert
from app.core.database import session_scope
from app.models import Job
total, result, message = int(sys.argv[1]), sys.argv[2], sys.argv[3] * int(sys.argv[4])
with session_scope() as session:
    for _ in range(0, total, 1000):
        rows = [
            {"id": str(uuid4()), "task": "app.tasks.example_task.send_notification",
             "args": [], "kwargs": {"message": message}, "status": "FAILURE", "result": result}
            for _ in range(min(1000, total))
        ]
        session.execute(insert(Job), rows)
print(rows[-1]["id"])
"""
ADD_USER = """
from app.core.database import session_scope
from app.models import User
with session_scope() as session:
    session.add(User(id=4711, email="late@example.com", password_hash="none"))
"""
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(
    request: pytest.FixtureRequest, installed: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    project = installed(database=request.param)
    with Stack(project, tmp_path_factory.mktemp("admin") / "s", **LIMITS) as stack:
        stack.start_api()
        stack.start_worker()
        stack.start_beat()
        yield stack


@pytest.fixture(scope="module")
def url(stack: Stack) -> str:
    """The address of the API, with an administrator."""
    command = next(p for p in stack.family("api") if "--port" in p.cmdline()).cmdline()
    url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    with httpx.Client(base_url=url) as client:
        log_in(client, ADMIN).close()
    stack.run("python", "-m", "app.users", "grant-admin", ADMIN)
    return url


@pytest.fixture
def api(url: str) -> Iterator[httpx.Client]:
    """The administrator, as a user of the API."""
    with httpx.Client(base_url=url, timeout=60) as client, log_in(client, ADMIN) as api:
        yield api


@pytest.fixture
def admin(url: str) -> Iterator[httpx.Client]:
    """A client that is logged in on the page and sends the CSRF token."""
    with httpx.Client(base_url=url, timeout=60) as client:
        assert page_login(client, ADMIN).status_code == 303
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("chromium", install="apt install chromium")
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1400,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = find_program("chromedriver", install="apt install chromium-driver")
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, url: str) -> webdriver.Chrome:
    """The browser, with an administrator logged in."""
    browser.delete_all_cookies()
    browser.get(f"{url}/admin")
    submit_login(browser, ADMIN, PASSWORD)
    until(browser, lambda: urlsplit(browser.current_url).path == "/admin/job/list")
    return browser


def page_login(client: httpx.Client, email: str) -> httpx.Response:
    client.get("/admin/login")
    token = client.cookies["starlette_admin_csrftoken"]
    client.headers["X-CSRFToken"] = token
    return client.post("/admin/login", data={"username": email, "password": PASSWORD})


def act(client: httpx.Client, name: str, pk: str, **headers: str) -> httpx.Response:
    params = {"name": name, "pk": pk}
    return client.post("/admin/_api/job/row-action", params=params, headers=headers)


def submit_login(browser: webdriver.Chrome, email: str, password: str) -> None:
    for name, text in (("username", email), ("password", password)):
        field = browser.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()


def until(browser: webdriver.Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, 30).until(lambda _: condition())


def text_of(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def seconds(function: Callable[[], httpx.Response]) -> float:
    """Return the time of the fastest of three requests."""
    times = []
    for _ in range(3):
        begin = time.monotonic()
        assert function().status_code == 200
        times.append(time.monotonic() - begin)
    return min(times)


class TestBrowser:
    def test_finds_reads_and_retries_a_failed_job(
        self, stack: Stack, api: httpx.Client, page: webdriver.Chrome
    ) -> None:
        own = int(api.get("/users/me").json()["id"])
        task, kwargs = "app.tasks.example_task.process_user_data", {"user_id": 4711}
        job_id = stack.python(ENQUEUE, task, str(own), json.dumps(kwargs)).strip()
        assert wait_for_task(api, job_id)["status"] == "FAILURE"
        stack.python(ADD_USER)

        page.find_element(By.LINK_TEXT, "Failed").click()
        until(page, lambda: "LookupError: there is no user 4711" in text_of(page))
        page.find_element(By.CSS_SELECTOR, f"a[href*='{job_id}'][title=View]").click()
        until(page, lambda: f"#{job_id}" in text_of(page))
        assert "LookupError: there is no user 4711" in text_of(page)
        page.find_element(By.LINK_TEXT, "Retry").click()
        until(page, lambda: "Queued again" in text_of(page))

        assert wait_for_task(api, job_id)["status"] == "SUCCESS"
        page.refresh()
        until(page, lambda: "SUCCESS" in text_of(page) and "processed" in text_of(page))
        assert not page.find_elements(By.LINK_TEXT, "Retry")

    def test_runs_an_entry_of_the_schedule_now(self, page: webdriver.Chrome, url: str) -> None:
        row = "//tr[contains(., 'cleanup-expired-tokens')]"

        def open_schedule() -> list[str]:
            page.get(f"{url}/admin/schedule-state/list")
            cells = page.find_elements(By.XPATH, f"{row}/td")
            return [cell.text for cell in cells]

        wait_until(open_schedule, message="beat has not listed the entry")
        assert open_schedule()[3:] == ["", "no"]
        page.find_element(By.XPATH, f"{row}//a[@title='Run']").click()
        button = page.find_element(By.CSS_SELECTOR, "[data-sa-action=action-submit]")
        until(page, button.is_displayed)
        button.click()
        until(page, lambda: "Queued" in text_of(page))
        wait_until(lambda: open_schedule()[3], message="the entry has not succeeded")
        page.find_element(By.XPATH, f"{row}//a[@title='Pause']").click()
        until(page, lambda: "Paused" in text_of(page))
        assert open_schedule()[4] == "yes"
        page.find_element(By.XPATH, f"{row}//a[@title='Resume']").click()
        until(page, lambda: "Resumed" in text_of(page))

    def test_refuses_wrong_passwords_and_plain_users(
        self, browser: webdriver.Chrome, url: str
    ) -> None:
        with httpx.Client(base_url=url) as client:
            log_in(client, "plain@example.com").close()
        browser.delete_all_cookies()
        browser.get(f"{url}/admin/")
        submit_login(browser, ADMIN, "wrong horse")
        until(browser, lambda: "Wrong email address or password" in text_of(browser))
        submit_login(browser, "plain@example.com", PASSWORD)
        until(browser, lambda: "This user is not an administrator" in text_of(browser))
        browser.get(f"{url}/admin/job/list")
        assert urlsplit(browser.current_url).path == "/admin/login"

    def test_html_is_text_and_nothing_comes_from_other_sites(
        self, stack: Stack, page: webdriver.Chrome, url: str
    ) -> None:
        job_id = stack.python(ADD, "1", EVIL, EVIL, "1").strip()
        page.get_log("browser"), page.get_log("performance")
        for path in ("job/list", f"job/detail?pk={job_id}", "schedule-state/list", "user/list"):
            page.get(f"{url}/admin/{path}")
            until(page, lambda: page.execute_script("return document.readyState") == "complete")
            assert page.execute_script("return window.hacked") is None
            assert ("window.hacked" in text_of(page)) == ("job" in path)
        errors = [entry["message"] for entry in page.get_log("browser")]
        assert [error for error in errors if "favicon.ico" not in error] == []
        events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
        requests = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        assert requests
        assert all(request.startswith((url, "data:")) for request in requests)

    @pytest.mark.parametrize("width", [400, 1400])
    def test_page_is_not_wider_than_the_window(
        self, page: webdriver.Chrome, url: str, width: int
    ) -> None:
        page.set_window_size(width, 900)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for path in ("job/list", "schedule-state/list", "user/list"):
            page.get(f"{url}/admin/{path}")
            assert page.execute_script("return document.body.scrollWidth") <= width


class TestLogin:
    def test_every_route_needs_a_login(self, stack: Stack, url: str) -> None:
        code = (
            "from app.main import app\n"
            "[mount] = [r for r in app.routes if getattr(r, 'name', '') == 'admin']\n"
            "for r in mount.routes: print(r.path, *sorted(getattr(r, 'methods', None) or ['GET']))"
        )
        routes = [line.split() for line in stack.python(code).splitlines()]
        walked = 0
        with httpx.Client(base_url=url, follow_redirects=True) as client:
            client.get("/admin/login")
            headers = {"X-CSRFToken": client.cookies["starlette_admin_csrftoken"]}
            for path, *methods in [*routes, ["/nothing", "GET", "POST"]]:
                if path in ("/login", "/static"):
                    continue
                path = re.sub(r"\{key\}", "job", path)
                path = re.sub(r"\{.*?\}", "x", path)
                for method in methods:
                    response = client.request(method, f"/admin{path}", headers=headers)
                    assert response.url.path == "/admin/login", (method, path, response)
                    walked += 1
        assert walked > 12

    @pytest.mark.parametrize("end", ["logout", "everywhere", "revoke-admin", "delete"])
    def test_login_ends_with_the_users(self, stack: Stack, url: str, end: str) -> None:
        email = f"{end}@example.com"
        with httpx.Client(base_url=url, timeout=60) as client:
            api = log_in(client, email)
            stack.run("python", "-m", "app.users", "grant-admin", email)
            assert page_login(client, email).status_code == 303
            cookies = dict(client.cookies)
            assert client.get("/admin/job/list").status_code == 200
            if end == "logout":
                assert client.post("/admin/logout").status_code == 303
            elif end == "everywhere":
                assert api.post("/auth/logout-everywhere").status_code == 204
            else:
                stack.run("python", "-m", "app.users", end, email)
            api.close()
            client.cookies.update(cookies)  # As one who has stolen the cookie.
            assert client.get("/admin/job/list").status_code == 303

    def test_cookie_in_production(self, stack: Stack) -> None:
        client = stack.start_api("production", ENVIRONMENT="production")
        response = page_login(client, ADMIN)
        stack.kill("production")
        [cookie] = [
            value
            for value in response.headers.get_list("Set-Cookie")
            if value.startswith("admin_session=")
        ]
        assert {"httponly", "secure", "samesite=lax"} <= set(cookie.split("; "))

    def test_300_parallel_logins(self, stack: Stack, url: str, api: httpx.Client) -> None:
        limits = httpx.Limits(max_connections=300)
        with httpx.Client(base_url=url, timeout=240, limits=limits) as client:
            client.get("/admin/login")
            token = client.cookies["starlette_admin_csrftoken"]
            form = {"username": ADMIN, "password": PASSWORD, "csrftoken": token}
            client.headers["Cookie"] = f"starlette_admin_csrftoken={token}"
            client.cookies.clear()
            with ThreadPoolExecutor(300) as pool:
                answers = pool.map(lambda _: client.post("/admin/login", data=form), range(300))
                begin = time.monotonic()
                assert api.get("/users/me").status_code == 200
                assert time.monotonic() - begin < 30  # 1 s on an idle machine.
            assert {answer.status_code for answer in answers} <= {303, 503}
        status = Path(f"/proc/{stack.processes['api'].pid}/status").read_text()
        peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024
        assert peak < 400


class TestRequests:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": "https://other.example.com"},
            {"X-CSRFToken": "forged"},
        ],
    )
    def test_actions_of_other_origins_are_refused(
        self, stack: Stack, admin: httpx.Client, headers: dict[str, str]
    ) -> None:
        job_id = stack.python(ADD, "1", "failed", "", "1").strip()
        assert act(admin, "retry", job_id, **headers).status_code == 403
        assert "FAILURE" in admin.get("/admin/job/detail", params={"pk": job_id}).text

    def test_own_origin_behind_a_proxy_that_sends_no_referrer(self, admin: httpx.Client) -> None:
        # With "Referrer-Policy: no-referrer", browsers send "Origin: null".
        response = act(admin, "retry", "x", Origin="null", **{"Sec-Fetch-Site": "same-origin"})
        assert response.status_code == 400
        assert "msg" in response.json()

    def test_forms_are_limited_in_size(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            form = {"username": "x" * 3_000_000, "password": PASSWORD}
            assert client.post("/admin/login", data=form).status_code == 413

    def test_huge_argument_is_cut(self, stack: Stack, admin: httpx.Client) -> None:
        job_id = stack.python(ADD, "1", "failed", "<b>", "350000").strip()
        for response in (
            admin.get("/admin/job/list"),
            admin.get("/admin/job/detail", params={"pk": job_id}),
        ):
            assert response.status_code == 200
            assert len(response.content) < 200_000
            assert "<b>" not in response.text
        assert "characters)" in response.text

    def test_headers(self, admin: httpx.Client) -> None:
        page = admin.get("/admin/job/list")
        assert page.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        static = admin.get("/admin/static/css/vendor/tabler.min.css")
        assert static.headers["Cache-Control"] == "private, max-age=3600"

    def test_list_of_100_000_jobs(self, stack: Stack, admin: httpx.Client) -> None:
        stack.python(ADD, "100000", "failed", "x", "300")
        for params in (
            {},
            {"page": "4000"},
            {"filter": "status__in=FAILURE AND task__contains=notification"},
            {"q": "nothing has this"},
        ):
            elapsed = seconds(lambda: admin.get("/admin/job/list", params=params))  # noqa: B023
            print(f"{params}: {elapsed * 1000:.0f} ms")
            assert elapsed < 5  # 0.1 to 0.6 s on an idle machine.

    @pytest.mark.parametrize("stack", ["postgresql"], indirect=True, scope="module")
    def test_database_that_is_down(self, stack: Stack, admin: httpx.Client) -> None:
        stack.stop_database()
        try:
            for path in ("/admin/job/list", "/admin/"):
                response = admin.get(path, follow_redirects=True)
                assert response.status_code == 503
                assert "The database is unavailable" in response.text
            assert act(admin, "retry", "x").status_code == 503
        finally:
            stack.start_database()
        assert "Traceback" not in stack.log("api")
        wait_until(lambda: admin.get("/admin/job/list").status_code == 200)
