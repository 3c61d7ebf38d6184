"""Image size and build time, beside those of other projects.

uv run python benchmarks/docker.py --other NAME=FOLDER[:DOCKERFILE[:SOURCE]]

For each project, in turn: a cold build (no layer and no package cache; base images are there), then
a build after a change to a source file. The size is that of the layers above the base image: bases
differ by more than all that a project adds. Cold builds empty Docker's cache mounts.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cookiecutter.main import cookiecutter
from tables import write

TEMPLATE = Path(__file__).parents[1]
RUNS = 3


@dataclass
class Project:
    """What is built, and which of its files is changed for a second build."""

    name: str
    folder: Path
    dockerfile: str = "Dockerfile"
    source: str = "app/main.py"

    def build(self, *options: str) -> float:
        """Build the image and return the seconds that it took."""
        started = time.perf_counter()
        command = ["docker", "build", "-q", "-t", self.image, "-f", self.dockerfile, *options, "."]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        return time.perf_counter() - started

    @property
    def image(self) -> str:
        """The image's name."""
        return f"benchmark-{self.folder.name.lower()}"

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
    command = ["docker", "history", "--human=false", "--format={{.Size}}", image]
    sizes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sum(map(int, sizes.split()))


def measure(project: Project) -> str:
    """Build a project cold and again, and return its line of the table."""
    cold, warm = [], []
    source = project.folder / project.source
    for number in range(RUNS):
        prune = ["docker", "builder", "prune", "-f", "--filter=type=exec.cachemount"]
        subprocess.run(prune, check=True, capture_output=True)
        cold.append(project.build("--no-cache"))
        source.write_text(f"{source.read_text()}\n# change {number}\n")
        warm.append(project.build())
    times = " | ".join(
        f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for t in (cold, warm)
    )
    return f"| {project.name} | {project.size():.0f} | {times} |"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", action="append", default=[])
    others = []
    for text in parser.parse_args().other:
        name, _, rest = text.partition("=")
        folder, *more = rest.split(":")
        others.append(Project(name, Path(folder).resolve(), *more))
    with tempfile.TemporaryDirectory() as folder:
        ours = []
        for database in ("sqlite", "postgresql", "mysql"):
            answers = {"project_name": f"bench {database}", "database": database}
            project = cookiecutter(
                str(TEMPLATE), no_input=True, extra_context=answers, output_dir=folder
            )
            ours.append(Project(f"Forge, all answers yes, {database}", Path(project)))
        lines = [measure(project) for project in [*ours, *others]]
    head = [
        "| project | MB above the base | cold build, s | after a source change, s |",
        "|---|---|---|---|",
    ]
    write("docker", "\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
