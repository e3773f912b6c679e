"""Archives from whoever runs a mirror: one library is read from them, and nothing else ever happens."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest

from server_native.errors import PrebuiltError
from server_native.setup.install import MARKER, install, place
from server_native.setup.settings import Settings
from tests.setup.made import FOREIGN, TAG, entry, manifest, packed, put

PAYLOAD = os.urandom(100_000)
NAME = "server_native.dll"
GOOD = entry(NAME, PAYLOAD)
BOMB = bytes(64 << 20)
PLANTED = f"/var/tmp/planted-{os.getpid()}"  # noqa: S108 - named by an archive, never written


def files(folder: Path) -> set[str]:
    """Everything below, links and special files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


HOSTILE = {
    "an absolute path": packed([entry(PLANTED, PAYLOAD)]),
    "a path out": packed([entry(f"../../{NAME}", PAYLOAD)]),
    "a path out for Windows": packed([entry(f"..\\..\\{NAME}", PAYLOAD)]),
    "a drive": packed([entry(f"C:\\{NAME}", PAYLOAD)]),
    "a symlink out": packed([entry(NAME, kind=tarfile.SYMTYPE, link="/etc/passwd"), GOOD]),
    "a symlink in": packed([GOOD, entry("other", kind=tarfile.SYMTYPE, link=NAME)]),
    "a hard link": packed([entry("other", kind=tarfile.LNKTYPE, link="/etc/passwd"), GOOD]),
    "a link as a folder": packed(
        [entry("dir", kind=tarfile.SYMTYPE, link="/etc"), entry(f"dir/{NAME}", PAYLOAD)]
    ),
    "a pipe of the right name and size": packed(
        [entry(NAME, kind=tarfile.FIFOTYPE, size=len(PAYLOAD))]
    ),
    "a file with holes": packed(
        [
            entry(
                NAME,
                f"1\n0\n{len(PAYLOAD)}\n".encode().ljust(512, b"\0") + PAYLOAD,
                pax_headers={
                    "GNU.sparse.major": "1",
                    "GNU.sparse.minor": "0",
                    "GNU.sparse.name": NAME,
                    "GNU.sparse.realsize": str(len(PAYLOAD)),
                },
            )
        ]
    ),
    "a pipe": packed([entry("pipe", kind=tarfile.FIFOTYPE), GOOD]),
    "a device": packed([entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), GOOD]),
    "a folder": packed([entry("elsewhere", kind=tarfile.DIRTYPE), GOOD]),
    "the same twice": packed([GOOD, GOOD]),
    "another file": packed([GOOD, entry("setup.py", b"print()")]),
    "a size of its own": packed([entry(NAME, PAYLOAD, pax_headers={"size": "50"})]),
    "a shorter one": packed([entry(NAME, PAYLOAD[:-1])]),
    "a name of 10,000 bytes": packed([entry("x" * 10_000, PAYLOAD)]),
    "a bomb": packed([entry(NAME, BOMB)]),
    "a bomb behind it": packed([GOOD, entry("LICENSE", BOMB)]),
    "half an archive": packed([GOOD])[:-2000],
    "bytes behind it": packed([GOOD]) + b"MZ and more",
    "a second archive behind it": packed([GOOD]) + packed([entry("evil", b"evil")]),
    "no such member": packed([entry("libserver_native.so", PAYLOAD)]),
    "nothing": packed([]),
    "no archive": gzip.compress(os.urandom(5000)),
    "no gzip": PAYLOAD,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_leaves_nothing(what: str, tmp_path: Path) -> None:
    archive = HOSTILE[what]
    release = manifest(FOREIGN, archive, PAYLOAD)
    root = tmp_path / "outer" / "cache"
    mirror = put(tmp_path / "mirror", release, {FOREIGN: archive})
    with pytest.raises(PrebuiltError) as caught:
        install(
            release, FOREIGN, root, sources=[mirror.parent.as_uri()], settings=Settings(tries=1)
        )
    assert caught.value.code == "E-ARCHIVE", str(caught.value)
    assert "nothing of it was installed" in str(caught.value)
    assert files(tmp_path / "outer") == {f"cache/prebuilt/{TAG}/{FOREIGN}/.lock"}
    assert not Path(PLANTED).exists()


def test_another_library_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    archive = packed([entry(NAME, PAYLOAD[::-1])])
    release = manifest(FOREIGN, archive, PAYLOAD)
    put(tmp_path / "mirror", release, {FOREIGN: archive})
    with pytest.raises(PrebuiltError, match="not of the same release") as caught:
        install(release, FOREIGN, tmp_path / "cache", sources=[(tmp_path / "mirror").as_uri()])
    assert caught.value.code == "E-HASH"
    assert files(tmp_path / "cache") == {f"prebuilt/{TAG}/{FOREIGN}/.lock"}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize(
    "beside",
    [[], [entry("./LICENSE", b"MIT")], [entry("LICENSE-APACHE", b"a"), entry("LICENSE-MIT", b"b")]],
)
def test_a_good_one_is_installed_whole(
    beside: list[tuple[tarfile.TarInfo, bytes]], umask: int, tmp_path: Path
) -> None:
    archive = packed([*beside, entry(NAME, PAYLOAD, mode=0o4777, uid=1, gid=1)])
    release = manifest(FOREIGN, archive, PAYLOAD)
    put(tmp_path / "mirror", release, {FOREIGN: archive})
    before = os.umask(umask)
    try:
        library = install(
            release, FOREIGN, tmp_path / "cache", sources=[(tmp_path / "mirror").as_uri()]
        )
    finally:
        os.umask(before)
    assert library == place(tmp_path / "cache", release, FOREIGN)
    assert library.read_bytes() == PAYLOAD
    assert library.stat().st_mode & 0o7777 == 0o644
    assert files(library.parent) == {NAME, MARKER, ".lock"}
    for folder in (library.parent, library.parent.parent, tmp_path / "cache"):
        assert folder.stat().st_mode & 0o777 == 0o700 & ~umask
