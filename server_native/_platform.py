"""Platforms: the labels a library is published under, and which of them this process can load.

One function answers for everybody: the resolver, the setup tool and the build of wheels ask :func:`host`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PLATFORMS", "Platform"]


@dataclass(frozen=True)
class Platform:
    """A kind of machine libraries are built for."""

    #: As in file names and folders.
    label: str
    #: Rust's name of the target.
    target: str
    #: The library's file name.
    file: str
    #: What wheels for it are tagged with, after ``py3-none-``.
    wheel: str
    #: The C library it is linked against, and the oldest version it runs on.
    libc: str | None = None
    floor: tuple[int, int] | None = None

    @property
    def archive(self) -> str:
        """The file name of a release."""
        return f"server_native-{self.label}.tar.gz"


_SO, _DYLIB, _DLL = "libserver_native.so", "libserver_native.dylib", "server_native.dll"
#: What Python on iOS can load is a framework's binary inside the app, not a file of its own.
_FRAMEWORK = "server_native.framework/server_native"

PLATFORMS = {
    platform.label: platform
    for platform in (
        Platform(
            "linux-x64", "x86_64-unknown-linux-gnu", _SO, "manylinux_2_17_x86_64", "glibc", (2, 17)
        ),
        Platform(
            "linux-arm64",
            "aarch64-unknown-linux-gnu",
            _SO,
            "manylinux_2_17_aarch64",
            "glibc",
            (2, 17),
        ),
        Platform(
            "linux-musl-x64",
            "x86_64-unknown-linux-musl",
            _SO,
            "musllinux_1_2_x86_64",
            "musl",
            (1, 2),
        ),
        Platform(
            "linux-musl-arm64",
            "aarch64-unknown-linux-musl",
            _SO,
            "musllinux_1_2_aarch64",
            "musl",
            (1, 2),
        ),
        Platform("macos-arm64", "aarch64-apple-darwin", _DYLIB, "macosx_11_0_arm64"),
        Platform("macos-x64", "x86_64-apple-darwin", _DYLIB, "macosx_11_0_x86_64"),
        Platform("windows-x64", "x86_64-pc-windows-msvc", _DLL, "win_amd64"),
        Platform("windows-arm64", "aarch64-pc-windows-msvc", _DLL, "win_arm64"),
        Platform("android-arm64", "aarch64-linux-android", _SO, "android_21_arm64_v8a"),
        Platform("android-armv7", "armv7-linux-androideabi", _SO, "android_21_armeabi_v7a"),
        Platform("android-x64", "x86_64-linux-android", _SO, "android_21_x86_64"),
        Platform("ios-arm64", "aarch64-apple-ios", _FRAMEWORK, "ios_13_0_arm64_iphoneos"),
        Platform(
            "ios-sim-arm64", "aarch64-apple-ios-sim", _FRAMEWORK, "ios_13_0_arm64_iphonesimulator"
        ),
        Platform("ios-sim-x64", "x86_64-apple-ios", _FRAMEWORK, "ios_13_0_x86_64_iphonesimulator"),
    )
}
