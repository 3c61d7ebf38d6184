"""Image size, build time, and the time from ``docker compose up`` to the first finished job.

uv run python -m benchmarks.docker [NAME=FOLDER[:DOCKERFILE[:SOURCE]] ...]

For each database, and for other projects if they are named: a build without any cache but that of
the base images, a build after a change to a source file, and the size of the layers above the base
image. For Forge also a start with empty volumes, from ``up`` until a job that was queued over HTTP
has finished. Builds without a cache empty Docker's cache mounts.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import write
from tests.harness import DATABASES, ComposeStack, bake, wait_for_task

RUNS = 3


def run(*command: str, folder: Path | None = None) -> str:
    """Run a program and return its output."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@dataclass
class Project:
    """What is built, and which of its files is changed before a second build."""

    name: str
    folder: Path
    dockerfile: str = "Dockerfile"
    source: str = "app/main.py"

    @property
    def image(self) -> str:
        """The image's name."""
        return f"benchmark-{self.folder.name.lower()}"

    def build(self, *options: str) -> float:
        """Build the image and return the number of seconds."""
        started = time.perf_counter()
        command = ("docker", "build", "-q", "-t", self.image, "-f", self.dockerfile, *options, ".")
        run(*command, folder=self.folder)
        return time.perf_counter() - started

    def size(self) -> float:
        """Return the megabytes of the layers above the final stage's base image."""
        lines = (self.folder / self.dockerfile).read_text().splitlines()
        froms = [line.split()[1:] for line in lines if line.startswith("FROM ")]
        stages = {words[2]: words[0] for words in froms if len(words) == 3}
        base = froms[-1][0]
        while base in stages:
            base = stages[base]
        return (layers(self.image) - layers(base)) / 1e6


def layers(image: str) -> int:
    """Return the bytes of all layers of an image."""
    sizes = run("docker", "history", "--human=false", "--format={{.Size}}", image)
    return sum(map(int, sizes.split()))


def first_job(project: Path) -> float:
    """Start a stack that is built, and return the seconds until its first job has finished."""
    with tempfile.TemporaryDirectory() as folder:
        stack = ComposeStack(project, Path(folder))
        try:
            stack.compose("build")
            started = time.perf_counter()
            stack.up()
            user = stack.log_in()
            job = user.post("/notify?user_id=1&message=hello").json()["task_id"]
            wait_for_task(user, job)
            return time.perf_counter() - started
        finally:
            stack.remove()


def show(seconds: list[float]) -> str:
    """Return the median and the range."""
    if not seconds:
        return ""
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def measure(project: Project, *, is_forge: bool) -> str:
    """Return a project's line of the table."""
    cold, warm, first = [], [], []
    source = project.folder / project.source
    for number in range(RUNS):
        run("docker", "builder", "prune", "-f", "--filter=type=exec.cachemount")
        cold.append(project.build("--no-cache"))
        source.write_text(f"{source.read_text()}\n# change {number}\n")
        warm.append(project.build())
        if is_forge:
            first.append(first_job(project.folder))
    times = " | ".join(map(show, (cold, warm, first)))
    return f"| {project.name} | {project.size():.0f} | {times} |"


def main() -> None:
    """Measure and write the table."""
    lines = [
        "| project | MB above the base | build without cache, s | after a change, s"
        " | from `up` to the first finished job, s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for database in DATABASES:
            answers = {"database": database, "python_version": "3.13"}  # as the peers'
            project = bake(Path(folder), project_slug=f"bench-{database}", **answers)
            lines.append(measure(Project(f"Forge, {database}", project), is_forge=True))
        for text in sys.argv[1:]:
            name, _, rest = text.partition("=")
            path, *more = rest.split(":")
            lines.append(measure(Project(name, Path(path).resolve(), *more), is_forge=False))
    write("docker", "\n".join(lines))


if __name__ == "__main__":
    main()
