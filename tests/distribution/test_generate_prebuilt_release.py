"""Releases: written from the archives, signed as minisign signs, public only when everything came back whole."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from server_native import _platform
from server_native._bindings import abi
from server_native._manifest import Manifest, package_manifest
from server_native._platform import PLATFORMS
from tests.distribution.artifacts import LINUX, archive, payload
from tools import generate_prebuilt_release, release_contents
from tools.minisign_signer import SecretKey, SigningError, verify
from tools.release_contents import INDEX, MANIFEST, SIGNATURE, ReleaseError, contents, index

pytestmark = pytest.mark.skipif(
    _platform.host().label != "linux-x64" or shutil.which("gcc") is None,
    reason="compiles libraries for linux-x64",
)
Tool = Callable[..., int]
SEED = bytes(range(32))


def key_file(folder: Path, *, locked: bool = False) -> Path:
    """As `minisign -G -W` writes it."""
    number = b"12345678"
    key = SecretKey(number, SEED)
    public = base64.b64decode(key.public)[10:]
    kind = b"Sc" if locked else bytes(2)
    raw = b"Ed" + kind + b"B2" + bytes(48) + number + SEED + public + bytes(32)
    path = folder / "release.key"
    path.write_text(f"untrusted comment: a key\n{base64.b64encode(raw).decode()}\n")
    return path


KEY = SecretKey(b"12345678", SEED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One archive."""
    return archive(tmp_path / "release").parent


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Tool:
    """The command, on that folder, for a package that heeds :data:`KEY`."""
    monkeypatch.delenv(generate_prebuilt_release.KEY, raising=False)
    plan = replace(package_manifest(), keys=(KEY.public,))
    monkeypatch.setattr(release_contents, "package_manifest", lambda: plan)

    def run(command: str, *options: str | Path) -> int:
        arguments = ["tool", command, str(folder), "--partial", *map(str, options)]
        monkeypatch.setattr(sys, "argv", arguments)
        return generate_prebuilt_release.main()

    return run


# --- manifest and index ---------------------------------------------------------------------------


def test_the_manifest_is_that_of_the_archives(folder: Path, tool: Tool) -> None:
    assert tool("manifest") == 0
    found = Manifest.parse((folder / MANIFEST).read_bytes(), MANIFEST)
    packed = (folder / LINUX.archive).read_bytes()
    artifact = found.artifacts["linux-x64"]
    assert artifact.archive_size == len(packed)
    assert artifact.archive_sha256 == hashlib.sha256(packed).hexdigest()
    assert (artifact.libc, artifact.min_libc, artifact.member) == ("glibc", "2.17", LINUX.file)
    assert artifact.payload_size == len(payload())
    assert artifact.payload_sha256 == hashlib.sha256(payload()).hexdigest()
    assert found.abi == f"{abi.ABI_HASH:016x}"
    assert (found.tag, found.base_urls) == (package_manifest().tag, package_manifest().base_urls)


def test_the_index_lists_releases_once_the_newest_first(folder: Path, tool: Tool) -> None:
    older = {"tag": "server-native-prebuilt-v0.0.9", "complete": True}
    (folder / INDEX).write_text(json.dumps({"schema": 1, "releases": [older]}))
    assert tool("manifest") == 0
    # A second run finds its own entry in the index before.
    assert tool("manifest") == 0
    newest, old = json.loads((folder / INDEX).read_text())["releases"]
    assert old == older
    assert newest["tag"] == package_manifest().tag
    assert newest["complete"] is False
    assert newest["platforms"] == ["linux-x64"]
    assert newest["abi"] == f"{abi.ABI_HASH:016x}"
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert newest["manifest_sha256"] == digest


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "releases": [{}]}'])
def test_an_index_that_cannot_be_read_is_not_replaced(text: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be read"):
        index(package_manifest(), text, complete=True)


def test_check_tells_what_is_stale(
    folder: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    assert tool("manifest", "--check") == 0
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    capsys.readouterr()
    assert tool("manifest", "--check") == 1
    assert '-  "schema": 2' in capsys.readouterr().out
    assert '"schema": 2' in path.read_text()


def test_a_platform_may_be_missing_only_if_that_is_said(folder: Path) -> None:
    with pytest.raises(ReleaseError, match=r"no archive for linux-arm64, .*--partial"):
        contents(folder, previous=None, key=None)


def test_a_stranger_among_the_archives_is_refused(folder: Path) -> None:
    (folder / "server_native-linux-mips.tar.gz").write_bytes(b"")
    with pytest.raises(ReleaseError, match="linux-mips"):
        contents(folder, previous=None, key=None, partial=True)


def test_a_library_under_the_label_of_another_is_refused(folder: Path) -> None:
    (folder / LINUX.archive).rename(folder / PLATFORMS["linux-arm64"].archive)
    with pytest.raises(ReleaseError, match="expected AARCH64, found X86_64"):
        contents(folder, previous=None, key=None, partial=True)


def test_an_archive_that_is_cut_off_is_refused(folder: Path) -> None:
    path = folder / LINUX.archive
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ReleaseError, match="is no archive"):
        contents(folder, previous=None, key=None, partial=True)


def test_the_package_is_pinned_to_what_lies_there(folder: Path, tool: Tool, tmp_path: Path) -> None:
    assert tool("manifest") == 0
    assert tool("pin", "--pinned", tmp_path / "pinned") == 0
    assert (tmp_path / "pinned").read_bytes() == (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_text("{}")
    assert tool("pin", "--pinned", tmp_path / "other") == 1
    assert not (tmp_path / "other").exists()


# --- signatures -----------------------------------------------------------------------------------


def test_the_signature_is_of_the_manifest(folder: Path, tool: Tool, tmp_path: Path) -> None:
    assert tool("manifest", "--key", key_file(tmp_path)) == 0
    text, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_text()
    verify(text, signature, (KEY.public,))
    with pytest.raises(SigningError, match="not of this file"):
        verify(text + b" ", signature, (KEY.public,))
    with pytest.raises(SigningError, match="not of this file"):
        verify(text, signature.replace("comment: server", "comment: Server"), (KEY.public,))
    with pytest.raises(SigningError, match="none of the keys"):
        verify(text, signature, (SecretKey(b"87654321", SEED).public,))
    other = SecretKey(b"12345678", SEED[::-1])
    with pytest.raises(SigningError, match="not of this file"):
        verify(text, signature, (other.public,))


def test_minisign_itself_reads_key_and_signature(folder: Path, tool: Tool, tmp_path: Path) -> None:
    if shutil.which("minisign") is None:
        pytest.skip("minisign is not installed (`make test` installs it where it may)")
    key = key_file(tmp_path)
    assert tool("manifest", "--key", key) == 0
    command = ["minisign", "-V", "-P", KEY.public, "-m", str(folder / MANIFEST)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    # And ours reads what the program signs with the same key.
    command = ["minisign", "-S", "-s", str(key), "-m", str(folder / MANIFEST), "-x", "theirs"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    verify((folder / MANIFEST).read_bytes(), (tmp_path / "theirs").read_text(), (KEY.public,))


def test_the_key_may_come_from_the_environment(
    folder: Path, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(generate_prebuilt_release.KEY, key_file(tmp_path).read_text())
    assert tool("manifest") == 0
    verify((folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_text(), (KEY.public,))


def test_a_key_that_no_package_heeds_is_refused(folder: Path) -> None:
    with pytest.raises(ReleaseError, match="no package would heed this key"):
        contents(folder, previous=None, key=KEY, partial=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no secret key of minisign"),
        ("untrusted comment: a key\nRWTRRHNk7nu2En8dsZZ4i70q\n", "no secret key of minisign"),
        ("untrusted comment: a key\n%%%\n", "no secret key of minisign"),
    ],
)
def test_what_is_no_key_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SigningError, match=reason):
        SecretKey.parse(text, "the file")


def test_a_locked_or_damaged_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    text = key_file(tmp_path, locked=True).read_text()
    with pytest.raises(SigningError, match="locked with a password"):
        SecretKey.parse(text, "the file")
    raw = bytearray(base64.b64decode(key_file(tmp_path).read_text().splitlines()[1]))
    raw[70] ^= 1
    text = base64.b64encode(raw).decode()
    with pytest.raises(SigningError, match="do not belong together") as caught:
        SecretKey.parse(text, "the file")
    assert text not in str(caught.value)
    assert SEED.hex() not in repr(KEY)
    assert str(SEED) not in repr(KEY)


# --- steps ----------------------------------------------------------------------------------------

#: Keeps releases as folders in $GH_STORE; what is told of `gh release` in its manual, as far as it is used.
FAKE_GH = f"""#!{sys.executable}
import json, os, pathlib, shutil, sys
store = pathlib.Path(os.environ["GH_STORE"])
with (store / "log").open("a") as log:
    print(*sys.argv[1:], file=log)
_, verb, tag, *rest = sys.argv[1:]
assert rest[-2:] == ["--repo", "server-native/server_native"], rest
release = store / tag
files = release / "files"
if verb == "create":
    assert "--draft" in rest and not release.exists()
    files.mkdir(parents=True)
    (release / "draft").touch()
elif not release.exists():
    sys.exit("release not found")
elif verb == "view":
    print(json.dumps({{"isDraft": (release / "draft").exists()}}))
elif verb == "upload":
    for name in rest[1:-2]:
        shutil.copy(name, files)
    if os.environ.get("GH_BREAKS"):
        sys.exit("connection reset")
elif verb == "download":
    shutil.copytree(files, rest[1], dirs_exist_ok=True)
elif verb == "edit":
    assert "--draft=false" in rest
    (release / "draft").unlink()
else:
    sys.exit(f"unknown command {{verb}}")
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GitHub, as a folder."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(FAKE_GH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = tmp_path / "store"
    found.mkdir()
    monkeypatch.setenv("GH_STORE", str(found))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return found


def release(store: Path) -> Path:
    return store / package_manifest().tag


def test_a_release_step_by_step(folder: Path, tool: Tool, store: Path, tmp_path: Path) -> None:
    assert tool("manifest", "--key", key_file(tmp_path)) == 0
    for command in ("draft", "upload", "verify"):
        assert tool(command) == 0
        assert (release(store) / "draft").exists()
    assert tool("publish") == 0
    assert not (release(store) / "draft").exists()
    published = {path.name: path.read_bytes() for path in (release(store) / "files").iterdir()}
    assert published == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(published) == {LINUX.archive, MANIFEST, SIGNATURE, INDEX}


def test_each_step_may_be_run_again(
    tool: Tool, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tool("manifest") == 0
    assert tool("draft", "--unsigned") == 0
    assert tool("draft", "--unsigned") == 0
    monkeypatch.setenv("GH_BREAKS", "1")
    assert tool("upload", "--unsigned") == 1
    monkeypatch.delenv("GH_BREAKS")
    assert tool("upload", "--unsigned") == 0
    assert tool("publish", "--unsigned") == 0


@pytest.mark.parametrize("harm", ["changed", "missing", "stranger"])
def test_nothing_is_published_that_came_back_otherwise(
    tool: Tool, store: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    assert tool("draft", "--unsigned") == 0
    assert tool("upload", "--unsigned") == 0
    files = release(store) / "files"
    if harm == "changed":
        (files / LINUX.archive).write_bytes(b"")
    elif harm == "missing":
        (files / MANIFEST).unlink()
    else:
        (files / "stranger").touch()
    for command in ("verify", "publish"):
        assert tool(command, "--unsigned") == 1
        assert "is not what was uploaded" in capsys.readouterr().err
    assert (release(store) / "draft").exists()


def test_what_is_published_is_never_changed(tool: Tool, store: Path) -> None:
    assert tool("manifest") == 0
    for command in ("draft", "upload", "publish"):
        assert tool(command, "--unsigned") == 0
    before = {path: path.read_bytes() for path in release(store).rglob("*") if path.is_file()}
    for command in ("draft", "upload", "publish"):
        assert tool(command, "--unsigned") == 1
    after = {path: path.read_bytes() for path in release(store).rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("command", ["upload", "publish"])
def test_a_step_before_its_time_is_refused(
    tool: Tool, store: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    assert tool(command, "--unsigned") == 1
    assert "must be a draft, found that it is absent" in capsys.readouterr().err


def test_a_dry_run_tells_and_does_nothing(
    tool: Tool, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    for command in ("draft", "upload", "verify", "publish"):
        assert tool(command, "--unsigned", "--dry-run") == 0
    assert list(store.iterdir()) == []
    told = capsys.readouterr().out
    for verb in ("create", "upload", "download", "edit"):
        assert f"$ gh release {verb} {package_manifest().tag}" in told


def test_a_release_without_a_signature_needs_a_word(
    tool: Tool, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    assert tool("draft") == 1
    assert "--unsigned" in capsys.readouterr().err


def test_a_signature_of_other_archives_is_refused(
    folder: Path, tool: Tool, store: Path, tmp_path: Path
) -> None:
    assert tool("manifest", "--key", key_file(tmp_path)) == 0
    (folder / SIGNATURE).write_text(KEY.sign(b"another manifest", "comment"))
    assert tool("draft") == 1
    assert list(store.iterdir()) == []


def test_texts_of_other_archives_are_refused(
    folder: Path, tool: Tool, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool("manifest") == 0
    (folder / INDEX).write_text((folder / INDEX).read_text().replace("linux-x64", "linux-x65"))
    assert tool("draft", "--unsigned") == 1
    assert "run `manifest` first" in capsys.readouterr().err
