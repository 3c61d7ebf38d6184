"""Make the pictures of the README from a real project: uv run python -m docs.images.make"""

import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.harness import Stack, bake, find_program, install, log_in, wait_for_task

FOLDER = Path(__file__).parent
EMAIL, PASSWORD = "admin@example.com", "correct horse battery staple"  # as the harness has it
ENQUEUE = """
from app.core.database import session_scope
from app.jobs import enqueue
from app.tasks.example_task import process_user_data, send_notification, unreliable_task
with session_scope() as session:
    jobs = [
        enqueue(session, unreliable_task, owner_id=1, data={"failures": 1}),
        enqueue(session, process_user_data, owner_id=1, user_id=1),
        enqueue(session, process_user_data, owner_id=1, user_id=404),
        enqueue(session, send_notification, owner_id=1, user_id=1, message="Your parcel is here"),
    ]
print(*(job.id for job in jobs))
"""


def main() -> None:
    """Run a project with a worker, and photograph its pages."""
    with tempfile.TemporaryDirectory() as folder:
        project = bake(Path(folder), project_name="Shop API", project_slug="shop-api")
        install(project)
        with Stack(project, Path(folder) / "stack") as stack:
            client = stack.start_api()
            stack.start_worker()
            stack.start_beat()
            with log_in(client, EMAIL) as api:
                stack.run("python", "-m", "app.users", "grant-admin", EMAIL)
                for job_id in stack.python(ENQUEUE).split():
                    wait_for_task(api, job_id)
            photograph(str(client.base_url))


def photograph(url: str) -> None:
    """Save the page with jobs and the documentation of the API."""
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("chromium", install="apt install chromium")
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = find_program("chromedriver", install="apt install chromium-driver")
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    wait = WebDriverWait(browser, 30)
    try:
        size = {"width": 1400, "height": 640, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"{url}/admin")
        browser.find_element(By.NAME, "username").send_keys(EMAIL)
        browser.find_element(By.NAME, "password").send_keys(PASSWORD)
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        wait.until(lambda _: "LookupError" in browser.page_source)
        browser.save_screenshot(str(FOLDER / "admin.png"))
        browser.get(f"{url}/docs")
        tasks = wait.until(lambda _: browser.find_element(By.ID, "operations-tag-tasks"))
        browser.execute_script("arguments[0].scrollIntoView()", tasks)
        browser.save_screenshot(str(FOLDER / "api.png"))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
