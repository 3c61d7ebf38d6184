# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter>=2.7,<3"]
# ///
"""Update a project that Forge generated, or change its answers. Run it in the project's folder.

The version that the project is from and the new one are generated, and their difference is applied
like a commit that is picked from another branch. docs/updating.md has examples.

Exit codes: 0 applied, or nothing to do; 1 failed, and nothing was changed; 2 conflicts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

HOSTS = {"gh": "https://github.com/", "gl": "https://gitlab.com/", "bb": "https://bitbucket.org/"}
BOOLEANS = {"yes": True, "true": True, "no": False, "false": False}
# The owner's alone: secrets, and migrations, since databases know their ids.
OWNED = (":!.env", ":!migrations/versions")
# Makes a commit that is on no branch.
COMMIT = ("git", "-c", "user.name=Forge", "-c", "user.email=forge@localhost", "commit-tree", "-m")


def fail(message: str) -> NoReturn:
    """End the program before it changes the project."""
    sys.exit(f"update: nothing was changed. {message}")


def run(
    *command: str | Path, codes: tuple[int, ...] = (0,), input: str = "", env: Any = os.environ
) -> str:
    """Run a program and return its output. End if its exit code is none of those expected."""
    result = subprocess.run(
        command, input=input, env=env, capture_output=True, text=True, check=False
    )
    if result.returncode not in codes:
        fail(result.stderr.strip() or result.stdout.strip())
    return result.stdout.strip()


def generate(template: Path, version: str, answers: dict[str, Any], folder: Path) -> Path:
    """Generate a version of the project. Answers that are new get the template's defaults."""
    run("git", "-C", template, "checkout", "--quiet", "--detach", version)
    folder.mkdir()
    replay, config = folder / "replay.json", folder / "config.yaml"
    replay.write_text(json.dumps({"cookiecutter": answers}))
    config.write_text(json.dumps({"replay_dir": str(folder), "cookiecutters_dir": str(folder)}))
    files = ("--config-file", config, "--replay-file", replay, "--output-dir", folder / "out")
    run(sys.executable, "-m", "cookiecutter", template, *files, input="\n" * 99)
    [project] = (folder / "out").iterdir()
    return project


def write_tree(generated: Path) -> str:
    """Store a generated project in the repository of the project and return its tree's id."""
    prefix = run("git", "rev-parse", "--show-prefix")  # if the project is in a folder of it
    git_dir = run("git", "rev-parse", "--absolute-git-dir")
    env = os.environ | {"GIT_INDEX_FILE": f"{generated}.index", "GIT_DIR": git_dir}
    git = ("git", "-C", generated, "--work-tree=.")
    run(*git, "add", "--all", "--force", "--", ".", *OWNED, env=env)
    tree = run(*git, "write-tree", env=env)
    if prefix:
        run(*git, "read-tree", "--empty", env=env)
        run(*git, "read-tree", f"--prefix={prefix}", tree, env=env)
        tree = run(*git, "write-tree", env=env)
    return tree


def settings(generated: Path) -> set[str]:
    """Return the names in .env.example."""
    text = (generated / ".env.example").read_text(encoding="utf-8")
    return set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text, re.MULTILINE))


def main() -> int:
    """Update the project in the current folder and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(". ")[0])
    parser.add_argument("--to", help="tag or commit; by default the newest version")
    parser.add_argument("--set", metavar="NAME=ANSWER", action="append", default=[])
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.add_argument("--template", help="Git address or folder; by default from .forge.json")
    parser.add_argument("--from", dest="old", help="tag or commit; by default from .forge.json")
    options = parser.parse_args()
    record_file = Path(".forge.json")
    if not record_file.is_file():
        fail("There is no .forge.json: run this in the folder of the project.")
    if run("git", "status", "--porcelain", "--untracked-files=no"):
        fail("Commit your changes first.")
    record = json.loads(record_file.read_text(encoding="utf-8"))
    source = (options.template or record.get("forge_source") or "").removeprefix("git+")
    if not source:
        fail(".forge.json does not say where the template is: pass --template.")
    host, _, path = source.partition(":")

    with tempfile.TemporaryDirectory() as temporary:
        folder, template = Path(temporary), Path(temporary, "template")
        run("git", "clone", "--quiet", HOSTS[host] + path if host in HOSTS else source, template)
        tags = run("git", "-C", template, "tag", "--list", "--sort=-version:refname").split()
        newest = next((tag for tag in tags if re.fullmatch(r"v[\d.]+", tag)), "origin/HEAD")
        recorded = record.get("forge_commit") or f"v{record['forge_version']}"
        commit_of = ("git", "-C", template, "rev-list", "-1")
        old = run(*commit_of, options.old or recorded, "--")
        new = run(*commit_of, options.to or newest, "--")
        base = run("git", "-C", template, "merge-base", old, new, codes=(0, 1))
        if base == new and not options.to:
            new = old  # The project is ahead of the newest version.
        if old == new and not options.set:
            print(f"The project is current: Forge {record['forge_version']}.")
            return 0

        before = generate(template, old, record["cookiecutter"], folder / "old")
        (before / ".forge.json").write_bytes(record_file.read_bytes())
        defaults = json.loads(run("git", "-C", template, "show", f"{new}:cookiecutter.json"))
        changes: dict[str, Any] = dict(pair.partition("=")[::2] for pair in options.set)
        for name in changes:
            if name not in defaults:
                fail(f"Forge has no answer named {name}.")
            if isinstance(defaults[name], bool):
                changes[name] = BOOLEANS.get(changes[name], changes[name])
        after = generate(template, new, record["cookiecutter"] | changes, folder / "new")
        new_record = json.loads((after / ".forge.json").read_text(encoding="utf-8"))
        removed = settings(before) - settings(after)
        parent = ("-p", run(*COMMIT, "As generated", write_tree(before)))
        update = run(*COMMIT, f"Forge {new_record['forge_version']}", write_tree(after), *parent)

    ours = run(*COMMIT, "The project", "HEAD^{tree}", *parent)
    merge = ("git", "merge-tree", "--write-tree", "--name-only", "--no-messages", ours, update)
    merged, *conflicts = run(*merge, codes=(0, 1)).split("\n")
    print(run("git", "diff", "--stat", "HEAD", merged) or "The files stay as they are.")
    for name in new_record["cookiecutter"].keys() - record["cookiecutter"].keys() - changes.keys():
        print(f"A new answer has its default: {name}={new_record['cookiecutter'][name]}")
    if removed:
        print("No longer in .env.example, see CHANGELOG.md:", *sorted(removed))
    if conflicts:
        print("Conflicts:", *conflicts, sep="\n    ")
    if not options.dry_run:
        run("git", "cherry-pick", "--no-commit", update, codes=(0, 1) if conflicts else (0,))
        print("Next: uv sync, migrations, tests, and a commit with uv.lock. See docs/updating.md.")
    return 2 if conflicts else 0


if __name__ == "__main__":
    sys.exit(main())
