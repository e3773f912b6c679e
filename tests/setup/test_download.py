"""A download on a bad day: what a mirror and the way to it can do, and what becomes of the file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from server_native.errors import PrebuiltError
from server_native.setup.download import Download, redacted
from server_native.setup.install import MARKER, install
from server_native.setup.mirrors import bases
from server_native.setup.settings import Settings
from tests.integration.certificates import Authority, Identity
from tests.setup.faulty import Asked, Drip, Faulty, Silent, answer, cut
from tests.setup.made import FOREIGN, TAG, entry, manifest, packed

BODY = os.urandom(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
GOOD = answer(BODY)
EVIL = packed([entry("evil", b"evil")])
TOKEN = "ghp_of_a_user"  # noqa: S105 - nobody's


@dataclass
class Run:
    """One file fetched, with what was waited for recorded instead of waited."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    pauses: list[float] = field(default_factory=list)

    def fetch(
        self,
        *urls: str,
        size: int | None = len(BODY),
        digest: str | None = DIGEST,
        most: int = 1 << 20,
    ) -> bytes:
        settings = replace(self.settings, pause=self.pauses.append)
        target = self.folder / "file"
        with contextlib.closing(Download(settings)) as download:
            download.fetch(urls, target, most=most, size=size, sha256=digest)
        return target.read_bytes()

    def fails(self, code: str, *urls: str, **how: Any) -> str:
        with pytest.raises(PrebuiltError) as caught:
            self.fetch(*urls, **how)
        assert caught.value.code == code, str(caught.value)
        assert "What to do" in str(caught.value)
        return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def rest(asked: Asked) -> bytes:
    """What a good mirror says to a request for the rest."""
    assert asked.fields["if-range"] == '"one"'
    start = int(asked.fields["range"].removeprefix("bytes=").removesuffix("-"))
    where = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
    return answer(BODY[start:], "206 Partial Content", content_range=where)


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_file_is_fetched_as_it_is(run: Run, size: int | None) -> None:
    with Faulty([GOOD]) as server:
        assert run.fetch(f"{server.url}/a/b", size=size) == BODY
    (asked,) = server.asked
    assert asked.target == "/a/b"
    assert asked.fields["accept-encoding"] == "identity"
    assert asked.fields["user-agent"].startswith("server_native/")
    assert "authorization" not in asked.fields


@pytest.mark.parametrize("at", [1, 65_536, len(BODY) // 2, len(BODY) - 1])
def test_what_broke_off_is_taken_up_where_it_was(run: Run, at: int) -> None:
    with Faulty([cut(GOOD, at), rest]) as server:
        assert run.fetch(server.url) == BODY
    assert server.asked[1].fields["range"] == f"bytes={at}-"
    assert len(run.pauses) == 1


@pytest.mark.parametrize(
    "first",
    [
        cut(GOOD, 0),
        cut(answer(BODY, etag=None), 1000),
        cut(answer(BODY, etag='W/"weak"'), 1000),
        cut(b"\r\n\r\n", 0),
    ],
    ids=["nothing came", "no etag", "a weak etag", "not even a head"],
)
def test_without_a_beginning_that_can_be_told_it_starts_again(run: Run, first: Any) -> None:
    with Faulty([first, GOOD]) as server:
        assert run.fetch(server.url) == BODY
    assert "range" not in server.asked[1].fields


@pytest.mark.parametrize(
    "second",
    [
        GOOD,
        answer(b"", "416 Range Not Satisfiable"),
        answer(
            BODY[999:],
            "206 Partial Content",
            content_range=f"bytes 999-{len(BODY) - 1}/{len(BODY)}",
        ),
        answer(BODY[1000:], "206 Partial Content", content_range=None),
        answer(BODY[1000:], "206 Partial Content", content_range="bytes */5"),
        answer(BODY[1000:], "206 Partial Content", content_range=f"bytes {'9' * 5000}-1/2"),
    ],
    ids=["200", "416", "206 from elsewhere", "206 from nowhere", "206 of nonsense", "206 of nines"],
)
def test_another_answer_than_the_rest_is_no_rest(run: Run, second: bytes) -> None:
    with Faulty([cut(GOOD, 1000), second, GOOD]) as server:
        assert run.fetch(server.url) == BODY
    assert len(server.asked) <= 3


def test_a_beginning_from_one_mirror_is_not_continued_at_another(run: Run) -> None:
    with Faulty([cut(GOOD, 1000)]) as one, Faulty([GOOD]) as two:
        assert run.fetch(one.url, two.url) == BODY
    assert "range" not in two.asked[0].fields


def test_an_end_without_a_length_may_come_too_early(run: Run) -> None:
    with Faulty([answer(BODY[:-5], content_length=None), rest]) as server:
        assert run.fetch(server.url) == BODY
    assert server.asked[1].fields["range"] == f"bytes={len(BODY) - 5}-"


def test_a_length_that_lies(run: Run) -> None:
    short = answer(BODY[:-5], content_length=str(len(BODY)))
    with Faulty([short, rest]) as server:
        assert run.fetch(server.url) == BODY
    long = answer(BODY + b"more", content_length=None)
    with Faulty([long]) as server:
        assert f"is more than {len(BODY)} bytes" in run.fails("E-HASH", server.url)
    declared = answer(b"", content_length="999999999")
    with Faulty([declared]) as server:
        assert "says it is 999999999 bytes" in run.fails("E-HASH", server.url)
    with Faulty([answer(b"", content_length="9" * 5000)]) as server:
        assert "says it is 9999" in run.fails("E-HASH", server.url)
    with Faulty([answer(BODY, content_length=None)]) as server:
        assert "is more than 1000 bytes" in run.fails("E-HASH", server.url, size=None, most=1000)
    assert len(server.asked) == 1


def test_a_body_that_was_encoded_is_refused(run: Run) -> None:
    with Faulty([answer(BODY, content_encoding="gzip")]) as server:
        assert "content-encoding gzip, which was not asked for" in run.fails("E-NET", server.url)
    assert len(server.asked) == 1


def test_who_sends_nothing_or_next_to_it_has_stalled(tmp_path: Path) -> None:
    head = GOOD[: GOOD.index(b"\r\n\r\n") + 4]
    run = Run(tmp_path, Settings(idle=0.3, tries=2))
    with Faulty([Drip(head), GOOD]) as server:
        assert run.fetch(server.url) == BODY
    run = Run(tmp_path, Settings(idle=0.3, tries=1))
    with Faulty([Drip(head)]) as server:
        assert "stalled" in run.fails("E-NET", server.url)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "drip",
    [Drip(b"HTTP/1.1 200 OK\r\nx: "), Drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["a field that does not end", "100 again and again"],
)
def test_a_head_that_does_not_end_has_stalled(tmp_path: Path, drip: Drip) -> None:
    run = Run(tmp_path, Settings(idle=0.3, tries=2))
    with Faulty([drip, GOOD]) as server:
        assert run.fetch(server.url) == BODY
    run = Run(tmp_path, Settings(idle=0.3, tries=1))
    with Faulty([drip]) as server:
        assert "the head of the answer was not whole within 0.3 s" in run.fails("E-NET", server.url)


@pytest.mark.parametrize("sent", [0, len(GOOD) - len(BODY), len(GOOD) - 1])
def test_who_falls_silent_has_stalled(tmp_path: Path, sent: int) -> None:
    run = Run(tmp_path, Settings(idle=0.3))
    with Faulty(
        [Silent(GOOD[:sent]), lambda asked: rest(asked) if "range" in asked.fields else GOOD]
    ) as server:
        assert run.fetch(server.url) == BODY
    assert len(server.asked) == 2


def test_a_server_that_is_busy_is_asked_again(run: Run) -> None:
    busy = answer(b"", "503 Service Unavailable")
    with Faulty([busy, busy, GOOD]) as server:
        assert run.fetch(server.url) == BODY
    assert [0.25 <= run.pauses[0] <= 0.75, 0.5 <= run.pauses[1] <= 1.5] == [True, True]


@pytest.mark.parametrize(
    ("said", "waited"), [("7", 7.0), ("3600", 60.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
)
def test_retry_after_is_heeded_within_reason(run: Run, said: str, waited: float) -> None:
    with Faulty([answer(b"", "429 Too Many Requests", retry_after=said), GOOD]) as server:
        assert run.fetch(server.url) == BODY
    assert run.pauses == [waited]


@pytest.mark.parametrize("tries", [1, 4])
def test_tries_come_to_an_end(tmp_path: Path, tries: int) -> None:
    run = Run(tmp_path, Settings(tries=tries))
    with Faulty([answer(b"", "500 Internal Server Error")]) as server:
        text = run.fails("E-NET", server.url)
    assert len(server.asked) == tries == text.count("answered 500")
    assert len(run.pauses) == tries - 1


@pytest.mark.parametrize(
    "status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"]
)
def test_what_will_not_change_is_asked_once(run: Run, status: str) -> None:
    with Faulty([answer(b"", status)]) as server:
        code = "E-404" if status[:3] in ("404", "410") else "E-NET"
        assert f"answered {status[:3]}" in run.fails(code, server.url)
    assert len(server.asked) == 1
    assert run.pauses == []


def test_a_rate_limit_says_when_it_resets(run: Run) -> None:
    limited = answer(
        b"", "403 rate limit exceeded", x_ratelimit_remaining="0", x_ratelimit_reset="1800000000"
    )
    with Faulty([limited]) as server:
        assert ":00" in run.fails("E-RATE", server.url)


@pytest.mark.parametrize("reset", ["9" * 30, "9" * 5000, "soon", ""])
def test_a_rate_limit_that_resets_at_no_time(run: Run, reset: str) -> None:
    limited = answer(b"", "403 x", x_ratelimit_remaining="0", x_ratelimit_reset=reset)
    with Faulty([limited]) as server:
        assert "resets at later" in run.fails("E-RATE", server.url)


def test_the_next_mirror_has_it(run: Run) -> None:
    wrong = answer(BODY[::-1])
    gone = answer(b"", "404 Not Found")
    with Faulty([wrong]) as one, Faulty([gone]) as two, Faulty([GOOD]) as three:
        assert run.fetch(one.url, two.url, three.url) == BODY
        assert [len(each.asked) for each in (one, two, three)] == [1, 1, 1]


def test_a_file_that_is_another_one_everywhere(run: Run) -> None:
    with Faulty([answer(BODY[::-1])]) as one, Faulty([answer(bytes(len(BODY)))]) as two:
        text = run.fails("E-HASH", one.url, two.url)
    assert text.count(f"{DIGEST} was expected") == 2
    assert "do not go on with verification off" in text
    assert [len(one.asked), len(two.asked)] == [1, 1]


def test_redirects_are_followed_so_far(run: Run) -> None:
    def further(asked: Asked) -> bytes:
        step = int(asked.target[1:])
        return GOOD if step == 5 else answer(b"", "302 Found", location=f"/{step + 1}")

    with Faulty([further]) as server:
        assert run.fetch(f"{server.url}/0") == BODY
    with Faulty([lambda asked: answer(b"", "302 Found", location=f"{asked.target}x")]) as server:
        assert "more than 5 redirects" in run.fails("E-NET", f"{server.url}/x")


@pytest.mark.parametrize(
    "to",
    [
        "http://192.0.2.1/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://[",
        "https://127.0.0.1:99999/",
        "",
    ],
)
def test_no_redirect_leads_out_of_what_is_safe(run: Run, to: str) -> None:
    with Faulty([answer(b"", "301 Moved", location=to)]) as server:
        text = run.fails("E-NET", f"{server.url}/")
    reason = "no address" if to.endswith(("[", ":99999/")) else "only https is fetched"
    assert reason in text or not to


@pytest.mark.timeout(20)
def test_the_body_of_a_redirect_is_not_waited_for(run: Run) -> None:
    endless = answer(b"", "302 Found", location="/x", content_length=None)
    with Faulty([Drip(endless), GOOD]) as server:
        assert run.fetch(server.url) == BODY
    assert server.asked[1].target == "/x"


@pytest.mark.parametrize("to", ["http://[::1]", "http://127.0.0.1", "http://localhost"])
def test_no_redirect_leads_from_https_to_http(
    run: Run, authority: Authority, identity: Identity, to: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    run.settings = Settings(ca_bundle=str(authority.path))
    with Faulty([GOOD]) as plain:
        moved = answer(b"", "302 Found", location=f"{to}:{plain.port}/x")
        with Faulty([moved], context) as secure:
            assert "only https is fetched" in run.fails("E-NET", secure.url)
    assert plain.asked == []


def test_a_token_stays_with_its_host(run: Run, tmp_path: Path) -> None:
    with (
        Faulty([GOOD]) as other,
        Faulty([answer(b"", "302 Found", location=f"{other.url}/x")]) as first,
    ):
        download = Download(Settings())
        assert download.text([f"{first.url}/"], tmp_path / "text", token=TOKEN) == BODY
        download.text([f"{other.url}/"], tmp_path / "text")
        download.close()
    assert first.asked[0].fields["authorization"] == f"Bearer {TOKEN}"
    assert ["authorization" in asked.fields for asked in other.asked] == [False, False]


def test_a_token_counts_more_than_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Faulty([GOOD]) as server, contextlib.closing(Download(Settings())) as download:
        download.text([server.url], tmp_path / "text", token=TOKEN)
    assert server.asked[0].fields["authorization"] == f"Bearer {TOKEN}"


def test_http_is_for_this_machine_alone(run: Run) -> None:
    assert "only https is fetched" in run.fails("E-NET", "http://192.0.2.1/file")


def test_files_and_folders_are_mirrors_too(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "a ü file"
    source.write_bytes(BODY)
    assert run.fetch(source.as_uri()) == BODY
    assert "does not exist" in run.fails("E-404", (tmp_path / "none").as_uri())
    offline = Run(tmp_path, Settings(offline=True))
    assert offline.fetch("https://mirror.invalid/x", source.as_uri()) == BODY
    with pytest.raises(PrebuiltError, match="SERVER_NATIVE_OFFLINE is set") as caught:
        offline.fetch("https://mirror.invalid/x")
    assert caught.value.code == "E-OFFLINE"


def test_nobody_there(run: Run) -> None:
    with Faulty([GOOD]) as server:
        port = server.port
    text = run.fails("E-NET", f"http://user:secret@127.0.0.1:{port}/file?token=secret")
    assert f"http://127.0.0.1:{port}/file?…: no connection" in text
    assert "secret" not in text


def test_what_is_shown_of_an_address() -> None:
    assert redacted("https://u:p@[::1]:8443/a?b=c") == "https://[::1]:8443/a?…"
    assert redacted("https://u:p@[") == redacted("https://u:p@h:p/") == "(no address)"


@pytest.mark.parametrize("text", ["https://[", "https://host:99999/", "https://host:port/", "host"])
def test_what_is_no_mirror(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_NATIVE_BASE_URL", text)
    with pytest.raises(PrebuiltError, match="SERVER_NATIVE_BASE_URL must name") as caught:
        bases(())
    assert caught.value.code == "E-ENV"


SECRET = "of-a-mirror"  # noqa: S105 - nobody's
LIBRARY = os.urandom(50_000)


def installed(folder: Path, archive: bytes, *script: Any) -> Path:
    """Installs from a mirror with a password in its address."""
    release = manifest(FOREIGN, archive, LIBRARY)
    with Faulty(script) as server:
        mirror = f"http://me:{SECRET}@127.0.0.1:{server.port}/{{tag}}/{{archive}}?key={SECRET}"
        settings = Settings(idle=0.3, tries=2, pause=lambda _: None)
        return install(release, FOREIGN, folder, sources=[mirror], settings=settings)


def test_an_install_survives_a_bad_day_and_keeps_no_secret(tmp_path: Path) -> None:
    archive = packed([entry("server_native.dll", LIBRARY)])
    good = answer(archive)
    where = f"bytes 9-{len(archive) - 1}/{len(archive)}"
    resumed = answer(archive[9:], "206 Partial Content", content_range=where)
    library = installed(tmp_path, archive, cut(good, 9), resumed)
    assert library.read_bytes() == LIBRARY
    marker = (library.parent / MARKER).read_text()
    assert SECRET not in marker
    assert f"/{TAG}/server_native-{FOREIGN}.tar.gz" in marker


@pytest.mark.parametrize(
    ("code", "archive", "reply"),
    [
        ("E-404", b"x", answer(b"", "404 Not Found")),
        ("E-NET", b"x", answer(b"", "500 Internal Server Error")),
        ("E-NET", b"xyz", cut(answer(b"xyz"), 1)),
        ("E-NET", b"xyz", Silent(answer(b"xyz")[:-1])),
        ("E-HASH", b"x", answer(b"y")),
        ("E-HASH", b"x", answer(b"xx")),
        ("E-ARCHIVE", b"x", answer(b"x")),
        ("E-ARCHIVE", EVIL, answer(EVIL)),
    ],
)
def test_an_install_that_fails_leaves_nothing_and_tells_no_secret(
    tmp_path: Path, code: str, archive: bytes, reply: Any
) -> None:
    with pytest.raises(PrebuiltError) as caught:
        installed(tmp_path, archive, reply)
    assert caught.value.code == code, str(caught.value)
    assert SECRET not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("TIMEOUT", "soon"), ("TIMEOUT", "0"), ("RETRIES", "-1"), ("TIMEOUT", "nan")],
)
def test_settings_that_cannot_be(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SERVER_NATIVE_{name}", value)
    with pytest.raises(
        PrebuiltError, match=f"must be a number above 0, at most 86400, found '{value}'"
    ):
        Settings.read()


def test_a_bundle_of_authorities_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PrebuiltError, match="SERVER_NATIVE_CA_BUNDLE names"):
        Download(Settings(ca_bundle=str(tmp_path / "none")))
