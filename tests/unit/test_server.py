"""A server on a runtime without native code: what is bound in which order, what it says of itself, TLS and SIGHUP."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from server_native import (
    ConfigurationError,
    NativeServer,
    NativeServerBind,
    _addresses,
    _dispatch,
    serve_native_direct,
    serve_secure_native_direct,
)
from server_native._bindings.abi import Status
from server_native._dispatch import Pump
from server_native.binds import Place
from server_native.config import ServerConfig
from server_native.errors import AddressInUseError, NativeIOError, StoppingError
from tests.unit.fakes import FakeRuntime

TAKEN = AddressInUseError(98, "taken")
FILES: Any = {"certificate_path": "chain.pem", "key_path": "key.pem"}
SERVE_SECURE = functools.partial(serve_secure_native_direct, **FILES)


@pytest.fixture(autouse=True)
def no_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "Runtime", FakeRuntime)
    monkeypatch.setattr(_addresses, "_has_ipv6", lambda _: True)


def started(runtime: FakeRuntime | None = None, **options: Any) -> tuple[FakeRuntime, NativeServer]:
    pump = Pump(0)
    if runtime is not None:
        pump.runtime = cast("Any", runtime)
    return cast("FakeRuntime", pump.runtime), NativeServer(ServerConfig.parse(**options), pump)


def refusing(*refusals: Exception | None) -> FakeRuntime:
    runtime = FakeRuntime()
    runtime.refusals.extend(refusals)
    return runtime


class TestBinding:
    """From binds to listeners."""

    def test_certificates_come_first_then_every_listener_then_its_routes(self) -> None:
        binds = [NativeServerBind("::1", 80), NativeServerBind(uds="/s", backlog=5)]
        runtime, server = started(binds=binds, routes={"/": "hello"}, **FILES)
        named = [name for name, _ in runtime.calls]
        assert named == ["tls", "bind", "bind", "route", "route"]
        assert runtime.named("bind") == [
            (Place(address="::1", port=80), 7),
            (Place(uds="/s", backlog=5), 7),
        ]
        assert runtime.named("route") == [(1, "/", 200, b"hello"), (2, "/", 200, b"hello")]
        assert server.addresses == (("::1", 80), ("/s", None))

    def test_nothing_accepts_before_everything_is_bound(self) -> None:
        runtime, server = started(binds=[NativeServerBind(), NativeServerBind()])
        assert runtime.named("listen") == []
        site: Any = object()
        server._accept(site)
        assert runtime.named("listen") == [1, 2]
        assert server._pump.sites == {1: site, 2: site}

    def test_the_second_loopback_gets_the_port_chosen_for_the_first(self) -> None:
        _, server = started(host="localhost")
        assert server.addresses == (("127.0.0.1", 50_001), ("::1", 50_001))

    def test_each_bind_with_port_0_has_a_port_of_its_own(self) -> None:
        _, server = started(binds=[NativeServerBind("localhost"), NativeServerBind()])
        assert [port for _, port in server.addresses] == [50_001, 50_001, 50_003]

    def test_a_port_the_second_loopback_cannot_have_is_given_back_and_another_tried(self) -> None:
        runtime, server = started(refusing(None, TAKEN, None, TAKEN), host="localhost")
        assert [
            (name, said[0].port if name == "bind" else said)
            for name, said in runtime.calls
            if name in ("bind", "close")
        ] == [
            *(("bind", 0), ("bind", 50_001), ("close", 1)),
            *(("bind", 0), ("bind", 50_003), ("close", 3)),
            *(("bind", 0), ("bind", 50_005)),
        ]
        assert server.addresses == (("127.0.0.1", 50_005), ("::1", 50_005))

    def test_after_five_retries_it_gives_up(self) -> None:
        runtime = refusing(*(None, TAKEN) * 100)
        with pytest.raises(AddressInUseError):
            started(runtime, host="localhost")
        assert len(runtime.named("bind")) == 2 * (1 + 5)

    @pytest.mark.parametrize("refusals", [(TAKEN,), (None, TAKEN)])
    def test_a_port_that_was_asked_for_is_not_tried_again(self, refusals: tuple[Any, ...]) -> None:
        runtime = refusing(*refusals)
        with pytest.raises(AddressInUseError):
            started(runtime, host="localhost", port=80)
        assert len(runtime.named("bind")) == len(refusals)

    def test_only_a_taken_port_is_tried_again(self) -> None:
        runtime = refusing(None, NativeIOError(5, "broken"))
        with pytest.raises(NativeIOError, match="broken"):
            started(runtime, host="localhost")
        assert len(runtime.named("bind")) == 2


@pytest.mark.parametrize(
    ("options", "url", "port"),
    [
        ({"host": "127.0.0.1", "port": 80}, "http://127.0.0.1:80", 80),
        ({"host": "::1", "port": 80}, "http://[::1]:80", 80),
        ({"host": "any", "port": 80}, "http://[::1]:80", 80),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80", 80),
        ({"host": "localhost", "port": 80}, "http://127.0.0.1:80", 80),
        ({"host": "localhost", "port": 80, **FILES}, "https://127.0.0.1:80", 80),
        ({"uds": "/run/app.sock"}, "unix:/run/app.sock", 0),
    ],
)
def test_url_and_port_are_the_first_address(options: dict[str, Any], url: str, port: int) -> None:
    _, server = started(**options)
    assert (server.url, server.port) == (url, port)


def test_a_zone_is_escaped_in_a_url() -> None:
    _, server = started(host="::1", port=80)
    server.addresses = (("fe80::1%eth0", 80),)
    assert server.url == "http://[fe80::1%25eth0]:80"


class TestSaying:
    """What a server tells about itself when it accepts."""

    def test_the_log_has_every_address_and_one_line_about_http3(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, server = started(host="localhost", port=80)
        with caplog.at_level(logging.INFO, "server_native"):
            server._accept(cast("Any", object()))
        assert [(each.levelno, each.message) for each in caplog.records] == [
            (logging.INFO, "server_native listens on http://127.0.0.1:80, http://[::1]:80"),
            (logging.INFO, "HTTP/3 is off: it needs TLS, which this server has not"),
        ]

    @pytest.mark.parametrize("options", [{"http3": False}, FILES, {"http3": False, **FILES}])
    def test_there_is_nothing_to_say_about_http3_with_tls_or_when_it_is_not_wanted(
        self, options: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        _, server = started(**options)
        with caplog.at_level(logging.INFO, "server_native"):
            server._accept(cast("Any", object()))
        assert "HTTP/3" not in caplog.text

    def test_echo_prints_every_address(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, server = started(host="localhost", port=80, echo=True)
        server._accept(cast("Any", object()))
        assert capsys.readouterr().out == (
            "Server listening on http://127.0.0.1:80\nServer listening on http://[::1]:80\n"
        )

    def test_nothing_is_printed_unless_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, server = started()
        server._accept(cast("Any", object()))
        assert capsys.readouterr() == ("", "")


class TestReloading:
    """``reload_certificates()``, and SIGHUP where a blocking function serves."""

    def test_the_native_side_reads_the_files_again(self) -> None:
        runtime, server = started(**FILES)
        server.reload_certificates()
        assert runtime.named("reload_tls") == [7]

    def test_its_error_is_the_callers(self) -> None:
        runtime, server = started(**FILES)
        runtime.unreadable = NativeIOError(2, "no such file: chain.pem")
        with pytest.raises(NativeIOError, match=r"chain\.pem"):
            server.reload_certificates()

    def test_a_server_without_tls_has_nothing_to_reload(self) -> None:
        runtime, server = started()
        with pytest.raises(ConfigurationError, match="only a server with TLS has certificates"):
            server.reload_certificates()
        assert runtime.named("reload_tls") == []

    @pytest.fixture
    def hangups(self) -> Iterator[list[int]]:
        """SIGHUPs that no server has taken, in place of the end of the process."""
        untaken: list[int] = []
        known = signal.signal(signal.SIGHUP, lambda number, _: untaken.append(number))
        yield untaken
        signal.signal(signal.SIGHUP, known)

    @pytest.fixture(params=["plain", "async"])
    def handler(self, request: pytest.FixtureRequest) -> Callable[[Any], Any]:
        async def asynchronous(_: object) -> str:
            return ""

        return asynchronous if request.param == "async" else lambda _: ""

    @staticmethod
    def hang_up(serve: Any, handler: Any, unreadable: Exception | None = None) -> FakeRuntime:
        """Serves with ``serve`` for as long as it takes to send a SIGHUP."""
        runtimes: list[FakeRuntime] = []

        def ready(server: NativeServer) -> None:
            runtime = cast("FakeRuntime", server._pump.runtime)
            runtimes.append(runtime)
            runtime.unreadable = unreadable
            signal.raise_signal(signal.SIGHUP)
            runtime.add(status=Status.CLOSED)

        serve(handler, on_ready=ready)
        return runtimes[0]

    def test_sighup_reloads(self, handler: Any, hangups: list[int]) -> None:
        runtime = self.hang_up(SERVE_SECURE, handler)
        assert runtime.named("reload_tls") == [7]
        assert hangups == []
        signal.raise_signal(signal.SIGHUP)
        assert hangups == [signal.SIGHUP]

    def test_a_failed_reload_is_logged_and_the_server_goes_on(
        self, handler: Any, hangups: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = NativeIOError(2, "no such file: chain.pem")
        self.hang_up(SERVE_SECURE, handler, broken)
        (error,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert error.levelno == logging.ERROR
        assert "could not be reloaded, the old ones stay" in error.message
        assert "chain.pem" in error.message

    def test_a_reload_while_it_stops_is_none(
        self, handler: Any, hangups: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = StoppingError("the server has stopped")
        self.hang_up(SERVE_SECURE, handler, gone)
        assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []

    def test_without_tls_sighup_keeps_its_meaning(self, handler: Any, hangups: list[int]) -> None:
        runtime = self.hang_up(serve_native_direct, handler)
        assert runtime.named("reload_tls") == []
        assert hangups == [signal.SIGHUP]
