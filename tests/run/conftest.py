"""Fixtures of the tests on real servers."""

from collections.abc import Iterator

import pytest

from tests.run.updates import Forge, last_versions


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """The previous version of the template, and this one as it is here, committed or not."""
    with last_versions(tmp_path_factory.mktemp("forge")) as forge:
        yield forge
