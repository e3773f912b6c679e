#!/usr/bin/env python3
"""Makes a release of prebuilt libraries from a folder of archives, and takes it to GitHub step by step.

    python tools/generate_prebuilt_release.py manifest DIR            writes manifest.json, index.json and, with a key,
                                                                      manifest.json.minisig into DIR
    python tools/generate_prebuilt_release.py manifest DIR --check    compares them, exit 1 with a diff
    python tools/generate_prebuilt_release.py pin DIR                 makes it the manifest that the package carries
    python tools/generate_prebuilt_release.py draft|upload|verify|publish DIR [--dry-run]

The steps call `gh` and may be repeated. The key is one of `minisign -G -W`: a file, or the variable
SERVER_NATIVE_MINISIGN_KEY with the file's text. `--previous` is the index of the releases before, by default
DIR/index.json. Version, tag, addresses and keys are those of prebuilt/manifest.json. Only `manifest` needs the key.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from server_native.errors import ConfigurationError  # noqa: E402
from tools.github_release import Release  # noqa: E402
from tools.minisign_signer import SecretKey, SigningError, verify  # noqa: E402
from tools.release_contents import (  # noqa: E402
    INDEX,
    MANIFEST,
    SIGNATURE,
    Contents,
    ReleaseError,
    contents,
)

KEY = "SERVER_NATIVE_MINISIGN_KEY"
PINNED = ROOT / "prebuilt" / "manifest.json"
REPOSITORY = "server-native/server_native"


def secret_key(file: Path | None) -> SecretKey | None:
    """The key to sign with; ``None`` when none is named."""
    if file is not None:
        return SecretKey.parse(file.read_text(), str(file))
    text = os.environ.get(KEY)
    return SecretKey.parse(text, KEY) if text else None


def generated(arguments: argparse.Namespace) -> Contents:
    """The contents that the folder should have."""
    previous = arguments.previous or arguments.folder / INDEX
    text = previous.read_text() if previous.is_file() else None
    key = secret_key(arguments.key)
    return contents(arguments.folder, previous=text, key=key, partial=arguments.partial)


def manifest(arguments: argparse.Namespace) -> None:
    """Writes or compares the texts."""
    made = generated(arguments).files()
    if not arguments.check:
        for name, text in made.items():
            (arguments.folder / name).write_text(text, newline="\n")
            print(arguments.folder / name)
        return
    stale = False
    for name, text in made.items():
        path = arguments.folder / name
        found = path.read_text() if path.is_file() else ""
        diff = difflib.unified_diff(
            found.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "generated"
        )
        lines = list(diff)
        sys.stdout.writelines(lines)
        stale = stale or bool(lines)
    if stale:
        raise ReleaseError(f"{arguments.folder} is stale: run this without --check")


def pin(arguments: argparse.Namespace) -> None:
    """Copies the manifest, after comparing it with the archives."""
    made = generated(arguments).manifest.write()
    if (arguments.folder / MANIFEST).read_text() != made:
        raise ReleaseError(f"{arguments.folder / MANIFEST} is not of the archives beside it")
    arguments.pinned.write_text(made, newline="\n")
    print(arguments.pinned)


def step(arguments: argparse.Namespace) -> None:
    """One step with `gh`."""
    made = generated(arguments)
    for name, text in made.files().items():
        path = arguments.folder / name
        if not path.is_file() or path.read_text() != text:
            raise ReleaseError(f"{path} is not of the archives beside it: run `manifest` first")
    names = [MANIFEST, INDEX, *made.archives()]
    signature = arguments.folder / SIGNATURE
    if signature.is_file():
        text = made.manifest.write()
        verify(text.encode(), signature.read_text(), made.manifest.keys)
        names.append(SIGNATURE)
    elif not arguments.unsigned:
        raise ReleaseError(f"{arguments.folder} has no {SIGNATURE}: sign it, or say --unsigned")
    files = tuple(arguments.folder / name for name in names)
    release = Release(made.manifest.tag, files, arguments.repo, arguments.dry_run)
    getattr(release, arguments.command)()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("folder", type=Path, metavar="DIR", help="has the archives")
    common.add_argument("--previous", type=Path, metavar="FILE", help="index of earlier releases")
    common.add_argument("--key", type=Path, metavar="FILE", help=f"secret key; or ${KEY}")
    common.add_argument("--partial", action="store_true", help="some platforms may be missing")
    writes = commands.add_parser("manifest", parents=[common])
    writes.add_argument("--check", action="store_true", help="compare, write nothing")
    writes.set_defaults(run=manifest)
    pins = commands.add_parser("pin", parents=[common])
    pins.add_argument("--pinned", type=Path, default=PINNED, help=argparse.SUPPRESS)
    pins.set_defaults(run=pin)
    for name in ("draft", "upload", "verify", "publish"):
        one = commands.add_parser(name, parents=[common])
        one.add_argument("--repo", default=REPOSITORY, metavar="OWNER/NAME")
        one.add_argument("--dry-run", action="store_true", help="tell the commands, run none")
        one.add_argument("--unsigned", action="store_true", help="the release has no signature")
        one.set_defaults(run=step)
    return made


def main() -> int:
    """Runs the command line."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (ConfigurationError, OSError, ReleaseError, SigningError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
