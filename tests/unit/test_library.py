"""Where the native library is looked for, in which order, and what is said of each place."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from server_native import _judge, _library, _manifest, _places, _trust
from server_native._library import ENVIRONMENT, locate, search
from server_native._manifest import Artifact, Manifest
from server_native._platform import Host, file_name
from server_native._trust import Trust
from server_native._verdicts import Search, Step, Verdict
from server_native.errors import LibraryNotFoundError, PrebuiltError

TAG = "server-native-prebuilt-v1.0.0"
NEWER = "server-native-prebuilt-v1.1.0"
OLDER = "server-native-prebuilt-v0.9.0"
LABEL = "linux-x64"
FILE = "libserver_native.so"
GOOD = b"the library of the release"
#: Of another release, signed; built by this user; of somebody else.
SIGNED, BUILT, EVIL = b"signed", b"built", b"evil"
AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)


def manifest(**changes: Any) -> Manifest:
    digest = hashlib.sha256(GOOD).hexdigest()
    artifact = Artifact(f"server_native-{LABEL}.tar.gz", 9, "0" * 64, FILE, len(GOOD), digest)
    plain = Manifest(
        "1.0.0", TAG, _judge.bindings_abi(), ("https://example.org/",), ("key",), {LABEL: artifact}
    )
    return replace(plain, **changes)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """A module of the setup tool."""
    module = ModuleType(f"server_native.setup.{name}")
    for function, body in functions.items():
        setattr(module, function, body)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@dataclass
class World:
    """A machine with an installed package, a project and a user, all below one folder."""

    root: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def package(self) -> Path:
        return self.root / "site" / "server_native"

    @property
    def project(self) -> Path:
        return self.root / "repository" / "project"

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def places(self) -> dict[str, Path]:
        """Each step's file."""
        project = self.project / ".server_native" / "prebuilt"
        repository = self.repository / ".server_native" / "prebuilt"
        return {
            "2": project / TAG / LABEL / FILE,
            "3": project / LABEL / FILE,
            "4": repository / TAG / LABEL / FILE,
            "5": repository / LABEL / FILE,
            "6": self.package / "lib" / FILE,
            "6, in its tag": self.package / "native" / "prebuilt" / TAG / LABEL / FILE,
            "7": self.package / "native" / "prebuilt" / LABEL / FILE,
            "8": self.package / "native" / LABEL / FILE,
            "9": self.cache / "prebuilt" / TAG / LABEL / FILE,
        }

    def put(self, place: str, content: bytes = GOOD) -> Path:
        return self.write(self.places()[place], content)

    def write(self, path: Path, content: bytes) -> Path:
        missing = [each for each in (path.parent, *path.parent.parents) if not each.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o755)
        path.write_bytes(content)
        return path

    def pin(self, made: Manifest) -> None:
        self.monkeypatch.setattr(_manifest, "package_manifest", lambda: made)

    def on(self, host: Host) -> None:
        self.monkeypatch.setattr(_library, "host", lambda: host)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in list(os.environ):
        if name.startswith("SERVER_NATIVE_"):
            monkeypatch.delenv(name)
    made = World(tmp_path, monkeypatch)
    made.package.mkdir(parents=True)
    (made.repository / ".git").mkdir(parents=True)
    made.project.mkdir()
    (made.project / "pyproject.toml").touch()
    monkeypatch.chdir(made.project)
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", str(made.cache))
    monkeypatch.setattr(_places, "package", lambda: made.package)
    made.pin(manifest())
    made.on(Host(LABEL, libc="glibc", libc_version="2.36", text=f"{LABEL} (glibc 2.36)"))
    fake(monkeypatch, "install", install=fail_to_install)
    fake(monkeypatch, "minisign", verify=check_signature)
    return made


def fail_to_install(*_: object, **__: object) -> Path:
    raise PrebuiltError("E-NET", "there is no network in this test")


def check_signature(text: bytes, signature: bytes, keys: tuple[str, ...]) -> None:
    if signature != b"signed by key:" + hashlib.sha256(text).hexdigest().encode():
        raise PrebuiltError("E-SIG", "the signature does not fit")
    assert keys == ("key",)


def look() -> Search:
    return search(download=False, build=False)


def step(found: Search, number: str) -> Step:
    return next(each for each in found.steps if each.number == number)


def verdict(found: Search, number: str) -> Verdict:
    return step(found, number).finding.verdict


def rejected(world: World, number: str) -> str:
    """The reason for which the step is rejected, and nothing is loaded."""
    found = look()
    assert verdict(found, number) is Verdict.REJECTED
    assert found.chosen is None
    return step(found, number).finding.reason


# --- order ----------------------------------------------------------------------------------------


def test_the_places_are_taken_in_order(world: World) -> None:
    for place in world.places():
        world.put(place)
    for place, path in world.places().items():
        found = look()
        chosen = found.chosen
        assert chosen is not None
        assert (chosen.path, chosen.trust) == (path, Trust.PINNED)
        assert locate() == path
        number = place.partition(",")[0]
        numbers = [each.number for each in found.steps]
        behind = found.steps[numbers.index(number) + 1 :]
        assert {each.finding.verdict for each in behind} == {Verdict.NOT_REACHED}
        assert verdict(found, number) is Verdict.CHOSEN
        path.unlink()
    # Then it would be fetched.
    assert look().pending == step(look(), "10")


def test_every_step_has_its_row(world: World) -> None:
    numbers = [each.number for each in look().steps]
    assert numbers == ["1", "1b", *map(str, range(2, 12))]


def test_without_any_the_error_has_every_verdict(world: World) -> None:
    with pytest.raises(LibraryNotFoundError) as caught:
        locate()
    error = caught.value
    assert isinstance(error, PrebuiltError)
    assert (error.code, error.exit_status) == ("E-NOLIB", 13)
    text = str(error)
    assert text.startswith("no native library of server_native was found. Searched:\n")
    for number in ["1", "1b", *map(str, range(2, 12))]:
        assert f"\n  {number:>2} " in text
    assert "there is no network in this test [E-NET]" in text
    assert "This is linux-x64 (glibc 2.36). What to do: run `python -m server_native.setup`" in text


def test_what_is_rejected_does_not_end_the_search(world: World) -> None:
    for place in ("2", "3", "4", "5", "6", "7", "8"):
        world.put(place, EVIL)
    expected = world.put("9")
    found = look()
    assert [verdict(found, number) for number in "2345678"] == [Verdict.REJECTED] * 7
    assert locate() == expected
    evil = hashlib.sha256(EVIL).hexdigest()[:12]
    pinned = hashlib.sha256(GOOD).hexdigest()[:12]
    reason = step(found, "2").finding.reason
    assert reason == f"sha256 {evil}… is not the pinned {pinned}… (trust: none)"


def test_old_places_are_named_when_they_are_used(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("3", "5", "7", "8"):
        path = world.put(place)
        assert locate() == path
        assert capsys.readouterr().err == (
            f"server_native: {path} lies in an old place: `python -m server_native.setup` puts it into the "
            "present one\n"
        )
        path.unlink()
    assert look().chosen is None


def test_the_repository_is_not_looked_at_twice(world: World) -> None:
    (world.project / ".git").mkdir()
    found = look()
    for number in "45":
        assert verdict(found, number) is Verdict.SKIPPED
        assert step(found, number).finding.reason == "the same folder as the project's"


def test_outside_any_project_there_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_places, "_ancestor", lambda start, markers: None)
    found = look()
    assert [verdict(found, number) for number in "2345"] == [Verdict.SKIPPED] * 4


def test_a_working_directory_that_is_gone_is_no_project(world: World) -> None:
    gone = world.root / "gone"
    gone.mkdir()
    world.monkeypatch.chdir(gone)
    gone.rmdir()
    expected = world.put("9")
    assert locate() == expected


# --- 1: named -------------------------------------------------------------------------------------


def test_a_named_library_comes_first(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for place in world.places():
        world.put(place)
    named = world.write(world.root / "other.so", EVIL)
    world.monkeypatch.setenv(ENVIRONMENT, str(named))
    with caplog.at_level(logging.INFO, "server_native"):
        assert locate() == named
    assert caplog.messages == [f"the native library is {named}, named by {ENVIRONMENT}"]
    chosen = look().chosen
    assert chosen is not None
    assert chosen.trust is Trust.EXPLICIT


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: Path("relative.so"), "is not an absolute path"),
        (lambda path: path, "does not exist"),
        (lambda path: path.mkdir() or path, "is not a file"),
        (lambda path: path.touch(0o000) or path, "cannot be read"),
    ],
)
def test_a_named_library_that_cannot_be_used_is_an_error_and_nothing_else_is_tried(
    world: World, make: Callable[[Path], Path], problem: str
) -> None:
    world.put("2")
    path = make(world.root / "named.so")
    world.monkeypatch.setenv(ENVIRONMENT, str(path))
    # root may read everything
    world.monkeypatch.setattr(
        os,
        "access",
        lambda place, mode: mode == os.R_OK and Path(place).stat().st_mode & 0o400 != 0,
    )
    with pytest.raises(PrebuiltError) as caught:
        locate()
    assert str(caught.value) == (
        f"{ENVIRONMENT} names {str(path)!r}, which {problem}. "
        "Nothing else is tried while it is set: correct it or unset it. [E-ENV]"
    )
    found = look()
    assert str(found.error) == str(caught.value)
    assert verdict(found, "1") is Verdict.REJECTED
    assert {each.finding.verdict for each in found.steps[1:]} == {Verdict.NOT_REACHED}


def test_a_named_library_may_have_to_have_a_hash(world: World) -> None:
    named = world.write(world.root / "named.so", EVIL)
    world.monkeypatch.setenv(ENVIRONMENT, str(named))
    world.monkeypatch.setenv(f"{ENVIRONMENT}_SHA256", hashlib.sha256(EVIL).hexdigest().upper())
    assert locate() == named
    world.monkeypatch.setenv(f"{ENVIRONMENT}_SHA256", "0" * 64)
    with pytest.raises(
        PrebuiltError, match=r"has the sha256 .* where .*_SHA256 says 000"
    ) as caught:
        locate()
    assert caught.value.code == "E-HASH"


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_name_is_none(world: World, value: str | None) -> None:
    if value is not None:
        world.monkeypatch.setenv(ENVIRONMENT, value)
    assert step(look(), "1").finding.reason == "unset"


def test_a_name_is_ignored_where_the_environment_is(world: World) -> None:
    named = world.write(world.root / "named.so", EVIL)
    world.monkeypatch.setenv(ENVIRONMENT, str(named))
    world.monkeypatch.setattr(_places, "elevated", lambda: True)
    # The user's cache is found by HOME, then.
    world.monkeypatch.setenv("XDG_CACHE_HOME", str(world.root / "xdg"))
    found = look()
    assert verdict(found, "1") is Verdict.ABSENT
    assert "ignored" in step(found, "1").finding.reason


# --- trust ----------------------------------------------------------------------------------------


def sign(world: World, library: Path, tag: str, content: bytes, **changes: Any) -> Manifest:
    """What the setup tool leaves beside a library of a release that is not pinned."""
    digest = hashlib.sha256(content).hexdigest()
    artifact = Artifact("a.tar.gz", 9, "0" * 64, FILE, len(content), digest)
    release = replace(manifest(), tag=tag, version="x", artifacts={LABEL: artifact}, **changes)
    text = release.write().encode()
    folder = library.parent.parent
    (library.parent / "install.json").write_text("{}")
    (folder / "manifest.json").write_bytes(text)
    signature = b"signed by key:" + hashlib.sha256(text).hexdigest().encode()
    (folder / "manifest.json.minisig").write_bytes(signature)
    return release


def of(world: World, base: Path, tag: str, content: bytes = SIGNED) -> Path:
    return world.write(base / "prebuilt" / tag / LABEL / FILE, content)


@pytest.mark.parametrize("place", ["project", "repository", "cache"])
def test_a_signed_later_release_is_taken_before_the_packages_own(world: World, place: str) -> None:
    base = getattr(world, place) / ("" if place == "cache" else ".server_native")
    own = of(world, base, TAG, GOOD)
    assert locate() == own
    path = of(world, base, NEWER)
    sign(world, path, NEWER, SIGNED)
    chosen = look().chosen
    assert chosen is not None
    assert (chosen.path, chosen.trust) == (path, Trust.SIGNED)


def test_of_several_later_releases_the_latest_is_taken(world: World) -> None:
    tags = [f"server-native-prebuilt-v{version}" for version in ("1.2.0", "1.10.0", "1.10.1-rc1")]
    for tag in tags:
        sign(world, of(world, world.cache, tag), tag, SIGNED)
    assert tags[2] in str(locate())
    shutil.rmtree(world.cache / "prebuilt" / tags[2])
    assert tags[1] in str(locate())


def test_an_earlier_release_is_not_looked_at_however_it_is_signed(world: World) -> None:
    sign(world, of(world, world.cache, OLDER), OLDER, SIGNED)
    assert verdict(look(), "9") is Verdict.ABSENT


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / LABEL / "install.json").unlink(), "no install.json is beside it"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json is beside it"),
        (
            lambda folder: (folder / "manifest.json.minisig").unlink(),
            "no signature that can be read (No such file or directory)",
        ),
        (
            lambda folder: (folder / "manifest.json.minisig").write_bytes(b"forged"),
            "cannot be trusted: the signature does not fit [E-SIG]",
        ),
        (
            lambda folder: (folder / "manifest.json").write_bytes(b"{}"),
            "cannot be trusted: the signature does not fit [E-SIG]",
        ),
        (
            lambda folder: (folder / LABEL / FILE).write_bytes(EVIL),
            "its signed manifest has another hash",
        ),
    ],
)
def test_without_all_that_makes_it_signed_it_is_not(
    world: World, harm: Callable[[Path], object], reason: str
) -> None:
    path = of(world, world.cache, NEWER)
    sign(world, path, NEWER, SIGNED)
    assert locate() == path
    harm(world.cache / "prebuilt" / NEWER)
    assert reason in rejected_in(world, "9")


def rejected_in(world: World, number: str) -> str:
    found = look()
    assert verdict(found, number) is Verdict.REJECTED
    return step(found, number).finding.reason


def test_a_signed_manifest_of_another_release_does_not_help(world: World) -> None:
    path = of(world, world.cache, NEWER)
    sign(world, path, OLDER, SIGNED)
    assert f"its manifest is of {OLDER}, not of {NEWER}" in rejected_in(world, "9")


def test_a_signature_cannot_change_what_the_package_pins(world: World) -> None:
    sign(world, of(world, world.cache, TAG), TAG, SIGNED)
    assert "is not the pinned" in rejected_in(world, "9")


def test_a_package_that_pins_nothing_takes_its_own_release_signed(world: World) -> None:
    world.pin(manifest(artifacts={}, abi=None))
    path = of(world, world.cache, TAG)
    sign(world, path, TAG, SIGNED)
    assert locate() == path


def test_a_package_without_keys_takes_no_signature(world: World) -> None:
    world.pin(manifest(keys=()))
    sign(world, of(world, world.cache, NEWER), NEWER, SIGNED)
    assert "this package has no keys" in rejected_in(world, "9")


@pytest.mark.parametrize("signed", [False, True])
def test_another_abi_is_refused_before_it_is_loaded(world: World, signed: bool) -> None:
    other = "0" * 16
    if signed:
        sign(world, of(world, world.cache, NEWER), NEWER, SIGNED, abi=other)
    else:
        world.pin(manifest(abi=other))
        world.put("9")
    assert f"ABI {other}, where the bindings need " in rejected_in(world, "9")


def test_what_this_user_has_built_is_taken_wherever_it_lies(world: World) -> None:
    built = world.write(world.root / "elsewhere" / FILE, BUILT)
    path = world.put("2", BUILT)
    assert look().chosen is None
    _trust.stamp(built, digest=_trust.sha256(built), tree="0" * 64, glance="")
    chosen = look().chosen
    assert chosen is not None
    assert (chosen.path, chosen.trust) == (path, Trust.LOCAL)


def test_a_stamp_that_says_nothing_of_a_build_vouches_for_nothing(world: World) -> None:
    path = world.put("2", EVIL)
    _trust.stamp(path, digest=_trust.sha256(path))
    assert verdict(look(), "2") is Verdict.REJECTED


def test_a_stamp_in_a_cache_of_everybody_vouches_for_nothing(world: World) -> None:
    path = world.put("2", BUILT)
    _trust.stamp(path, digest=_trust.sha256(path), tree="0" * 64, glance="")
    assert look().chosen is not None
    for mode, folder in ((0o777, world.cache), (0o770, world.cache / "stamps")):
        folder.chmod(mode)
        assert verdict(look(), "2") is Verdict.REJECTED
        folder.chmod(0o700)
    assert look().chosen is not None


def test_unverified_is_said_each_time(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.put("2", EVIL)
    world.monkeypatch.setenv("SERVER_NATIVE_ALLOW_UNVERIFIED", "1")
    for _ in range(2):
        assert locate() == path
        said = capsys.readouterr().err
        assert said.startswith(f"server_native: loading {path}, which nothing vouches for")
        assert said.count("\n") == 1
    chosen = look().chosen
    assert chosen is not None
    assert chosen.trust is Trust.NONE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["0", "no", "", "maybe"])
def test_unverified_must_be_allowed_in_so_many_words(world: World, value: str) -> None:
    world.put("2", EVIL)
    world.monkeypatch.setenv("SERVER_NATIVE_ALLOW_UNVERIFIED", value)
    assert look().chosen is None


def test_each_time_the_hash_is_taken_unless_a_stamp_is_to_do(world: World) -> None:
    path = world.put("9")
    hashed: list[Path] = []
    plain = _trust.sha256

    def counted(file: Path) -> str:
        hashed.append(file)
        return plain(file)

    world.monkeypatch.setattr(_trust, "sha256", counted)
    locate()
    locate()
    assert hashed == [path, path]
    world.monkeypatch.setenv("SERVER_NATIVE_VERIFY", "stamp")
    # The cache is made by whoever puts something there.
    for _ in range(3):
        assert locate() == path
    assert hashed == [path] * 3
    path.write_bytes(EVIL)
    assert verdict(look(), "9") is Verdict.REJECTED
    assert hashed == [path] * 4
    world.monkeypatch.setenv("SERVER_NATIVE_VERIFY", "never")
    with pytest.raises(PrebuiltError, match="must be always or stamp, found 'never'"):
        locate()


# --- owners, links, modes -------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["2", "3", "4", "5", "9"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_folder_that_others_can_write_to_is_refused(world: World, number: str, mode: int) -> None:
    path = world.put(number)
    path.parent.chmod(mode)
    assert f"{path.parent} can be written by " in rejected(world, number)


@pytest.mark.parametrize("number", ["2", "9"])
def test_a_file_that_others_can_write_to_is_refused(world: World, number: str) -> None:
    path = world.put(number)
    path.chmod(0o666)
    assert f"{path} can be written by everybody (mode 0666)" in rejected(world, number)


def test_a_project_may_be_a_groups_but_not_everybodys(world: World) -> None:
    path = world.put("2")
    world.project.chmod(0o775)
    assert locate() == path
    world.project.chmod(0o777)
    assert f"{world.project} can be written by everybody" in rejected(world, "2")


def test_a_cache_may_not_even_be_a_groups(world: World) -> None:
    world.put("9")
    world.cache.chmod(0o770)
    assert f"{world.cache} can be written by its group" in rejected(world, "9")


@AS_ROOT
@pytest.mark.parametrize(
    ("number", "owned"),
    [
        ("2", lambda world: world.project),
        ("2", lambda world: world.project / ".server_native"),
        ("2", lambda world: world.places()["2"].parent),
        ("2", lambda world: world.places()["2"]),
        ("4", lambda world: world.repository),
        ("9", lambda world: world.cache),
        ("9", lambda world: world.places()["9"]),
    ],
)
def test_what_belongs_to_another_user_is_refused(
    world: World, number: str, owned: Callable[[World], Path]
) -> None:
    world.put(number)
    os.chown(owned(world), 12345, -1)
    assert f"{owned(world)} belongs to user 12345, not to 0" in rejected(world, number)


@pytest.mark.parametrize(
    "linked",
    [
        lambda world, path: path,
        lambda world, path: path.parent,
        lambda world, path: path.parent.parent,
        lambda world, path: world.project / ".server_native",
    ],
)
def test_a_symlink_on_the_way_is_refused(
    world: World, linked: Callable[[World, Path], Path]
) -> None:
    path = world.put("2")
    link = linked(world, path)
    real = world.root / "real"
    link.rename(real)
    link.symlink_to(real)
    assert f"{link} is a symlink" in rejected(world, "2")


def test_the_cache_itself_may_be_a_symlink(world: World) -> None:
    path = world.put("9")
    world.cache.rename(world.root / "disk")
    world.cache.symlink_to(world.root / "disk")
    assert locate() == path


def test_a_wheels_copy_belongs_to_whoever_installed_it(world: World) -> None:
    path = world.put("6")
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    assert locate() == path


def test_a_folder_in_the_place_of_the_file_is_none(world: World) -> None:
    world.places()["2"].mkdir(parents=True)
    assert rejected(world, "2") == "not a file"


@pytest.mark.parametrize("root", [True, False])
def test_what_cannot_be_read_is_refused(world: World, root: bool) -> None:
    path = world.put("2")
    if root:
        # For root there is no such file: what the system says is made up.
        def denied(_: Path) -> str:
            raise PermissionError(13, "Permission denied")

        world.monkeypatch.setattr(_trust, "sha256", denied)
    elif os.geteuid() == 0:
        pytest.skip("root may read everything")
    else:
        path.chmod(0o000)
    assert rejected(world, "2") == "unreadable: Permission denied"


def test_a_file_too_large_is_not_even_hashed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("2")
    monkeypatch.setattr(_trust, "LIBRARY_BYTES", len(GOOD) - 1)
    monkeypatch.setattr(_trust, "sha256", None)
    assert (
        rejected(world, "2")
        == f"{len(GOOD)} bytes are more than the {len(GOOD) - 1} a library may have"
    )


# --- hosts ----------------------------------------------------------------------------------------


def test_on_a_host_without_a_label_only_a_named_or_a_built_library_counts(world: World) -> None:
    for place in world.places():
        world.put(place)
    world.on(Host(None, "FreeBSD is none. What to do: build it", text="unsupported (FreeBSD)"))
    found = look()
    for number in "2345678":
        assert verdict(found, number) is Verdict.SKIPPED
    assert verdict(found, "10") is Verdict.SKIPPED
    with pytest.raises(PrebuiltError, match=r"FreeBSD is none\. What to do: build it") as caught:
        locate()
    assert caught.value.code == "E-PLATFORM"
    named = world.write(world.root / "own.so", BUILT)
    world.monkeypatch.setenv(ENVIRONMENT, str(named))
    assert locate() == named


def test_on_ios_the_apps_framework_is_the_library(world: World) -> None:
    world.on(Host("ios-arm64", text="ios-arm64"))
    app = world.root / "Example.app"
    world.monkeypatch.setattr(sys, "executable", str(app / "python"))
    assert verdict(look(), "6") is Verdict.ABSENT
    for number in ("10", "11"):
        assert verdict(look(), number) is Verdict.SKIPPED
    path = world.write(app / "Frameworks" / "server_native.framework" / "server_native", EVIL)
    chosen = look().chosen
    assert chosen is not None
    assert (chosen.path, chosen.trust) == (path, Trust.BUNDLED)


# --- 10: fetched ----------------------------------------------------------------------------------


def test_the_release_of_the_package_is_fetched_into_the_users_cache(world: World) -> None:
    asked: list[tuple[object, ...]] = []

    def install(made: Manifest, label: str, target: Path, *, sources: object) -> Path:
        asked.append((made.tag, label, target, sources))
        return world.put("9")

    fake(world.monkeypatch, "install", install=install)
    assert look().pending is not None
    assert asked == []
    path = locate()
    assert path == world.places()["9"]
    assert asked == [(TAG, LABEL, world.cache, ("https://example.org/",))]
    # From now on it is there.
    assert locate() == path
    assert len(asked) == 1
    path.unlink()
    world.monkeypatch.setenv(
        "SERVER_NATIVE_BASE_URL", "file:///srv/bundle, https://mirror.example/,"
    )
    locate()
    assert asked[1][3] == ("file:///srv/bundle", "https://mirror.example/")


def test_what_was_fetched_is_looked_at_like_everything_else(world: World) -> None:
    fake(world.monkeypatch, "install", install=lambda *_, **__: world.put("9", EVIL))
    found = search(download=True, build=False)
    assert verdict(found, "10") is Verdict.REJECTED
    assert found.chosen is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SERVER_NATIVE_OFFLINE", "1", "SERVER_NATIVE_OFFLINE is set"),
        ("SERVER_NATIVE_AUTO_DOWNLOAD", "0", "SERVER_NATIVE_AUTO_DOWNLOAD is off"),
    ],
)
def test_nothing_is_fetched_where_that_is_off(
    world: World, name: str, value: str, reason: str
) -> None:
    fake(world.monkeypatch, "install", install=None)
    world.monkeypatch.setenv(name, value)
    with pytest.raises(PrebuiltError) as caught:
        locate()
    assert caught.value.code == "E-NOLIB"
    finding = step(look(), "10").finding
    assert (finding.verdict, finding.reason) == (Verdict.SKIPPED, reason)


def test_nothing_is_fetched_that_is_not_pinned(world: World) -> None:
    fake(world.monkeypatch, "install", install=None)
    world.pin(manifest(artifacts={}, abi=None))
    assert (
        "pins no library for linux-x64"
        in step(search(download=True, build=True), "10").finding.reason
    )


def test_without_requests_the_other_ways_are_still_tried(world: World) -> None:
    def install(*_: object, **__: object) -> Path:
        raise ModuleNotFoundError("No module named 'requests'")

    fake(world.monkeypatch, "install", install=install)
    found = search(download=True, build=True)
    assert step(found, "10").finding.reason == "No module named 'requests'"
    assert verdict(found, "11") is Verdict.SKIPPED


# --- straight to the sources ----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "true", "YES", " yes "])
def test_prebuilt_libraries_can_be_turned_off(world: World, value: str) -> None:
    for place in world.places():
        world.put(place)
    world.monkeypatch.setenv(ENVIRONMENT, str(world.write(world.root / "named.so", GOOD)))
    world.monkeypatch.setenv("SERVER_NATIVE_DISABLE_PREBUILT", value)
    found = search(download=True, build=True)
    assert {each.finding.verdict for each in found.steps} == {Verdict.SKIPPED}
    assert step(found, "11").finding.reason == "the sources are not beside this package"
    with pytest.raises(PrebuiltError):
        locate()


def test_what_build_is_must_be_one_of_three(world: World) -> None:
    world.monkeypatch.setenv("SERVER_NATIVE_BUILD", "perhaps")
    with pytest.raises(
        PrebuiltError, match="must be auto, never or always, found 'perhaps'"
    ) as caught:
        locate()
    assert caught.value.code == "E-ENV"


def test_a_user_without_a_home_has_the_other_places(world: World) -> None:
    def homeless() -> Path:
        raise PrebuiltError("E-PERM", "this user has no home folder")

    world.monkeypatch.setattr(_places, "user_cache", homeless)
    world.monkeypatch.setattr(_trust, "user_cache", homeless)
    assert verdict(look(), "9") is Verdict.SKIPPED
    expected = world.put("6")
    assert locate() == expected


def test_file_name_is_what_the_error_names(world: World) -> None:
    with pytest.raises(PrebuiltError, match=file_name()):
        locate()
