"""Fixtures of all tests: a server in a thread, in every way the product can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.certificates import Authority, Identity
from tests.integration.http_servers import LOOPS, Listen, listening
from tests.integration.servers import MODES, Mode, Serve


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that are closed after the test; see :class:`~tests.integration.servers.Serve`."""
    starter = Serve()
    yield starter
    starter.end()


@pytest.fixture(params=MODES, ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    """One way to run a server; a test that takes it runs in all of them."""
    assert isinstance(request.param, Mode)
    return request.param


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the certificates of a test run."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def identity(authority: Authority) -> Identity:
    """The certificate and key that servers of this machine show."""
    return authority.issue()


@pytest.fixture(params=LOOPS)
def listen(request: pytest.FixtureRequest, serve: Serve) -> Listen:
    """Starts servers of the HttpServer style; a test that takes it runs on every kind of loop."""
    return listening(serve, str(request.param))
