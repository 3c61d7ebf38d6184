"""The command that updates a project, and what docs/updating.md says of it."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.harness import bake, install, run, uv
from tests.run.updates import (
    RAW,
    SERVICE,
    TASK,
    Forge,
    add_own_code,
    commit,
    git,
    page_blocks,
    solve,
    state,
)


def test_project_without_changes(forge: Forge, tmp_path: Path) -> None:
    """The page's command, in a shallow clone, gives what the new version generates."""
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{forge.generate(tmp_path)}", "clone")
    project = tmp_path / "clone"
    shutil.copy(tmp_path / "shop/.env", project)
    before, secrets = state(project), (project / ".env").read_bytes()
    output = forge.update(project, "--dry-run")
    assert "README.md" in output
    assert state(project) == before
    assert "use_monitoring=False" in output or forge.old != "v0.2.1"

    command = page_blocks("Update")[0].replace(RAW, forge.server)
    run("bash", "-ec", command, cwd=project, env=forge.environment)
    expected = bake(tmp_path / "new", project_slug="shop")
    ours = ("-x.git", "-x.env", "-x.forge.json", "-xversions", "-x__pycache__")
    run("diff", "-r", *ours, project, expected, cwd=tmp_path)
    assert (project / ".env").read_bytes() == secrets
    assert not git(project, "diff", "--name-only", "HEAD", "--", "migrations/versions")
    record = json.loads((project / ".forge.json").read_text())
    assert record["forge_commit"] == git(forge.repository, "rev-parse", forge.new)
    assert record["forge_source"] == f"file://{forge.repository}"
    commit(project)
    assert "current" in forge.update(project)
    assert git(project, "status", "--porcelain") == ""


def test_failed_update_changes_nothing(forge: Forge, tmp_path: Path) -> None:
    project = forge.generate(tmp_path)
    readme = project / "README.md"
    in_the_way = project / "app/users.py"

    def fails(*options: str) -> str:
        before = state(project)
        message = forge.update(project, *options, code=1)
        assert state(project) == before
        assert message.startswith("update: nothing was changed.") or in_the_way.exists(), message
        return message

    assert "v9.9.9" in fails("--to", "v9.9.9")
    assert "/nowhere" in fails("--template", "/nowhere")
    assert "use_typo" in fails("--set", "use_typo=yes")
    assert "use_backup must be true or false" in fails("--set", "use_backup=perhaps")
    assert "oracle" in fails("--set", "database=oracle")
    if not in_the_way.exists():
        in_the_way.write_text("not committed")
        assert "app/users.py" in fails()
        in_the_way.unlink()
    readme.write_text("changed")
    assert fails().count("\n") == 1
    (project / ".forge.json").unlink()
    assert fails().count("\n") == 1


def test_folder_of_a_larger_repository(forge: Forge, tmp_path: Path) -> None:
    inner = tmp_path / "repository/backend"
    shutil.copytree(forge.generate(tmp_path), inner, ignore=shutil.ignore_patterns(".git"))
    (inner.parent / "README.md").write_text("Ours.\n")
    git(inner.parent, "init", "-q", "-b", "main")
    commit(inner.parent)
    forge.update(inner)
    changed = git(inner.parent, "status", "--porcelain", "--no-renames").splitlines()
    assert changed
    assert all(line[3:].startswith("backend/") for line in changed)
    run("diff", "-r", "-xversions", "-x.env", "-x.forge.json", "-x__pycache__", inner,
        bake(tmp_path / "new", project_slug="shop"), cwd=tmp_path)  # fmt: skip


def test_sources_without_secrets(
    forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update works from each kind of address, and a token in it is not recorded."""
    ssh = tmp_path / "ssh"  # A server that Git reaches by SSH, on this machine.
    ssh.write_text('#!/bin/sh\nexec sh -c "$2"\n')
    ssh.chmod(0o755)
    monkeypatch.setitem(forge.environment, "GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setitem(forge.environment, "GIT_SSH_VARIANT", "simple")
    host = forge.server.removeprefix("http://")
    path = forge.repository
    for number, (source, recorded) in enumerate({
        f"git@localhost:{path}": f"git@localhost:{path}",
        f"ssh://git@localhost{path}": f"ssh://git@localhost{path}",
        f"http://ann:token@{host}/forge.git": f"http://{host}/forge.git",
        f"http://token@{host}/forge.git": f"http://{host}/forge.git",
        str(path): str(path),
    }.items()):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        project = forge.generate(folder)
        forge.update(project, "--template", source)
        commit(project, "Update")
        assert json.loads((project / ".forge.json").read_text())["forge_source"] == recorded
        assert "token" not in git(project, "log", "-p", "--", ".forge.json")
        assert "current" in forge.update(project)


def test_pull_request_of_the_workflow(forge: Forge, tmp_path: Path) -> None:
    """The page's workflow is valid, and its commands push a branch with the update."""
    [text] = page_blocks("In a pipeline", "yaml")
    workflow = tmp_path / "update.yml"
    workflow.write_text(text)
    schema = ("--builtin-schema", "vendor.github-workflows")
    run(sys.executable, "-m", "check_jsonschema", *schema, workflow, cwd=tmp_path)
    project = forge.generate(tmp_path)
    install(project)
    commit(project, "uv.lock")
    git(tmp_path, "clone", "-q", "--bare", str(project), "origin.git")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{tmp_path}/origin.git", "checkout")
    # GitHub's own program is replaced: it records its arguments, and finds no pull request.
    gh = tmp_path / "bin/gh"
    gh.parent.mkdir()
    gh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/gh.log\n')
    gh.chmod(0o755)
    environment = forge.environment | {"PATH": f"{gh.parent}:{os.environ['PATH']}"}
    for step in yaml.safe_load(text)["jobs"]["update"]["steps"]:
        if command := step.get("run"):
            command = command.replace(RAW, forge.server)
            run("bash", "-ec", command, cwd=tmp_path / "checkout", env=environment)
    assert "pr create --head forge-update" in (tmp_path / "gh.log").read_text()
    git(project, "pull", "-q", str(tmp_path / "origin.git"), "forge-update")
    run(uv(), "sync", "--locked", "--quiet", cwd=project)
    assert "current" in forge.update(project)


def test_owner_s_changes_conflict_once(forge: Forge, tmp_path: Path) -> None:
    """Conflicts are listed, solved once, and do not come back after a squash."""
    project = forge.generate(tmp_path)
    add_own_code(project)
    commit(project, "Our own")
    before = state(project)
    shown = forge.update(project, "--dry-run", code=2)
    assert "README.md" in shown.partition("Conflicts:")[2]
    assert state(project) == before
    git(project, "switch", "-qc", "update")
    output = forge.update(project, code=2)
    conflicts = git(project, "diff", "--name-only", "--diff-filter=U").split()
    assert output.partition("Conflicts:")[2].split()[: len(conflicts)] == conflicts
    solve(project)
    commit(project, "Update")
    git(project, "switch", "-q", "main")
    git(project, "merge", "-q", "--squash", "update")
    commit(project, "Update, squashed")
    git(project, "branch", "-D", "update")
    assert "current" in forge.update(project)
    forge.update(project, "--set", "use_monitoring=yes")
    assert (project / "monitoring/alerts.yml").exists()
    assert "Our own line." in (project / "README.md").read_text()
    assert SERVICE in (project / "docker-compose.yml").read_text()
    assert (project / "app/tasks/notes.py").read_text() == TASK
