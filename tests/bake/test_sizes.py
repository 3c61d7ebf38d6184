"""The sizes that the contract with the owners allows: what they read, and how much of it."""

import re
from pathlib import Path

import pytest

from tests.bake.conftest import requirements
from tests.conftest import Bake
from tests.harness import BOOLEANS, Answers, files_of

EVERYTHING = dict.fromkeys(BOOLEANS, True)
NOTHING = dict.fromkeys(BOOLEANS, False)
LIMITS = {"docs/": 520, "README.md": 110, "names in .env.example": 48, "direct dependencies": 34}
PROJECTS: list[tuple[str, Answers, dict[str, int]]] = [
    (
        "postgresql-everything",
        EVERYTHING | {"database": "postgresql"},
        {"app/": 4000, "tests/": 1700, "files": 100},
    ),
    (
        "mysql-everything",
        EVERYTHING | {"database": "mysql"},
        {"app/": 4100, "tests/": 1700, "files": 100},
    ),
    ("default", {}, {"app/": 3650, "tests/": 1600, "files": 92}),
    ("sqlite-nothing", NOTHING, {"app/": 1000, "tests/": 600, "files": 52}),
]
LONGEST_FILE = 250


def lines(path: Path) -> int:
    """Return how many lines a file has, blank lines and comments included."""
    return len(path.read_text().splitlines())


def sizes_of(project: Path) -> dict[str, int]:
    """Return the size of everything that has a limit."""
    names = re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", (project / ".env.example").read_text(), re.M)
    return {
        "app/": sum(map(lines, project.glob("app/**/*.py"))),
        "tests/": sum(map(lines, project.glob("tests/**/*.py"))),
        "docs/": sum(map(lines, project.glob("docs/**/*.md"))),
        "README.md": lines(project / "README.md"),
        "files": len(files_of(project)),
        "names in .env.example": len(set(names)),
        "direct dependencies": len(set().union(*requirements(project))),
    }


@pytest.mark.parametrize(
    ("combination", "limits"), [row[1:] for row in PROJECTS], ids=[row[0] for row in PROJECTS]
)
def test_size(bake: Bake, combination: Answers, limits: dict[str, int]) -> None:
    project = bake(**combination)
    sizes, limits = sizes_of(project), LIMITS | limits
    too_large = [
        f"{what}: {sizes[what]} lines or items, at most {limit}"
        for what, limit in limits.items()
        if sizes[what] > limit
    ]
    too_large += [
        f"{path.relative_to(project)}: {lines(path)} lines, at most {LONGEST_FILE}"
        for path in project.glob("app/**/*.py")
        if lines(path) > LONGEST_FILE
    ]
    assert not too_large, "\n".join(
        ["More than LIMITS or PROJECTS in this file allow:", *too_large]
    )
