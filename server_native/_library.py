"""Finds the native library: which places are looked at, in which order, and what became of each.

No ctypes here: a path is all that comes out. Nothing is looked for, fetched or built before :func:`locate` is called,
which the first server does. The order is that of docs/decisions/0013-finding-the-library.md.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import _places
from ._notice import say
from ._places import environment, switched
from ._platform import PLATFORMS, Host, host
from ._sources import Sources, sources
from ._trust import Trust, sha256, verify
from ._verdicts import Finding, Search, Step, Verdict, nothing_found
from .errors import ConfigurationError, PrebuiltError

if TYPE_CHECKING:
    from ._manifest import Manifest

__all__ = ["ENVIRONMENT", "locate", "search"]

ENVIRONMENT = "SERVER_NATIVE_PREBUILT"
log = logging.getLogger("server_native")


def locate() -> Path:
    """The path of the library to load; may fetch or build it, which is announced on standard error.

    Raises :class:`~server_native.errors.PrebuiltError`: E-NOLIB with every place and its verdict, or what ended the
    search before its end.
    """
    steps = []
    for step in _Chain(download=True, build=True).steps():
        steps.append(step)
        finding = step.finding
        if finding.verdict is Verdict.CHOSEN and finding.path is not None:
            if finding.notice is not None:
                say(finding.notice)
            if finding.trust is Trust.EXPLICIT:
                log.info("the native library is %s, named by %s", finding.path, ENVIRONMENT)
            return finding.path
    raise nothing_found(steps, host())


def search(*, download: bool, build: bool) -> Search:
    """All steps of the way :func:`locate` takes, those behind the chosen one as not reached.

    Without ``download`` and ``build`` these two only say what they would do. Raises E-ENV or E-PLATFORM for a variable
    that cannot be.
    """
    steps = list(_Chain(download=download, build=build).steps())
    found = Search(tuple(steps), None)
    if found.chosen or found.pending:
        return found
    return found._replace(error=nothing_found(steps, host()))


class _Chain:
    """One search: what several steps want to know is asked at most once."""

    def __init__(self, *, download: bool, build: bool) -> None:
        self._may_download = download
        self._may_build = build
        self._building = environment("SERVER_NATIVE_BUILD") or "auto"
        if self._building not in ("auto", "never", "always"):
            raise PrebuiltError(
                "E-ENV",
                f"SERVER_NATIVE_BUILD must be auto, never or always, found {self._building!r}",
            )
        #: Only what was built counts.
        self._straight = switched("SERVER_NATIVE_DISABLE_PREBUILT")
        self._sources = sources()

    def steps(self) -> Iterator[Step]:
        """Each step as it is taken. Whoever stops asking leaves the rest alone."""
        over = False
        for number, source, look in self._rows():
            if over:
                yield Step(number, source, Finding(Verdict.NOT_REACHED))
                continue
            if self._straight and number != "11":
                reason = "SERVER_NATIVE_DISABLE_PREBUILT is set"
                yield Step(number, source, Finding(Verdict.SKIPPED, reason))
                continue
            finding = look()
            over = finding.verdict is Verdict.CHOSEN or finding.pending or finding.error is not None
            yield Step(number, source, finding)

    def _rows(self) -> tuple[tuple[str, str, Callable[[], Finding]], ...]:
        return (
            ("1", f"env {ENVIRONMENT}", _explicit),
            ("1b", "checkout", self._checkout),
            ("2", "project cache", lambda: self._below(self._project, tagged=True)),
            ("3", "project cache, no tag", lambda: self._below(self._project, tagged=False)),
            ("4", "repository root", lambda: self._above(tagged=True)),
            ("5", "repository root, no tag", lambda: self._above(tagged=False)),
            ("6", "package", self._package),
            ("7", "package, no tag", lambda: self._old("native/prebuilt")),
            ("8", "package, old place", lambda: self._old("native")),
            ("9", "user cache", self._cache),
            ("10", "download", self._fetch),
            ("11", "cargo build", self._cargo),
        )

    # --- what is known ---

    @functools.cached_property
    def _host(self) -> Host:
        return host()

    @functools.cached_property
    def _manifest(self) -> Manifest:
        # Here and below: imported by those who come so far. A checkout and a named library need none of it.
        from ._manifest import package_manifest

        return package_manifest()

    @functools.cached_property
    def _project(self) -> Path | None:
        return _places.project()

    def _unsupported(self) -> Finding | None:
        """The finding of every place for published libraries, on a host that none are published for."""
        if self._host.label is not None:
            return None
        return Finding(Verdict.SKIPPED, "no library is published for this host")

    # --- the steps ---

    def _checkout(self) -> Finding:
        ours = self._sources
        if ours is None or not ours.checkout:
            return Finding(Verdict.SKIPPED, "the package is not in a checkout")
        return self._built(ours)

    def _above(self, *, tagged: bool) -> Finding:
        root = _places.repository()
        if root is not None and root == self._project:
            return Finding(Verdict.SKIPPED, "the same folder as the project's")
        return self._below(root, tagged=tagged)

    def _below(self, base: Path | None, *, tagged: bool) -> Finding:
        if base is None:
            return Finding(Verdict.SKIPPED, "the working directory is in none")
        if host := self._unsupported():
            return host
        root = base / ".server_native"
        if not os.path.lexists(root):
            return Finding(Verdict.ABSENT, path=root)
        return self._releases(root, base, shared=True, tagged=tagged)

    def _package(self) -> Finding:
        if host := self._unsupported():
            return host
        label = self._host.label or ""
        if label.startswith("ios-"):
            return _bundled(PLATFORMS[label].file)
        # A wheel is of one release and one platform, so that its folder need not name them.
        package = _places.package()
        wheel = self._judge(package / "lib" / PLATFORMS[label].file)
        if wheel.verdict is Verdict.CHOSEN:
            return wheel
        tag = self._manifest.tag
        folder = _places.folder(package / "native", tag, label)
        return _best([self._judge(folder / PLATFORMS[label].file, tag=tag), wheel])

    def _old(self, folder: str) -> Finding:
        if host := self._unsupported():
            return host
        label = self._host.label or ""
        path = _places.package().joinpath(folder, label, PLATFORMS[label].file)
        return _outdated(self._judge(path))

    def _cache(self) -> Finding:
        if host := self._unsupported():
            return host
        try:
            root = _places.user_cache()
        except PrebuiltError as error:
            return Finding(Verdict.SKIPPED, str(error))
        return self._releases(root, root, tagged=True)

    def _releases(self, base: Path, root: Path, *, tagged: bool, shared: bool = False) -> Finding:
        """The best of a place: its releases from the latest on, down to the package's own."""
        label = self._host.label or ""
        file = PLATFORMS[label].file
        if not tagged:
            path = _places.folder(base, None, label) / file
            return _outdated(self._judge(path, root=root, shared=shared))
        from ._judge import newer

        own = self._manifest.tag
        try:
            tags = [entry.name for entry in os.scandir(base / "prebuilt")]
        except OSError:
            # Not there; the look at the release itself says why if it is another reason.
            tags = []
        findings = []
        for tag in (*newer(self._manifest, tags), own):
            path = _places.folder(base, tag, label) / file
            findings.append(self._judge(path, root=root, shared=shared, tag=tag))
            if findings[-1].verdict is Verdict.CHOSEN:
                return findings[-1]
        return _best(findings)

    def _judge(
        self, path: Path, *, root: Path | None = None, shared: bool = False, tag: str | None = None
    ) -> Finding:
        from ._judge import judge

        label = self._host.label or ""
        return judge(path, self._manifest, label, root=root, shared=shared, tag=tag)

    def _fetch(self) -> Finding:
        if host := self._unsupported():
            return host
        label, manifest = self._host.label or "", self._manifest
        if label.startswith("ios-"):
            return Finding(Verdict.SKIPPED, "an app on iOS loads only what is in its bundle")
        if label not in manifest.artifacts:
            reason = f"this package pins no library for {label}, so there is nothing to fetch"
            return Finding(Verdict.SKIPPED, reason)
        if switched("SERVER_NATIVE_OFFLINE"):
            return Finding(Verdict.SKIPPED, "SERVER_NATIVE_OFFLINE is set")
        if (environment("SERVER_NATIVE_AUTO_DOWNLOAD") or "").lower() in ("0", "false", "no"):
            return Finding(Verdict.SKIPPED, "SERVER_NATIVE_AUTO_DOWNLOAD is off")
        if not self._may_download:
            archive = manifest.artifacts[label].archive
            reason = f"would fetch {archive} of {manifest.tag}"
            return Finding(Verdict.SKIPPED, reason, pending=True)
        try:
            # The setup tool lies above this module and is wanted only here: asked for by name, not imported.
            engine = importlib.import_module(f"{__package__}.setup.install")
            root = _places.user_cache()
            path: Path = engine.install(manifest, label, root, sources=_mirrors(manifest))
        except (ConfigurationError, ImportError, OSError) as error:
            # PrebuiltError is an ImportError; the other ones are of `requests`, which may be missing.
            return Finding(Verdict.REJECTED, str(error))
        return self._judge(path, root=root, tag=manifest.tag)

    def _cargo(self) -> Finding:
        ours = self._sources
        if (self._host.label or "").startswith("ios-"):
            return Finding(Verdict.SKIPPED, "nothing can be built on iOS")
        if ours is None:
            return Finding(Verdict.SKIPPED, "the sources are not beside this package")
        if ours.checkout and not self._straight:
            return Finding(Verdict.SKIPPED, "the checkout was looked at above")
        return self._built(ours)

    def _built(self, ours: Sources) -> Finding:
        """What was built of these sources; builds it if need be and allowed."""
        try:
            library = ours.library
            reason = ours.stale(rehash=_rehash())
        except PrebuiltError as error:
            return Finding(Verdict.REJECTED, str(error), error=error)
        always = self._building == "always"
        if always:
            reason = "SERVER_NATIVE_BUILD=always"
        if reason is None:
            return Finding(Verdict.CHOSEN, "", library, Trust.LOCAL)
        if self._building == "never":
            return self._never(library, reason)
        from . import _build

        found = _build.cargo() is not None
        if not self._may_build and found:
            reason = f"{reason}: would build it with cargo"
            return Finding(Verdict.SKIPPED, reason, library, pending=True)
        try:
            _build.build(ours, reason, always=always)
        except PrebuiltError as error:
            # Without cargo there may still be a library that was set up; a build that fails is to be looked at.
            return Finding(Verdict.REJECTED, str(error), error=error if found else None)
        return Finding(Verdict.CHOSEN, "", library, Trust.LOCAL)

    def _never(self, library: Path, reason: str) -> Finding:
        if library.is_file() and switched("SERVER_NATIVE_ALLOW_UNVERIFIED"):
            notice = f"loading {library}, although {reason} (SERVER_NATIVE_ALLOW_UNVERIFIED)"
            return Finding(Verdict.CHOSEN, f"unverified: {reason}", library, notice=notice)
        error = PrebuiltError(
            "E-BUILD",
            f"{library}: {reason}, and SERVER_NATIVE_BUILD=never forbids to build it. Run `make build` and then one "
            f"process without that variable, or set {ENVIRONMENT} to the absolute path of a library",
        )
        return Finding(
            Verdict.REJECTED, f"{reason} (SERVER_NATIVE_BUILD=never)", library, error=error
        )


def _mirrors(manifest: Manifest) -> tuple[str, ...]:
    """Where archives are: ``SERVER_NATIVE_BASE_URL``, several with commas, or the manifest's own."""
    named = (environment("SERVER_NATIVE_BASE_URL") or "").split(",")
    return tuple(filter(None, map(str.strip, named))) or manifest.base_urls


def _rehash() -> bool:
    """Whether the build of a checkout is read each time: only if that is said, as thousands of processes use it."""
    return verify() == "always" and environment("SERVER_NATIVE_VERIFY") is not None


def _bundled(file: str) -> Finding:
    path = Path(sys.executable).parent / "Frameworks" / file
    if not path.is_file():
        return Finding(Verdict.ABSENT, path=path)
    return Finding(Verdict.CHOSEN, "", path, Trust.BUNDLED)


def _best(findings: list[Finding]) -> Finding:
    """One verdict for several files of a place."""
    for finding in findings:
        if finding.verdict is Verdict.CHOSEN:
            return finding
    rejected = [each for each in findings if each.verdict is Verdict.REJECTED]
    if not rejected:
        return findings[-1]
    reasons = [rejected[0].reason, *(f"{each.path}: {each.reason}" for each in rejected[1:])]
    return rejected[0]._replace(reason="; ".join(reasons))


def _outdated(finding: Finding) -> Finding:
    if finding.verdict is not Verdict.CHOSEN or finding.notice is not None:
        return finding
    notice = f"{finding.path} lies in an old place: `python -m server_native.setup` puts it into the present one"
    return finding._replace(notice=notice)


def _explicit() -> Finding:
    value = environment(ENVIRONMENT)
    if value is None:
        ignored = os.environ.get(ENVIRONMENT)
        reason = "ignored: this process does not heed its environment" if ignored else "unset"
        return Finding(Verdict.ABSENT, reason)
    path = Path(value)
    problem, code = _unusable(path)
    if problem is None:
        return Finding(Verdict.CHOSEN, "", path, Trust.EXPLICIT)
    error = PrebuiltError(
        code,
        f"{ENVIRONMENT} names {value!r}, which {problem}. Nothing else is tried while it is set: "
        "correct it or unset it.",
    )
    return Finding(Verdict.REJECTED, problem, path, error=error)


def _unusable(path: Path) -> tuple[str | None, str]:
    if not path.is_absolute():
        return "is not an absolute path", "E-ENV"
    if not path.exists():
        return "does not exist", "E-ENV"
    if not path.is_file():
        return "is not a file", "E-ENV"
    if not os.access(path, os.R_OK):
        return "cannot be read", "E-ENV"
    pinned = environment(f"{ENVIRONMENT}_SHA256")
    if pinned is not None:
        found = sha256(path)
        if found != pinned.strip().lower():
            return f"has the sha256 {found} where {ENVIRONMENT}_SHA256 says {pinned}", "E-HASH"
    return None, ""
