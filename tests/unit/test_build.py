"""The library of a checkout: built when its sources have changed, by one process at a time, and otherwise never."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server_native import _build, _library, _lock, _places, _trust
from server_native._library import locate, search
from server_native._platform import Host, file_name
from server_native._sources import sources
from server_native._trust import Trust
from server_native._verdicts import Verdict
from server_native.errors import PrebuiltError

MANIFEST = """\
[package]
name = "server_native"
version = "0.1.0"
edition = "2021"

[lib]
crate-type = ["cdylib"]
"""
SOURCE = '#[no_mangle]\npub extern "C" fn answer() -> u32 { 42 }\n'
#: Stands for cargo: notes each call and its arguments, and makes a library of the sources' text.
CARGO = f"""\
#!/bin/sh
echo "$@" >> "$LOG"
echo "   Compiling something" >&2
[ -e "$FAIL" ] && {{ echo "error: the source is wrong" >&2; exit 101; }}
[ -p "$GATE" ] && read line < "$GATE"
while [ "$1" != --target-dir ]; do shift; done
mkdir -p "$2/release"
[ -e "$NOTHING" ] || cat src/*.rs > "$2/release/{file_name()}"
"""


@dataclass
class Checkout:
    """A checkout of a package whose crate is small, and what was asked of cargo."""

    root: Path
    log: Path

    @property
    def crate(self) -> Path:
        return self.root / "native"

    @property
    def library(self) -> Path:
        return self.crate / "target" / "release" / file_name()

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def change(self, text: str = "// changed\n") -> None:
        (self.crate / "src" / "lib.rs").write_text(text)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout with the real cargo."""
    for name in list(os.environ):
        if name.startswith(("SERVER_NATIVE_", "CARGO")):
            monkeypatch.delenv(name)
    made = Checkout(tmp_path / "checkout", tmp_path / "log")
    (made.root / "server_native").mkdir(parents=True)
    (made.crate / "src").mkdir(parents=True)
    (made.crate / "Cargo.toml").write_text(MANIFEST)
    (made.crate / "Cargo.lock").write_text(
        'version = 3\n[[package]]\nname = "server_native"\nversion = "0.1.0"\n'
    )
    (made.crate / "src" / "lib.rs").write_text(SOURCE)
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_places, "package", lambda: made.root / "server_native")
    monkeypatch.setattr(_library, "host", lambda: Host("linux-x64", text="linux-x64"))
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def checkout(bare: Checkout, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout with a cargo that is a script."""
    program = bare.root.parent / "bin" / "cargo"
    program.parent.mkdir()
    program.write_text(CARGO)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(bare.log))
    for name in ("FAIL", "GATE", "NOTHING"):
        monkeypatch.setenv(name, str(bare.root.parent / name))
    return bare


def without_cargo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("HOME", "/nonexistent")


# --- when it is built -----------------------------------------------------------------------------


def test_it_is_built_at_first_and_then_again_only_after_a_change(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert locate() == checkout.library
    assert checkout.calls == 1
    assert capsys.readouterr().err == (
        f"server_native: building {file_name()} from {checkout.crate} (not built yet): "
        f"{_build.cargo()} build --release --locked\n"
    )
    for _ in range(3):
        assert locate() == checkout.library
    assert checkout.calls == 1
    checkout.change()
    assert locate() == checkout.library
    assert checkout.calls == 2
    assert "(its sources have changed)" in capsys.readouterr().err
    assert checkout.library.read_text() == "// changed\n"
    chosen = search(download=False, build=False).chosen
    assert chosen is not None
    assert chosen.trust is Trust.LOCAL


@pytest.mark.parametrize(
    "name",
    [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "rust-toolchain.toml",
        ".cargo/config.toml",
        "src/a/b.rs",
    ],
)
def test_each_file_that_a_build_reads_counts(checkout: Checkout, name: str) -> None:
    locate()
    path = checkout.crate / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("# one more line\n")
    locate()
    assert checkout.calls == 2
    if name != "Cargo.toml":
        path.unlink()
        locate()
        assert checkout.calls == 3


@pytest.mark.parametrize("name", ["tests/abi.rs", "target/debug/x", "cbindgen.toml", "README.md"])
def test_other_files_do_not(checkout: Checkout, name: str) -> None:
    locate()
    path = checkout.crate / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text")
    locate()
    assert checkout.calls == 1


def test_files_that_were_only_touched_build_nothing(checkout: Checkout) -> None:
    locate()
    os.utime(checkout.crate / "src" / "lib.rs", (1, 1))
    os.utime(checkout.library, (2, 2))
    locate()
    assert checkout.calls == 1
    # And are known from then on.
    stamp = _trust.stamped(checkout.library)
    assert stamp is not None
    assert stamp.identity == _trust.identity(checkout.library)


def test_a_time_that_was_set_back_hides_no_change(checkout: Checkout) -> None:
    locate()
    path = checkout.crate / "src" / "lib.rs"
    before = path.stat()
    path.write_text(SOURCE.replace("42", "43"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    locate()
    assert checkout.calls == 2


def test_a_library_somebody_has_put_there_is_built_again(checkout: Checkout) -> None:
    locate()
    checkout.library.write_text("planted")
    assert locate() == checkout.library
    assert checkout.calls == 2
    assert checkout.library.read_text() == SOURCE


def test_a_stamp_that_came_with_the_checkout_is_none(checkout: Checkout) -> None:
    checkout.library.parent.mkdir(parents=True)
    checkout.library.write_text("planted")
    for name in ("stamp", "install.json", ".stamp.json"):
        (checkout.library.parent / name).write_text("{}")
    locate()
    assert checkout.calls == 1


def test_the_stamp_of_another_checkout_is_none(checkout: Checkout) -> None:
    locate()
    moved = checkout.root.parent / "moved"
    shutil.copytree(checkout.root, moved)
    other = Checkout(moved, checkout.log)
    before = _places.package
    try:
        _places.package = lambda: moved / "server_native"
        assert locate() == other.library
    finally:
        _places.package = before
    assert checkout.calls == 2


def test_the_quick_check_takes_less_than_two_milliseconds(checkout: Checkout) -> None:
    # As many files as the crate has, and more.
    for number in range(80):
        path = checkout.crate / "src" / f"module{number % 8}" / f"file{number}.rs"
        path.parent.mkdir(exist_ok=True)
        path.write_text("// text\n" * 200)
    locate()

    def once() -> float:
        began = time.perf_counter()
        locate()
        return time.perf_counter() - began

    # The best of many: what others do on this machine is not asked.
    assert min(once() for _ in range(50)) < 0.002
    assert checkout.calls == 1


def test_a_change_during_a_build_is_built_by_the_next_process(checkout: Checkout) -> None:
    gate = checkout.root.parent / "GATE"
    os.mkfifo(gate)
    builder = threading.Thread(target=locate)
    builder.start()
    with gate.open("w") as file:
        # Cargo has begun: it waits for this line.
        checkout.change()
        file.write("go\n")
    builder.join()
    gate.unlink()
    assert checkout.calls == 1
    locate()
    assert checkout.calls == 2


# --- what switches it -----------------------------------------------------------------------------


def test_never_accepts_what_is_fresh(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    locate()
    monkeypatch.setenv("SERVER_NATIVE_BUILD", "never")
    assert locate() == checkout.library
    assert checkout.calls == 1


@pytest.mark.parametrize("state", ["missing", "stale", "unknown"])
def test_never_refuses_everything_else_and_ends_the_search(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    if state == "stale":
        locate()
        checkout.change()
    elif state == "unknown":
        checkout.library.parent.mkdir(parents=True)
        checkout.library.write_text("of somebody")
    calls = checkout.calls
    monkeypatch.setenv("SERVER_NATIVE_BUILD", "never")
    reason = {
        "missing": "not built yet",
        "stale": "its sources have changed",
        "unknown": "no build of it by this user is known",
    }[state]
    with pytest.raises(PrebuiltError, match=f"{reason}, and SERVER_NATIVE_BUILD=never") as caught:
        locate()
    assert caught.value.code == "E-BUILD"
    assert "make build" in str(caught.value)
    assert checkout.calls == calls
    found = search(download=True, build=True)
    assert {step.finding.verdict for step in found.steps[2:]} == {Verdict.NOT_REACHED}


def test_never_can_be_told_to_trust(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout.library.parent.mkdir(parents=True)
    checkout.library.write_text("of somebody")
    monkeypatch.setenv("SERVER_NATIVE_BUILD", "never")
    monkeypatch.setenv("SERVER_NATIVE_ALLOW_UNVERIFIED", "1")
    assert locate() == checkout.library
    assert "although no build of it by this user is known" in capsys.readouterr().err


def test_always_asks_cargo_each_time(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_NATIVE_BUILD", "always")
    locate()
    locate()
    assert checkout.calls == 2


def test_verify_always_reads_the_library_each_time(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    locate()
    hashed: list[Path] = []
    plain = _trust.sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return plain(path)

    monkeypatch.setattr(_trust, "sha256", counted)
    locate()
    assert hashed == []
    monkeypatch.setenv("SERVER_NATIVE_VERIFY", "always")
    locate()
    assert hashed == [checkout.library]


def test_looking_builds_nothing(checkout: Checkout) -> None:
    found = search(download=False, build=False)
    assert found.pending is not None
    assert found.pending.number == "1b"
    assert found.pending.finding.reason == "not built yet: would build it with cargo"
    assert checkout.calls == 0
    assert not checkout.library.exists()


def test_prebuilt_libraries_off_is_the_same_build(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_NATIVE_DISABLE_PREBUILT", "1")
    found = search(download=True, build=True)
    assert [step.number for step in found.steps if step.finding.verdict is Verdict.CHOSEN] == ["11"]
    assert locate() == checkout.library
    assert checkout.calls == 1


def test_cargo_is_asked_for_this_machine_from_the_lock_file_only(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARGO_TARGET_DIR", "/nonexistent")
    monkeypatch.setenv("SERVER_NATIVE_OFFLINE", "1")
    locate()
    assert checkout.log.read_text().split() == [
        *("build", "--release", "--locked", "--color", "never"),
        *("--manifest-path", str(checkout.crate / "Cargo.toml")),
        *("--target-dir", str(checkout.crate / "target"), "--offline"),
    ]


def test_an_unpacked_sdist_is_built_into_the_users_cache(checkout: Checkout) -> None:
    (checkout.root / "PKG-INFO").touch()
    found = search(download=False, build=True)
    chosen = found.chosen
    assert chosen is not None
    assert chosen.path is not None
    assert [step.number for step in found.steps if step.finding.verdict is Verdict.CHOSEN] == ["11"]
    assert chosen.path.is_relative_to(checkout.root.parent / "cache" / "target")
    assert not (checkout.crate / "target").exists()
    assert locate() == chosen.path
    assert checkout.calls == 1


def test_a_crate_of_somebody_else_beside_the_package_is_none_of_ours(checkout: Checkout) -> None:
    (checkout.crate / "Cargo.toml").write_text(MANIFEST.replace("server_native", "other"))
    assert sources() is None
    assert search(download=True, build=True).chosen is None
    assert checkout.calls == 0


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_build_that_fails_shows_what_cargo_said_and_ends_the_search(checkout: Checkout) -> None:
    (checkout.root.parent / "FAIL").touch()
    with pytest.raises(PrebuiltError, match="failed with exit status 101") as caught:
        locate()
    assert caught.value.code == "E-BUILD"
    assert "\n     Compiling something\n  error: the source is wrong\n" in str(caught.value)
    # Nothing was noted: the next process tries again.
    (checkout.root.parent / "FAIL").unlink()
    assert locate() == checkout.library


def test_a_build_that_makes_no_library_says_so(checkout: Checkout) -> None:
    (checkout.root.parent / "NOTHING").touch()
    with pytest.raises(PrebuiltError, match="succeeded without making") as caught:
        locate()
    assert caught.value.code == "E-BUILD"


def test_without_cargo_the_error_says_how_to_get_one_and_what_else_works(
    bare: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_cargo(monkeypatch)
    with pytest.raises(PrebuiltError) as caught:
        locate()
    assert caught.value.code == "E-BUILD"
    text = str(caught.value)
    for words in ("https://rustup.rs", "wheel", "server_native.setup", "SERVER_NATIVE_PREBUILT"):
        assert words in text
    # All other ways were tried.
    assert "\n   9 user cache: absent" in text
    found = search(download=False, build=False)
    assert found.pending is None
    assert found.error is not None


def test_a_process_with_rights_of_another_runs_no_cargo(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_places, "elevated", lambda: True)
    monkeypatch.setattr(_build, "elevated", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with pytest.raises(PrebuiltError, match="rights of another user"):
        locate()
    assert checkout.calls == 0


def test_without_a_cache_every_process_asks_cargo_and_says_why(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = checkout.root.parent / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    for _ in range(2):
        assert locate() == checkout.library
        said = capsys.readouterr().err
        assert "no lock and no stamp, so every process asks cargo" in said
        assert f"{cache} can be written by everybody" in said
    assert checkout.calls == 2


def test_without_a_home_a_checkout_is_built_and_an_sdist_says_why_not(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise PrebuiltError("E-PERM", "this user has no home folder")

    for module in (_places, _trust):
        monkeypatch.setattr(module, "user_cache", homeless)
    assert locate() == checkout.library
    assert "this user has no home folder" in capsys.readouterr().err
    (checkout.root / "PKG-INFO").touch()
    with pytest.raises(PrebuiltError, match="this user has no home folder") as caught:
        locate()
    assert caught.value.code == "E-PERM"


def test_a_cache_that_cannot_be_is_an_error_at_once(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", "relative")
    with pytest.raises(PrebuiltError, match="must be an absolute path") as caught:
        locate()
    assert caught.value.code == "E-ENV"
    assert checkout.calls == 0


# --- one at a time --------------------------------------------------------------------------------

RACER = """
import sys
from server_native import _library, _places
from server_native._platform import Host
from pathlib import Path
_places.package = lambda: Path(sys.argv[1])
sys.stdin.read(1)
print(_library.locate())
"""


def test_of_many_processes_one_builds(checkout: Checkout) -> None:
    command = [sys.executable, "-c", RACER, str(checkout.root / "server_native")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    racers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("x")
        racer.stdin.flush()
    for racer in racers:
        printed, said = racer.communicate()
        assert (racer.returncode, printed.strip()) == (0, str(checkout.library)), said
    assert checkout.calls == 1


@pytest.fixture
def held_elsewhere(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A lock that another process has."""
    lock, ready, gate = tmp_path / "lock", tmp_path / "ready", tmp_path / "gate"
    for fifo in (ready, gate):
        os.mkfifo(fifo)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from server_native import _lock
        with _lock.held(Path({str(lock)!r}), 10, print):
            Path({str(ready)!r}).open("w").close()
            Path({str(gate)!r}).open().read()
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    ready.open().close()
    yield lock, process
    process.kill()
    process.wait()


def test_a_lock_that_is_held_too_long_is_an_error(
    held_elsewhere: tuple[Path, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, _ = held_elsewhere
    monkeypatch.setattr(_lock, "_FIRST_LINE", 0.0)
    said: list[str] = []
    with (
        pytest.raises(PrebuiltError, match="another process has held") as caught,
        _lock.held(lock, 0.2, said.append),
    ):
        pytest.fail("it was granted twice")
    assert caught.value.code == "E-BUSY"
    assert len(said) == 1
    assert str(lock) in said[0]


def test_a_lock_dies_with_its_process(
    held_elsewhere: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    lock, process = held_elsewhere
    process.kill()
    with _lock.held(lock, 10, lambda line: None) as held:
        assert held
    with _lock.held(lock, 0, lambda line: None) as held:
        assert held


def test_where_locks_do_not_work_the_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(_lock, "_take", refuse)
    with _lock.held(tmp_path / "lock", 10, print) as held:
        assert not held


def test_a_symlink_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with (
        pytest.raises(PrebuiltError, match="cannot be opened"),
        _lock.held(tmp_path / "lock", 1, print),
    ):
        pytest.fail("it was followed")
    assert not (tmp_path / "other").exists()


# --- the real cargo -------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cargo") is None, reason="needs cargo")
def test_the_real_cargo_builds_a_small_crate(bare: Checkout) -> None:
    path = locate()
    assert path == bare.library
    first = path.read_bytes()
    assert first[:4] in (b"\x7fELF", b"\xcf\xfa\xed\xfe")
    found = path.stat()
    assert locate() == path
    assert path.stat() == found
    bare.change(SOURCE.replace("42", "43"))
    assert locate() == path
    assert path.read_bytes() != first
