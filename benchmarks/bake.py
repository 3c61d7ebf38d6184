"""How long a bake takes as a whole process, beside a one-file template and another public one.

    uv run python benchmarks/bake.py [--template NAME=PATH_OR_URL ...]

Writes its table into benchmarks/README.md.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tables import write

FORGE = Path(__file__).parents[1]
RUNS = 11


def one_file_template(folder: Path) -> Path:
    """Write a template with one answer and one file."""
    (folder / "{{cookiecutter.slug}}").mkdir()
    (folder / "{{cookiecutter.slug}}/README.md").write_text("{{ cookiecutter.slug }}\n")
    (folder / "cookiecutter.json").write_text('{"slug": "x"}')
    return folder


def bake_seconds(template: str, home: Path) -> float:
    """Return the seconds that one ``cookiecutter`` process takes."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "cookiecutter", template, "--no-input", "-o", output]
        start = time.perf_counter()
        subprocess.run(command, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=True,
                       capture_output=True)  # fmt: skip
        return time.perf_counter() - start


def main() -> None:
    """Measure all templates in turn, so that noise meets each alike."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--template", action="append", default=[], metavar="NAME=PATH")
    others = dict(text.split("=", 1) for text in parser.parse_args().template)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        trivial = Path(folder) / "trivial"
        for path in (home, trivial):
            path.mkdir()
        templates = {"one file": str(one_file_template(trivial)), "Forge": str(FORGE), **others}
        seconds: dict[str, list[float]] = {name: [] for name in templates}
        for _ in range(RUNS):
            for name, template in templates.items():
                seconds[name].append(bake_seconds(template, home))
    base = statistics.median(seconds["one file"])
    lines = ["| template | seconds, median (range) | to one file |", "|---|---|---|"]
    for name, values in seconds.items():
        median = statistics.median(values)
        low, high = min(values), max(values)
        lines.append(f"| {name} | {median:.2f} ({low:.2f} to {high:.2f}) | {median / base:.2f} |")
    table = "\n".join(lines)
    print(table)
    write("bake", table)


if __name__ == "__main__":
    main()
