"""What a library file says of itself, and what of that its platform forbids. Reads ELF, Mach-O and PE; runs nothing.

A library that this module finds no fault with may still fail: the smoke suite (tests/smoke/) loads and serves.
"""

from __future__ import annotations

import re
from pathlib import Path

import lief

from server_native._platform import PLATFORMS, Platform

__all__ = ["declared", "exports", "faults", "needs"]

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "bindings" / "server_native.h"

#: The processor in each format's words.
_PROCESSORS = {
    "x64": ("X86_64", "X86_64", "AMD64"),
    "arm64": ("AARCH64", "ARM64", "ARM64"),
    "armv7": ("ARM", "ARM", "ARM"),
}
#: What may be needed of a system: `auditwheel` has the same lists for wheels and is asked, too (`make dist`).
_SYSTEM = {
    "glibc": r"lib(c|m|pthread|dl|rt)\.so\.\d|libgcc_s\.so\.1|ld-linux-[\w-]+\.so\.\d",
    "musl": r"libc\.so|libc\.musl-\w+\.so\.1",
    "android": r"lib(c|m|dl|log)\.so",
    "apple": r"/usr/lib/lib(System\.B|iconv\.2|objc\.A|resolv\.9)\.dylib"
    r"|/System/Library/Frameworks/(Security|CoreFoundation|SystemConfiguration|Foundation)\.framework/.*",
    # VCRUNTIME140 comes with every CPython for Windows.
    "windows": r"(kernel32|ntdll|ws2_32|advapi32|bcrypt(primitives)?|crypt32|userenv|secur32|ncrypt"
    r"|vcruntime140|api-ms-win-[\w-]+)\.dll",
}
#: Google's stores ask for it of 64-bit libraries: pages of newer devices have 16 KiB.
_ANDROID_PAGE = 0x4000
#: As in the wheels' tags.
_OLDEST_MACOS, _OLDEST_IOS = [11, 0], [13, 0]


def declared() -> set[str]:
    """The functions of the header."""
    text = re.sub(r"//.*", "", HEADER.read_text())
    return set(re.findall(r"\b(sn_\w+)\(", text))


def exports(path: Path) -> set[str]:
    """The names others can link. Raises :class:`ValueError` for what is no library."""
    return _exports(_read(path))


def needs(path: Path) -> dict[str, tuple[int, ...]]:
    """The newest version of each set of symbols it asks for, as ``{"GLIBC": (2, 17)}``; empty but in ELF."""
    return _needs(_read(path))


def faults(path: Path, label: str) -> list[str]:
    """What keeps ``path`` from being the library of ``label``: what was expected and what was found, a line each."""
    try:
        binary = _read(path)
    except ValueError as error:
        return [str(error)]
    platform = PLATFORMS[label]
    found = [*_shape(binary, platform), *_names(binary), *_needed(binary, platform)]
    if isinstance(binary, lief.ELF.Binary):
        found += [*_elf(binary, platform)]
    if isinstance(binary, lief.MachO.Binary):
        found += [*_macho(binary, platform)]
    return found


_Binary = lief.ELF.Binary | lief.MachO.Binary | lief.PE.Binary


def _read(path: Path) -> _Binary:
    lief.logging.disable()
    binary = lief.parse(str(path))
    if isinstance(binary, lief.ELF.Binary | lief.MachO.Binary | lief.PE.Binary):
        return binary
    raise ValueError(f"{path} is no library that is known here: expected one ELF, Mach-O or PE")


def _format(label: str) -> str:
    system = label.split("-", maxsplit=1)[0]
    if system == "windows":
        return "PE"
    return "MachO" if system in ("macos", "ios") else "ELF"


def _processor(binary: _Binary) -> str:
    if isinstance(binary, lief.ELF.Binary):
        return binary.header.machine_type.name
    if isinstance(binary, lief.MachO.Binary):
        return binary.header.cpu_type.name
    return binary.header.machine.name


def _shape(binary: _Binary, platform: Platform) -> list[str]:
    expected = _PROCESSORS[platform.label.rsplit("-", 1)[1]]
    kind = _format(platform.label)
    if binary.format.name.upper() != kind.upper():
        return [f"format: expected {kind}, found {binary.format.name}"]
    found = _processor(binary)
    if found not in expected:
        return [f"processor: expected {expected[0]}, found {found}"]
    return []


def _exports(binary: _Binary) -> set[str]:
    if isinstance(binary, lief.PE.Binary):
        table = binary.get_export()
        return {str(entry.name) for entry in table.entries} if table else set()
    names = {str(symbol.name) for symbol in binary.exported_symbols}
    if isinstance(binary, lief.MachO.Binary):
        names = {name.removeprefix("_") for name in names}
    # Linkers' own marks, which older ones export.
    return names - {"_init", "_fini", "_edata", "_end", "__bss_start"}


def _names(binary: _Binary) -> list[str]:
    found, wanted = _exports(binary), declared()
    if found == wanted:
        return []
    more, fewer = sorted(found - wanted), sorted(wanted - found)
    return [f"exports: expected those of {HEADER.name}; missing {fewer}, too many {more}"]


def _needed(binary: _Binary, platform: Platform) -> list[str]:
    system = platform.label.split("-", maxsplit=1)[0]
    kind = platform.libc or ("apple" if system in ("macos", "ios") else system)
    # A library for Apple names itself first.
    own = platform.file.rsplit("/", 1)[-1]
    libraries = [str(getattr(entry, "name", entry)) for entry in binary.libraries]
    foreign = [
        name
        for name in libraries
        if not name.endswith(f"/{own}") and not re.fullmatch(_SYSTEM[kind], name, re.IGNORECASE)
    ]
    return [f"needs: {name} is not in every {platform.label} system" for name in foreign]


def _needs(binary: _Binary) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    if isinstance(binary, lief.ELF.Binary):
        for requirement in binary.symbols_version_requirement:
            for symbol in requirement.get_auxiliary_symbols():
                name, _, version = str(symbol.name).partition("_")
                numbers = tuple(int(part) for part in re.findall(r"\d+", version))
                found[name] = max(found.get(name, ()), numbers)
    return found


def _elf(binary: lief.ELF.Binary, platform: Platform) -> list[str]:
    found = []
    tags = [entry.tag for entry in binary.dynamic_entries]
    if {lief.ELF.DynamicEntry.TAG.RPATH, lief.ELF.DynamicEntry.TAG.RUNPATH} & set(tags):
        found.append(
            "RPATH: expected none, found one: it leads to a folder of the building machine"
        )
    sections = [str(section.name) for section in binary.sections]
    kept = [name for name in sections if name.startswith((".debug_", ".symtab"))]
    if kept:
        found.append(f"symbols: expected a stripped library, found {' '.join(kept)}")
    asked = _needs(binary)
    if platform.libc == "glibc" and platform.floor is not None:
        newest = asked.get("GLIBC", ())
        if newest > platform.floor:
            found.append(
                f"glibc: expected {_dotted(platform.floor)} at most, found {_dotted(newest)}"
            )
    elif "GLIBC" in asked:
        found.append(f"glibc: expected none of it, found {_dotted(asked['GLIBC'])}")
    if platform.label.startswith("android-") and not platform.label.endswith("armv7"):
        small = [
            each for each in binary.segments if _loaded(each) and each.alignment < _ANDROID_PAGE
        ]
        if small:
            found.append(f"pages: expected {_ANDROID_PAGE} at least, found {small[0].alignment}")
    return found


def _loaded(segment: lief.ELF.Segment) -> bool:
    return segment.type == lief.ELF.Segment.TYPE.LOAD


def _macho(binary: lief.MachO.Binary, platform: Platform) -> list[str]:
    found = []
    if binary.has_rpath:
        found.append(
            "RPATH: expected none, found one: it leads to a folder of the building machine"
        )
    oldest = _OLDEST_IOS if platform.label.startswith("ios-") else _OLDEST_MACOS
    minimum: list[int] = []
    if binary.build_version is not None:
        minimum = list(binary.build_version.minos[:2])
    elif binary.version_min is not None:
        minimum = list(binary.version_min.version[:2])
    if not minimum or minimum > oldest:
        found.append(f"system: expected {_dotted(oldest)} at most, found {_dotted(minimum)}")
    return found


def _dotted(version: tuple[int, ...] | list[int]) -> str:
    return ".".join(map(str, version)) or "none"
