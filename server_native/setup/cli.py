"""The command line: ``python -m server_native.setup``.

Without a command it installs a library. What people read goes to standard error, what programs read (``--json``) to
standard output; the exit status tells the kind of error (docs/deployment.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from server_native import _places
from server_native._library import search
from server_native._manifest import package_manifest
from server_native._platform import PLATFORMS, host
from server_native.errors import PrebuiltError

from . import bundle, caches, doctor, explain, mirrors, releases
from .download import Download
from .install import artifact_of, install, place
from .progress import Progress
from .releases import Release, Vouching
from .settings import Settings

__all__ = ["main"]

_USAGE = 64


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"{self.prog}: {message}\nTry --help.\n")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    # Said before or after the command; a default there would take back what was said before.
    common.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="write data to standard output",
    )
    common.add_argument(
        "--quiet", "-q", action="store_true", default=argparse.SUPPRESS, help="say errors only"
    )
    parser = _Parser(
        prog="python -m server_native.setup",
        description="Installs the native library of server_native, and tells where it comes from.",
        parents=[common],
    )
    parser.add_argument(
        "--tag", "-t", help="a release, or latest; default: the one this package pins"
    )
    parser.add_argument("--platform", "-p", choices=sorted(PLATFORMS), help="default: this host's")
    parser.add_argument("--libc", choices=("glibc", "musl"), help="of a Linux --platform")
    parser.add_argument(
        "--all-platforms", action="store_true", help="with --download-only: each of them"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="a bundle, or an archive in one"
    )
    parser.add_argument(
        "--download-only", type=Path, metavar="DIR", help="make a bundle for --from"
    )
    parser.add_argument("--sha256", type=_digest, help="the archive must have this hash")
    parser.add_argument(
        "--allow-unverified", action="store_true", help="take what nothing vouches for"
    )
    parser.add_argument("--force", action="store_true", help="install again what is there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, about in (
        ("explain", "where the library is looked for, and what became of each place"),
        ("doctor", "explain, and look at cache, mirrors and the library itself"),
        ("list", "what is installed"),
        ("path", "the path of the library that would be loaded"),
    ):
        commands.add_parser(name, help=about, parents=[common])
    verify = commands.add_parser(
        "verify", help="hash what is installed, or a file", parents=[common]
    )
    verify.add_argument("file", nargs="?", type=Path)
    clean = commands.add_parser("clean", help="remove what is installed", parents=[common])
    clean.add_argument("--keep-current", action="store_true", help="but for this package's release")
    return parser


def _digest(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits")
    return text.lower()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and answers its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.json = getattr(options, "json", False)
    options.quiet = getattr(options, "quiet", False)
    if options.all_platforms and options.download_only is None:
        parser.error("--all-platforms goes with --download-only")
    if options.all_platforms and options.sha256 is not None:
        parser.error("--sha256 is the hash of one archive, and does not go with --all-platforms")
    if options.libc is not None and not (options.platform or "linux").startswith("linux"):
        parser.error("--libc goes with a Linux --platform")
    try:
        result, text = _COMMANDS.get(options.command, _install)(options)
    except PrebuiltError as error:
        if options.json:
            print(json.dumps({"error": {"code": error.code, "text": str(error)}}, indent=2))
        print(f"server_native: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("server_native: interrupted; nothing was installed", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result, indent=2))
    elif text and (options.command is not None or not options.quiet):
        # A path is for `$(...)`; everything else is for people.
        print(text, file=sys.stdout if options.command == "path" else sys.stderr)
    return 0 if result.get("ok", True) else 1


# --- installing -----------------------------------------------------------------------------------


def _install(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    settings, label = Settings.read(), _label(options)
    say = _hush if options.quiet else _say
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="server_native-")))
        download = stack.enter_context(contextlib.closing(Download(settings)))
        where, release = _release(options, download, work, label)
        if options.sha256 is not None and release.trust != releases.YOURS:
            release = releases.with_hash(release, label, options.sha256)
        if options.download_only is not None:
            return _bundle(options, settings, release, where, label)
        root = _root()
        library = place(root, release.manifest, label)
        artifact = artifact_of(release.manifest, label)
        result = {
            "tag": release.manifest.tag,
            "platform": label,
            "path": str(library),
            "trust": release.trust,
            "sources": mirrors.urls(where, release.manifest.tag, artifact.archive, label),
        }
        if options.dry_run:
            tried = "\n".join(f"  {url}" for url in result["sources"])
            return (
                result,
                f"would install {library}\nfrom the first of\n{tried}\ntrust: {release.trust}",
            )
        if release.trust.startswith("nothing"):
            _say(
                f"nothing vouches for {release.manifest.tag}; it is installed because --allow-unverified says so"
            )
        progress = None if options.quiet or options.json else Progress(artifact.archive)
        try:
            install(
                release.manifest,
                label,
                root,
                sources=where,
                provenance=release.provenance,
                force=options.force,
                settings=settings,
                progress=progress,
                say=say,
            )
        finally:
            if progress is not None:
                progress.close()
    return (
        result,
        f"installed {library} ({release.manifest.tag}, trust: {release.trust}){_unused(library, label)}",
    )


def _release(
    options: argparse.Namespace, download: Download, work: Path, label: str
) -> tuple[tuple[str, ...], Release]:
    """Where files are and which release it is."""
    vouching = Vouching(options.sha256, options.allow_unverified)
    if options.source is not None:
        where, tags = bundle.opened(options.source)
        tag = options.tag or bundle.only(tags, options.source)
        if tag == "latest":
            tag = bundle.newest(tags, options.source)
        return where, releases.named(tag, where, download, work, label, vouching)
    where = mirrors.bases(package_manifest().base_urls)
    if options.tag is None:
        return where, releases.pinned()
    tag = options.tag
    if tag == "latest":
        tag = releases.latest(where, download, work, label)
        if not options.quiet:
            _say(f"latest is {tag}")
    return where, releases.named(tag, where, download, work, label, vouching)


def _bundle(
    options: argparse.Namespace,
    settings: Settings,
    release: Release,
    where: tuple[str, ...],
    label: str,
) -> tuple[dict[str, Any], str]:
    labels = sorted(release.manifest.artifacts) if options.all_platforms else [label]
    if options.dry_run:
        return (
            {"tag": release.manifest.tag, "platforms": labels},
            f"would fetch {release.manifest.tag} for {', '.join(labels)} into {options.download_only}",
        )
    files = bundle.make(
        options.download_only, release, labels, where, settings, quiet=options.quiet or options.json
    )
    carried = "\n".join(f"  {file}" for file in files)
    then = f"python -m server_native.setup --from {options.download_only}"
    return (
        {"tag": release.manifest.tag, "platforms": labels, "files": list(map(str, files))},
        f"made a bundle:\n{carried}\ncarry {options.download_only}, then: {then}",
    )


def _label(options: argparse.Namespace) -> str:
    label = options.platform
    if label is None:
        here = host()
        if here.label is None:
            raise PrebuiltError("E-PLATFORM", here.reason)
        label = here.label
    if options.libc is not None:
        label = label.replace("linux-musl-", "linux-")
        if options.libc == "musl":
            label = label.replace("linux-", "linux-musl-")
    return str(label)


def _root() -> Path:
    project = _places.project()
    return _places.user_cache() if project is None else project / ".server_native"


def _unused(library: Path, label: str) -> str:
    """Why this interpreter would take another one."""
    if label != host().label:
        return ""
    chosen = search(download=False, build=False).chosen
    if chosen is not None and chosen.path == library:
        return ""
    instead = f"takes {chosen.path}" if chosen else "finds none"
    return (
        f"\nThis interpreter {instead}: see `python -m server_native.setup explain`, or set "
        f"SERVER_NATIVE_PREBUILT={library}"
    )


# --- looking --------------------------------------------------------------------------------------


def _explain(_: argparse.Namespace) -> tuple[dict[str, Any], str]:
    seen = explain.explain()
    return seen, explain.text(seen)


def _doctor(_: argparse.Namespace) -> tuple[dict[str, Any], str]:
    seen = doctor.examine(Settings.read())
    return seen, doctor.text(seen)


def _path(_: argparse.Namespace) -> tuple[dict[str, Any], str]:
    found = search(download=False, build=False)
    if found.chosen is None:
        raise found.error or PrebuiltError(
            "E-NOLIB", "no library is here yet; the first server fetches or builds it"
        )
    return {"path": str(found.chosen.path)}, str(found.chosen.path)


def _list(_: argparse.Namespace) -> tuple[dict[str, Any], str]:
    found = caches.installed()
    lines = [f"{each['path']}  {each['size'] / 1e6:.1f} MB  {each['source']}" for each in found]
    return {"installed": found}, "\n".join(lines) or "nothing is installed"


def _verify(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    found = caches.verified(options.file)
    lines = [f"{each['path']}: {each['verdict']}" for each in found]
    good = all(each["good"] for each in found)
    return {"ok": good, "files": found}, "\n".join(lines) or "nothing is installed"


def _clean(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    removed = caches.cleaned(keep=package_manifest().tag if options.keep_current else None)
    lines = [f"removed {path}" for path in removed]
    return {"removed": list(map(str, removed))}, "\n".join(lines) or "nothing was there"


_COMMANDS = {
    "explain": _explain,
    "doctor": _doctor,
    "path": _path,
    "list": _list,
    "verify": _verify,
    "clean": _clean,
}


def _hush(line: str) -> None:
    """Says nothing."""


def _say(line: str) -> None:
    print(f"server_native: {line}", file=sys.stderr)
