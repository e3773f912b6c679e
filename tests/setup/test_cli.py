"""The setup tool as its users run it: from projects, from homes, and where no network is."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from server_native import _library
from server_native._manifest import Artifact, Manifest
from server_native._platform import PLATFORMS, host
from tests.setup.made import FOREIGN, artifact, entry, manifest, packed, put
from tests.setup.releases import Key, Mirror, Ran, User, index, mirror

LABEL = host().label or ""
OWN = "server-native-prebuilt-v0.1.0"
LATER = "server-native-prebuilt-v0.2.0"


@dataclass
class World:
    user: User
    folder: Path
    mirror: Mirror
    own: Manifest
    archive: bytes
    payload: bytes
    other_archive: bytes

    @property
    def other(self) -> Artifact:
        return artifact(LABEL, self.other_archive, self.payload + b"other")

    @property
    def in_project(self) -> Path:
        return (
            self.user.project / ".server_native" / "prebuilt" / OWN / LABEL / PLATFORMS[LABEL].file
        )

    @property
    def in_cache(self) -> Path:
        return self.user.cache / "prebuilt" / OWN / LABEL / PLATFORMS[LABEL].file

    def release(self, tag: str, key: Key | None = None, **changes: object) -> Path:
        """Another release, with another library: bytes behind its end change nothing but the hash."""
        made = replace(self.own, tag=tag, artifacts={LABEL: self.other}, **changes)  # type: ignore[arg-type]
        folder = put(self.folder, made, {LABEL: self.other_archive})
        if key is not None:
            key.sign(folder)
        return folder

    def listed(self, tag: str, **changes: object) -> dict[str, object]:
        return {"tag": tag, "abi": self.own.abi, "complete": True, "platforms": [LABEL]} | changes


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    stripped = tmp_path_factory.mktemp("library") / "library"
    subprocess.run(["strip", "-o", stripped, _library.locate()], check=True)
    return stripped.read_bytes()


@pytest.fixture
def world(tmp_path: Path, library: bytes) -> Iterator[World]:
    archive = packed([entry(PLATFORMS[LABEL].file, library)])
    own = replace(manifest(LABEL, archive, library), tag=OWN, version="0.1.0")
    foreign = packed([entry(PLATFORMS[FOREIGN].file, b"foreign")])
    own.artifacts[FOREIGN] = artifact(FOREIGN, foreign, b"foreign")
    folder = tmp_path / "mirror"
    put(folder, own, {LABEL: archive, FOREIGN: foreign})
    with mirror(folder) as running:
        own = replace(own, base_urls=(running.url,))
        user = User(tmp_path, own)
        other = packed([entry(PLATFORMS[LABEL].file, library + b"other")])
        yield World(user, folder, running, own, archive, library, other)


def good(ran: Ran) -> str:
    assert ran.status == 0, ran.err
    return ran.err


def bad(ran: Ran, code: str, status: int) -> str:
    assert (ran.status, f"[{code}]" in ran.err) == (status, True), ran.err
    assert ran.out == ""
    return ran.err


def test_in_a_project_it_goes_into_the_projects_cache(world: World) -> None:
    below = world.user.project / "src"
    below.mkdir()
    said = good(world.user.sets_up(at=below))
    assert f"installed {world.in_project}" in said
    assert said.count(" % of ") <= 10, "a log is not filled"
    assert world.in_project.read_bytes() == world.payload
    assert not world.user.cache.exists()
    assert world.user.loads().out.startswith("0.1.0+")
    assert world.mirror.asked() == [f"/{OWN}/{PLATFORMS[LABEL].archive} 200"]


def test_elsewhere_it_goes_into_the_users_cache(world: World) -> None:
    good(world.user.sets_up("--quiet", at=world.user.home))
    assert world.in_cache.read_bytes() == world.payload
    path = world.user.sets_up("path", at=world.user.home)
    assert (path.status, path.out, path.err) == (0, f"{world.in_cache}\n", "")
    assert world.user.loads(at=world.user.home).out.startswith("0.1.0+")
    again = world.user.sets_up("--quiet", at=world.user.home)
    assert (again.status, again.out, again.err) == (0, "", "")
    assert len(world.mirror.asked()) == 1, "what is there is not fetched again"


def test_the_first_use_fetches_it_and_says_so(world: World) -> None:
    ran = world.user.loads()
    assert ran.out.startswith("0.1.0+")
    assert f"fetching {PLATFORMS[LABEL].archive} of {OWN}" in ran.err
    assert world.in_cache.read_bytes() == world.payload
    world.user.variables["SERVER_NATIVE_OFFLINE"] = "1"
    assert world.user.loads().err == ""


def test_offline_without_a_library_says_what_to_do(world: World) -> None:
    world.user.variables["SERVER_NATIVE_OFFLINE"] = "1"
    assert "SERVER_NATIVE_OFFLINE is set" in bad(world.user.sets_up(), "E-OFFLINE", 4)
    ran = world.user.loads()
    assert ran.status == 1
    assert "[E-NOLIB]" in ran.err
    assert world.mirror.asked() == []


def test_latest_is_the_newest_that_fits(world: World) -> None:
    key = Key()
    tags = [f"server-native-prebuilt-v0.{minor}.0" for minor in (5, 4, 3, 2)]
    for tag in tags:
        world.release(tag, key)
    index(
        world.folder,
        world.listed(tags[0], complete=False),
        world.listed(tags[1], abi="0" * 16),
        world.listed(tags[2], platforms=[FOREIGN]),
        world.listed(tags[3]),
        world.listed(OWN),
    )
    world.user.variables["SERVER_NATIVE_PUBLIC_KEY"] = key.public
    said = good(world.user.sets_up("--tag", "latest"))
    assert f"latest is {LATER}" in said
    assert "trust: signed (a release)" in said
    assert "This interpreter" not in said, "a later one that is signed is taken"
    explained = json.loads(world.user.sets_up("explain", "--json").out)
    assert (explained["trust"], LATER in explained["path"]) == ("signed", True)
    assert world.user.loads().out.startswith("0.1.0+")


def test_nothing_fits(world: World) -> None:
    index(world.folder, world.listed(LATER, complete=False))
    assert "no complete release" in bad(world.user.sets_up("--tag", "latest"), "E-404", 6)
    index(world.folder)
    bad(world.user.sets_up("-t", "latest"), "E-404", 6)
    (world.folder / "index.json").write_text("<html>")
    bad(world.user.sets_up("-t", "latest"), "E-ARCHIVE", 8)


def test_another_release_needs_somebody_to_vouch_for_it(world: World) -> None:
    folder = world.release(LATER)
    digest = world.other.archive_sha256
    assert "nothing vouches for" in bad(world.user.sets_up("--tag", LATER), "E-SIG", 7)
    assert "you say" in bad(world.user.sets_up("--tag", LATER, "--sha256", "0" * 64), "E-HASH", 7)
    said = good(world.user.sets_up("--tag", LATER, "--sha256", digest))
    assert "This interpreter" in said, "it is there, and not taken by itself"
    assert said.count("the hash you gave") == 1
    said = good(world.user.sets_up("--tag", LATER, "--allow-unverified", "--force"))
    assert "--allow-unverified says so" in said
    Key().sign(folder)
    assert "which is not trusted" in bad(world.user.sets_up("--tag", LATER), "E-SIG", 7)


def test_a_signed_release_with_another_library_in_it(world: World) -> None:
    key = Key()
    folder = world.release(LATER, key)
    world.user.variables["SERVER_NATIVE_PUBLIC_KEY"] = key.public
    path = folder / PLATFORMS[LABEL].archive
    path.write_bytes(path.read_bytes()[::-1])
    bad(world.user.sets_up("--tag", LATER), "E-HASH", 7)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(LATER, OWN))
    bad(world.user.sets_up("--tag", LATER), "E-SIG", 7)
    world.release("server-native-prebuilt-v0.3.0", key, abi="0" * 16)
    bad(world.user.sets_up("--tag", "server-native-prebuilt-v0.3.0"), "E-ABI", 11)


@pytest.mark.parametrize("tag", ["v1", "../../etc", "server-native-prebuilt-v1/../x", ""])
def test_what_is_no_tag(world: World, tag: str) -> None:
    bad(world.user.sets_up("--tag", tag), "E-ENV", 2)
    assert world.mirror.asked() == []


def test_a_tag_that_is_not_there(world: World) -> None:
    text = bad(world.user.sets_up("--tag", LATER), "E-404", 6)
    assert f"{world.mirror.url}/{LATER}/manifest.json: answered 404" in text
    assert "Releases that are there" not in text
    index(world.folder, world.listed(OWN), world.listed("server-native-prebuilt-v0.0.9"))
    text = bad(world.user.sets_up("--tag", LATER), "E-404", 6)
    assert f"Releases that are there: {OWN}, server-native-prebuilt-v0.0.9." in text


def without_routes() -> tuple[str, ...]:
    """What takes the network away, where that is permitted: tests/distribution/test_airgapped.py insists on it."""
    if (
        shutil.which("unshare")
        and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0
    ):
        return ("unshare", "-n")
    return ()


def test_a_bundle_is_carried_to_where_no_network_is(world: World, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    made = world.user.sets_up("--download-only", str(bundle), "--all-platforms", "--json")
    data = json.loads(made.out)
    assert data["platforms"] == sorted([LABEL, FOREIGN])
    assert sorted(map(Path, data["files"])) == sorted(
        path for path in bundle.rglob("*") if path.is_file()
    )
    world.mirror.process.terminate()
    carried = shutil.move(bundle, tmp_path / "carried ü")
    said = good(world.user.sets_up("--from", str(carried), wrapped=without_routes()))
    assert f"installed {world.in_project}" in said
    archive = Path(carried) / OWN / PLATFORMS[LABEL].archive
    for source in (Path(carried) / OWN, archive):
        good(world.user.sets_up("--from", str(source), "--force"))
    # As everybody's mirror.
    world.user.variables["SERVER_NATIVE_BASE_URL"] = (
        f"https://mirror.invalid,{Path(carried).as_uri()}"
    )
    world.user.variables["SERVER_NATIVE_RETRIES"] = "1"
    world.user.variables["SERVER_NATIVE_OFFLINE"] = "1"
    good(world.user.sets_up("--force"))
    archive.write_bytes(archive.read_bytes()[::-1])
    bad(world.user.sets_up("--from", str(carried), "--force"), "E-HASH", 7)


def test_what_is_no_bundle(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for source in (empty, tmp_path / "none"):
        assert "is no bundle" in bad(world.user.sets_up("--from", str(source)), "E-404", 6)


def test_what_would_be_done(world: World) -> None:
    ran = world.user.sets_up("--dry-run", "--json")
    data = json.loads(ran.out)
    assert data["path"] == str(world.in_project)
    assert data["sources"] == [f"{world.mirror.url}/{OWN}/{PLATFORMS[LABEL].archive}"]
    assert data["trust"] == "pinned"
    assert not world.in_project.exists()
    assert world.mirror.asked() == []


def test_for_another_machine(world: World) -> None:
    good(world.user.sets_up("--platform", FOREIGN))
    path = world.in_project.parents[1] / FOREIGN / PLATFORMS[FOREIGN].file
    assert path.read_bytes() == b"foreign"
    text = bad(world.user.sets_up("-p", "linux-x64", "--libc", "musl"), "E-404", 6)
    assert "has no library for linux-musl-x64" in text


def test_looking_at_what_is_there_and_cleaning_up(world: World) -> None:
    good(world.user.sets_up())
    good(world.user.sets_up(at=world.user.home))
    good(world.user.sets_up("--platform", FOREIGN))
    listed = json.loads(world.user.sets_up("list", "--json").out)["installed"]
    places = [path.parent.name for path in (world.in_project, world.in_cache)]
    assert sorted(each["platform"] for each in listed) == sorted([FOREIGN, *places])
    assert {each["tag"] for each in listed} == {OWN}
    assert "as installed" in good(world.user.sets_up("verify"))
    assert f"the library of {OWN} for {LABEL}" in good(
        world.user.sets_up("verify", str(world.in_cache))
    )
    world.in_project.write_bytes(b"changed")
    ran = world.user.sets_up("verify", "--json")
    assert (ran.status, json.loads(ran.out)["ok"]) == (1, False)
    assert world.user.sets_up("verify", str(world.in_project)).status == 1
    doctor = world.user.sets_up("doctor")
    assert doctor.status == 1
    assert "BAD installed" in doctor.err
    good(world.user.sets_up("clean", "--keep-current"))
    assert [path.name for path in world.in_project.parents[1].iterdir()] == [LABEL]
    good(world.user.sets_up("clean"))
    assert "nothing is installed" in good(world.user.sets_up("list"))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_nothing_is_removed_behind_a_link(world: World, tmp_path: Path, level: int) -> None:
    """A cloned project may bring one that leads to whatever its user holds dear."""
    dear = tmp_path / "dear"
    way = world.in_project.parent.relative_to(world.user.project).parts
    link = world.user.project.joinpath(*way[: level + 1])
    file = dear.joinpath(*way[level + 1 :], PLATFORMS[LABEL].file)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"dear")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(dear)
    assert "nothing was there" in good(world.user.sets_up("clean"))
    assert "nothing is installed" in good(world.user.sets_up("list"))
    assert file.read_bytes() == b"dear"
    bad(world.user.sets_up(), "E-PERM", 9)


def test_a_bundle_on_a_full_disk(world: World, tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
from server_native.setup.cli import main
sys.exit(main(["--download-only", {str(tmp_path / "bundle")!r}, "--quiet"]))
"""
    bad(world.user.runs("-c", program), "E-SPACE", 9)
    assert list((tmp_path / "bundle" / OWN).iterdir()) == []


def test_an_interrupt_leaves_nothing(world: World) -> None:
    program = """
import signal, sys, os
from server_native.setup import download
def interrupted(self, *arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("not reached")
download.Download._open = interrupted
from server_native.setup.cli import main
sys.exit(main([]))
"""
    ran = world.user.runs("-c", program)
    assert (ran.status, ran.out, "interrupted" in ran.err) == (130, "", True)
    assert "Traceback" not in ran.err
    assert [path.name for path in world.in_project.parent.iterdir()] == [".lock"]


def test_doctor_finds_nothing_wrong_where_nothing_is(world: World) -> None:
    index(world.folder, world.listed(OWN))
    good(world.user.sets_up())
    ran = world.user.sets_up("doctor", "--json")
    data = json.loads(ran.out)
    assert (ran.status, data["ok"]) == (0, True), data
    assert [check["name"].split(" ")[0] for check in data["checks"]] == [
        "host",
        "cache",
        "lock",
        "installed",
        "library",
        "mirror",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--platform", "amiga"),
        ("--sha256", "abc"),
        ("--all-platforms",),
        ("--all-platforms", "--download-only", "x", "--sha256", "0" * 64),
        ("nonsense",),
        ("--nonsense",),
    ],
)
def test_what_is_no_command(world: World, arguments: tuple[str, ...]) -> None:
    ran = world.user.sets_up(*arguments)
    assert (ran.status, ran.out, "Try --help" in ran.err) == (64, "", True)


def test_an_error_for_programs(world: World) -> None:
    ran = world.user.sets_up("--tag", LATER, "--json")
    assert (ran.status, json.loads(ran.out)["error"]["code"]) == (6, "E-404")


def test_without_a_home_a_project_has_its_own_cache(world: World) -> None:
    no_home = ("env", "-u", "HOME")
    assert f"installed {world.in_project}" in good(world.user.sets_up(wrapped=no_home))


@pytest.mark.parametrize("mask", ["000", "077"])
def test_whatever_the_umask_nobody_else_can_change_it(world: World, mask: str) -> None:
    masked = ("sh", "-c", f'umask {mask}; exec "$@"', "sh")
    good(world.user.sets_up(at=world.user.home, wrapped=masked))
    assert stat.S_IMODE(world.user.cache.stat().st_mode) == 0o700
    for path in (world.user.cache, *world.user.cache.rglob("*")):
        assert path.stat().st_mode & 0o022 == 0, path
    assert str(world.own.abi) in world.user.loads(at=world.user.home).out


def test_a_home_that_is_not_there(world: World) -> None:
    world.user.variables["SERVER_NATIVE_CACHE_DIR"] = "relative"
    assert "must be an absolute path" in bad(world.user.sets_up(at=world.user.home), "E-ENV", 2)


def test_a_terminal_has_a_bar(world: World) -> None:
    parent, child = pty.openpty()
    try:
        done = subprocess.run(
            ["sh", "-c", f'"$@" 2>/dev/fd/{child}', "sh", *_python(), "-m", "server_native.setup"],
            cwd=world.user.project,
            env={**world.user._environment(), "CI": "", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            pass_fds=(child,),
            timeout=60,
            check=False,
        )
        shown = os.read(parent, 65_536).decode()
    finally:
        os.close(parent)
        os.close(child)
    assert done.returncode == 0, shown
    assert "[##############################]" in shown
    assert "\x1b" not in shown


def _python() -> tuple[str, ...]:
    import sys

    return (sys.executable,)
