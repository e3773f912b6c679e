"""Installing beside others, on bad file systems, and killed at any moment: all of a library or none of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server_native import _library
from server_native._manifest import Manifest
from server_native._platform import PLATFORMS, host
from server_native.errors import PrebuiltError
from server_native.setup.install import MARKER, install, place
from server_native.setup.settings import Settings
from tests.programs import ROOT
from tests.setup.faulty import Asked, Faulty, answer
from tests.setup.made import FOREIGN, TAG, entry, manifest, packed, put
from tests.setup.releases import mirror as serving

PAYLOAD = os.urandom(400_000)
ARCHIVE = packed([entry("server_native.dll", PAYLOAD)])
RELEASE = manifest(FOREIGN, ARCHIVE, PAYLOAD)
NOBODY = 65_534


def good(asked: Asked) -> bytes:
    return answer(ARCHIVE)


#: Installs what the first argument says: a manifest's path, a root, a mirror; then prints the hash of what is there.
PROGRAM = """
import hashlib, sys
from pathlib import Path
from server_native._manifest import Manifest
from server_native.setup.install import install
manifest, label, root, mirror = sys.argv[1:5]
release = Manifest.parse(Path(manifest).read_bytes(), manifest)
library = install(release, label, Path(root), sources=[mirror])
print(hashlib.sha256(library.read_bytes()).hexdigest())
"""


class Installs:
    """Processes that install the same release."""

    def __init__(
        self, folder: Path, mirror: str, release: Manifest = RELEASE, label: str = FOREIGN
    ) -> None:
        self.root = folder / "cache"
        written = folder / "manifest.json"
        written.write_text(release.write())
        self.arguments = [str(written), label, str(self.root), mirror]
        self.library = place(self.root, release, label)

    def start(self, before: str = "", **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", before + PROGRAM, *self.arguments]
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def ends(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=100)
        return process.returncode, out.strip(), err

    def check(self) -> None:
        """What is there is whole, and nothing is left of the way to it."""
        assert self.library.read_bytes() == PAYLOAD
        assert json.loads((self.library.parent / MARKER).read_bytes())["tag"] == TAG
        assert sorted(path.name for path in self.library.parent.iterdir()) == [
            ".lock",
            MARKER,
            "server_native.dll",
        ]


def at_once(folder: Path, rounds: int, processes: int) -> None:
    artifact = RELEASE.artifacts[FOREIGN]
    put(folder / "mirror", RELEASE, {FOREIGN: ARCHIVE})
    for number in range(rounds):
        here = folder / str(number)
        here.mkdir()
        with serving(folder / "mirror") as releases:
            installs = Installs(here, releases.url)
            running = [installs.start() for _ in range(processes)]
            ended = [installs.ends(process) for process in running]
            asked = releases.asked()
        expected = [(0, artifact.payload_sha256)] * processes
        assert [(status, out) for status, out, _ in ended] == expected, ended
        assert asked in ([f"/{TAG}/{artifact.archive} 200"] * times for times in (1, 2)), asked
        installs.check()


def test_many_at_once_fetch_it_once(tmp_path: Path) -> None:
    at_once(tmp_path, rounds=1, processes=24)


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_64_at_once_20_times(tmp_path: Path) -> None:
    at_once(tmp_path, rounds=20, processes=64)


#: Kills the process at the n-th line it runs of the setup tool, or tells how many there were.
KILLER = """
import os, signal, sys
left = int(sys.argv[5])
ran = 0
def line(frame, event, argument):
    global ran
    ran += 1
    if ran == left:
        os.kill(os.getpid(), signal.SIGKILL)
    return line
def call(frame, event, argument):
    return line if f"{os.sep}setup{os.sep}" in frame.f_code.co_filename else None
import atexit, requests, server_native.setup.install, server_native.setup.smoke
atexit.register(lambda: print(ran, file=sys.stderr))
sys.settrace(call)
"""


def killed(folder: Path, count: int) -> None:
    """Kills installs at so many moments: what is seen then is whole or not there, and the next run has it whole."""
    with Faulty([good]) as mirror:
        whole = Installs(folder, mirror.url)
        whole.arguments.append("0")
        status, _, error = whole.ends(whole.start(KILLER))
        assert status == 0, error
        lines = int(error.split()[-1])
        assert lines > count
        for number in range(count):
            here = folder / str(number)
            here.mkdir()
            installs = Installs(here, mirror.url)
            installs.arguments.append(str(1 + number * lines // count))
            assert installs.ends(installs.start(KILLER))[0] == -9
            if installs.library.exists():
                assert installs.library.read_bytes() == PAYLOAD
            installs.arguments.pop()
            status, _, error = installs.ends(installs.start())
            assert status == 0, error
            assert installs.library.read_bytes() == PAYLOAD
            ours = {".lock", MARKER, "server_native.dll"}
            left = {path.name for path in installs.library.parent.iterdir()}
            assert ours <= left
            assert all(name.startswith(".tmp-") for name in left - ours), left
            shutil.rmtree(here)


@pytest.mark.timeout(300)
def test_killed_at_20_points_the_next_run_succeeds(tmp_path: Path) -> None:
    killed(tmp_path, 20)


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_killed_at_200_points(tmp_path: Path) -> None:
    killed(tmp_path, 200)


def killed_in_time(folder: Path, count: int) -> None:
    """Kills installs of the real library, which is loaded on the way, at so many moments of the time that one takes."""
    label = host().label
    assert label is not None
    payload = _library.locate().read_bytes()
    archive = packed([entry(PLATFORMS[label].file, payload)])
    release = manifest(label, archive, payload)
    put(folder / "mirror", release, {label: archive})
    with serving(folder / "mirror") as releases:
        whole = Installs(folder, releases.url, release, label)
        began = time.monotonic()
        assert whole.ends(whole.start())[0] == 0
        took = time.monotonic() - began
        died = 0
        for number in range(count):
            here = folder / str(number)
            here.mkdir()
            installs = Installs(here, releases.url, release, label)
            process = installs.start()
            until = time.monotonic() + took * number / count
            while (left := until - time.monotonic()) > 0 and process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, 0.01))
                # Whoever looks meanwhile sees all of it or none.
                assert not installs.library.exists() or installs.library.read_bytes() == payload
            process.kill()
            died += installs.ends(process)[0] == -signal.SIGKILL
            assert not installs.library.exists() or installs.library.read_bytes() == payload
            status, _, error = installs.ends(installs.start())
            assert status == 0, error
            assert installs.library.read_bytes() == payload
            shutil.rmtree(here)
    assert died > count // 2


@pytest.mark.timeout(300)
def test_killed_at_10_moments_on_the_way_to_the_real_library(tmp_path: Path) -> None:
    killed_in_time(tmp_path, 10)


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_killed_at_100_moments_on_the_way_to_the_real_library(tmp_path: Path) -> None:
    killed_in_time(tmp_path, 100)


def test_what_a_killed_process_left_is_collected_a_day_later(tmp_path: Path) -> None:
    folder = place(tmp_path / "cache", RELEASE, FOREIGN).parent
    for name in (".tmp-1-old", ".tmp-2-new"):
        (folder / name).mkdir(parents=True, mode=0o700)
        (folder / name / "half").touch()
    for path in (folder, *folder.parents):
        if path.is_relative_to(tmp_path / "cache"):
            path.chmod(0o700)
    day = time.time() - 25 * 3600
    os.utime(folder / ".tmp-1-old", (day, day))
    with Faulty([good]) as mirror:
        install(RELEASE, FOREIGN, tmp_path / "cache", sources=[mirror.url])
    assert not (folder / ".tmp-1-old").exists()
    assert (folder / ".tmp-2-new" / "half").exists()


def fetched(root: Path, **options: bool) -> tuple[Path, int]:
    """The library, and how often the mirror was asked."""
    with Faulty([good]) as mirror:
        library = install(RELEASE, FOREIGN, root, sources=[mirror.url], **options)  # type: ignore[arg-type]
    assert library.read_bytes() == PAYLOAD
    return library, len(mirror.asked)


def test_what_is_there_stays_and_what_was_changed_heals_once(tmp_path: Path) -> None:
    library, asked = fetched(tmp_path)
    before = library.stat()
    assert asked == 1
    assert fetched(tmp_path)[1] == 0
    assert library.stat() == before
    assert fetched(tmp_path, force=True)[1] == 1
    library.write_bytes(PAYLOAD[::-1])
    assert fetched(tmp_path)[1] == 1
    (bad,) = library.parent.glob("*.bad-*")
    assert bad.read_bytes() == PAYLOAD[::-1]
    # Without the marker it may be half of what was to be done.
    (library.parent / MARKER).unlink()
    assert fetched(tmp_path)[1] == 1


@pytest.mark.parametrize("name", ["a b", "ü-日本", "x" * 200, "'quoted' $HOME"])
def test_folders_of_any_name(name: str, tmp_path: Path) -> None:
    assert fetched(tmp_path / name / name)[1] == 1


def refused(root: Path, code: str) -> str:
    with Faulty([good]) as mirror, pytest.raises(PrebuiltError) as caught:
        install(RELEASE, FOREIGN, root, sources=[mirror.url], settings=Settings(tries=1))
    assert caught.value.code == code, str(caught.value)
    return str(caught.value)


def open_to_all(cache: Path) -> None:
    cache.chmod(0o777)


def of_another(cache: Path) -> None:
    os.chown(cache, NOBODY, NOBODY)


def a_link(cache: Path) -> None:
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    (cache / "prebuilt").symlink_to(elsewhere)


def a_file(cache: Path) -> None:
    (cache / "prebuilt").touch()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (open_to_all, "can be written by everybody"),
        pytest.param(
            of_another,
            f"belongs to user {NOBODY}",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
        (a_link, "is a symlink"),
        (a_file, "Not a directory"),
    ],
)
def test_a_cache_that_others_could_change_is_refused(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    spoil(cache)
    assert reason in refused(cache, "E-PERM")
    assert not list(tmp_path.rglob("*.dll"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody with no rights here")
def test_a_cache_that_may_not_be_written_to(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    with Faulty([good]) as mirror:
        installs = Installs(tmp_path, mirror.url)
        installs.root.mkdir(mode=0o755)
        become = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        imported = "import requests, server_native.setup.install, server_native.setup.smoke\n"
        status, _, error = installs.ends(installs.start(imported + become))
    assert status == 1
    assert "[E-PERM]" in error
    assert "SERVER_NATIVE_CACHE_DIR" in error
    assert mirror.asked == []


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))\n"
    with Faulty([good]) as mirror:
        installs = Installs(tmp_path, mirror.url)
        status, _, error = installs.ends(installs.start(limit))
        assert status == 1
        assert "[E-SPACE]" in error, error
        assert not installs.library.exists()
        assert [path.name for path in installs.library.parent.iterdir()] == [".lock"]
        assert installs.ends(installs.start())[0] == 0
    installs.check()


def test_a_library_that_cannot_be_loaded_is_not_installed(tmp_path: Path) -> None:
    label = host().label
    assert label is not None
    name = place(tmp_path, manifest(label, ARCHIVE, PAYLOAD), label).name
    compiled = tmp_path / "other.so"
    source = tmp_path / "other.c"
    for code, text, expected in (
        ("E-LOAD", None, "cannot be used"),
        ("E-LOAD", "int other(void) { return 1; }", "not that of server_native"),
        ("E-LOAD", "__attribute__((constructor)) void f(void) { __builtin_trap(); }", "SIGILL"),
    ):
        payload = PAYLOAD
        if text is not None:
            source.write_text(text)
            subprocess.run(["cc", "-shared", "-fPIC", "-o", compiled, source], check=True)
            payload = compiled.read_bytes()
        archive = packed([entry(name, payload)])
        release = manifest(label, archive, payload)
        with Faulty([answer(archive)]) as mirror, pytest.raises(PrebuiltError) as caught:
            install(release, label, tmp_path / "cache", sources=[mirror.url])
        assert caught.value.code == code, str(caught.value)
        assert expected in str(caught.value)
        assert not place(tmp_path / "cache", release, label).exists()


def test_the_real_library_is_loaded_before_it_is_installed(tmp_path: Path) -> None:
    label = host().label
    assert label is not None
    payload = _library.locate().read_bytes()
    archive = packed([entry(_library.locate().name, payload)])
    release = manifest(label, archive, payload)
    with Faulty([answer(archive)]) as mirror:
        library = install(release, label, tmp_path / "cache", sources=[mirror.url])
    assert library.read_bytes() == payload
