"""From a mirror's address to the URL of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from server_native.errors import PrebuiltError
from server_native.setup.mirrors import bases, index_urls, urls

TAG = "server-native-prebuilt-v1.0.0+1"
GITHUB = "https://github.com/a/b/releases/download/{tag}/{archive}"


@pytest.mark.parametrize(
    ("mirror", "file", "index"),
    [
        (
            GITHUB,
            "https://github.com/a/b/releases/download/server-native-prebuilt-v1.0.0%2B1/x.tar.gz",
            "https://github.com/a/b/releases/latest/download/index.json",
        ),
        (
            "https://m.example/p/",
            "https://m.example/p/server-native-prebuilt-v1.0.0%2B1/x.tar.gz",
            "https://m.example/p/index.json",
        ),
        (
            "https://m.example/{platform}/{tag}-{archive}",
            "https://m.example/linux-x64/server-native-prebuilt-v1.0.0%2B1-x.tar.gz",
            "https://m.example/index.json",
        ),
        (
            "/srv/a folder",
            "file:///srv/a%20folder/server-native-prebuilt-v1.0.0%2B1/x.tar.gz",
            "file:///srv/a%20folder/index.json",
        ),
    ],
)
def test_where_files_are(mirror: str, file: str, index: str) -> None:
    assert urls([mirror], TAG, "x.tar.gz", "linux-x64") == [file]
    assert index_urls([mirror]) == [index]


def test_several_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bases([GITHUB]) == (GITHUB,)
    monkeypatch.setenv("SERVER_NATIVE_BASE_URL", f" https://one.example , {tmp_path},")
    assert bases([GITHUB]) == ("https://one.example", tmp_path.as_uri())


@pytest.mark.parametrize("text", ["relative/folder", "ftp://m.example", "m.example"])
def test_what_is_no_address(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_NATIVE_BASE_URL", text)
    with pytest.raises(PrebuiltError, match="must name https: or file: addresses") as caught:
        bases([])
    assert caught.value.code == "E-ENV"
