"""What is generated is fresh, agrees with itself, and is importable however the package is installed."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from server_native._bindings import abi

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("__init__.py", "abi.py", "server_native.h")
IMPORTS = "from server_native._bindings import abi; print(abi.__file__); print(abi.ABI_HASH)"


def run(
    *command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def imported_from(*python: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Path:
    """Where an interpreter finds abi.py; it must be today's."""
    result = run(*python, "-c", IMPORTS, cwd=cwd, env=env)
    assert result.returncode == 0, result.stderr
    path, found = result.stdout.split()
    assert int(found) == abi.ABI_HASH
    return Path(path)


# --- the files ------------------------------------------------------------------------------------


def test_abi_py_and_hash_are_those_of_the_sources() -> None:
    result = run(sys.executable, "tools/generate_bindings.py", "--check", "--from-header")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def copied_checkout(tmp_path: Path) -> Path:
    for part in ("tools/generate_bindings.py", "bindings", "native/build.rs", "native/src"):
        target = tmp_path / part
        target.parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, target)
    return tmp_path


def test_check_shows_a_diff_of_an_edited_file(copied_checkout: Path) -> None:
    path = copied_checkout / "bindings" / "abi.py"
    text = path.read_text()
    path.write_text(text.replace("FLAG_END: Final = 1", "FLAG_END: Final = 9"))
    command = (sys.executable, "tools/generate_bindings.py", "--from-header")
    result = run(*command, "--check", cwd=copied_checkout)
    assert result.returncode == 1
    assert "-FLAG_END: Final = 9" in result.stdout
    assert "+FLAG_END: Final = 1" in result.stdout
    assert "make bindings" in result.stderr
    assert run(*command, cwd=copied_checkout).returncode == 0
    assert path.read_text() == text


def test_check_compares_the_whole_file(copied_checkout: Path) -> None:
    path = copied_checkout / "bindings" / "abi.py"
    path.write_text(path.read_text() + "# one more line\n")
    command = (sys.executable, "tools/generate_bindings.py", "--check", "--from-header")
    assert run(*command, cwd=copied_checkout).returncode == 1


def test_check_refuses_a_header_of_other_sources(copied_checkout: Path) -> None:
    with (copied_checkout / "native" / "src" / "record.rs").open("a") as source:
        source.write("// changed\n")
    command = (sys.executable, "tools/generate_bindings.py", "--check", "--from-header")
    result = run(*command, cwd=copied_checkout)
    assert result.returncode == 1
    assert "make bindings" in result.stderr


def test_carriage_returns_do_not_change_the_hash(copied_checkout: Path) -> None:
    source = copied_checkout / "native" / "src" / "record.rs"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    command = (sys.executable, "tools/generate_bindings.py", "--check", "--from-header")
    assert run(*command, cwd=copied_checkout).returncode == 0


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RECORD", "BATCH_HEADER"])
def test_packed_structs_have_one_size(name: str) -> None:
    structure = {"RECORD": abi.Record, "BATCH_HEADER": abi.BatchHeader}[name]
    size = getattr(abi, f"{name}_SIZE")
    assert size == struct.calcsize(getattr(abi, f"{name}_FORMAT")) == ctypes.sizeof(structure)


def test_a_packed_record_is_the_c_record() -> None:
    values = (1 << 63, 2, 3, 4, 5, 6, 7, 8)
    record = abi.Record.from_buffer_copy(struct.pack(abi.RECORD_FORMAT, *values))
    assert tuple(getattr(record, name) for name, _ in abi.Record._fields_) == values


def test_statuses_fall_into_the_documented_ranges() -> None:
    assert abi.Status.OK.value == 0
    assert abi.Status.PANIC.value == 255
    for status in abi.Status:
        assert (
            status < 10 or 10 <= status < 100 or 100 <= status < 200 or status is abi.Status.PANIC
        )


# --- the five ways it is imported -----------------------------------------------------------------


def test_bare_checkout(tmp_path: Path) -> None:
    assert (ROOT / "server_native" / "_bindings").is_symlink(), "a symlink, committed as one"
    found = imported_from(sys.executable, "-S", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert found == ROOT / "server_native" / "_bindings" / "abi.py"


def test_editable_install(tmp_path: Path) -> None:
    # `make test` installs this checkout with `pip install -e .[dev]`.
    assert imported_from(sys.executable, cwd=tmp_path).resolve() == ROOT / "bindings" / "abi.py"


def test_mypy_sees_the_types(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "from server_native._bindings import abi\n"
        "reveal_type(abi.Limits().head_bytes)\n"
        "reveal_type(abi.Status.OK)\n"
    )
    options = ("--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}")
    result = run(sys.executable, "-m", "mypy", *options, probe)
    assert result.returncode == 0, result.stdout
    assert 'Revealed type is "int"' in result.stdout.replace("builtins.", "")
    assert "abi.Status.OK" in result.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel from the checkout, an sdist, and a wheel from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    # setuptools writes build/ and *.egg-info beside the sources: let it do so in a copy.
    unwanted = shutil.ignore_patterns("target", ".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=unwanted)
    builder = (sys.executable, "-W", "ignore", "-m", "build", "--no-isolation")
    # Without a library: tests/distribution/ has the others.
    pure = {"SERVER_NATIVE_WHEEL": "pure"}
    for kind, source in (("wheel", checkout), ("sdist", checkout)):
        result = run(*builder, f"--{kind}", "--outdir", folder / kind, source, cwd=folder, env=pure)
        assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = (folder / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    result = run(*builder, "--wheel", "--outdir", folder / "second", unpacked, cwd=folder, env=pure)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (folder / "wheel").iterdir()
    (second,) = (folder / "second").iterdir()
    return {"wheel": wheel, "sdist": sdist, "wheel from sdist": second}


@pytest.mark.parametrize("name", ["wheel", "wheel from sdist"])
def test_wheel(distributions: dict[str, Path], name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(distributions[name]) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    assert {f"server_native/_bindings/{file}" for file in GENERATED} <= names
    assert {item.split("/")[0].split("-")[0] for item in names} == {"server_native"}
    for file in GENERATED:
        packed = tmp_path / "site" / "server_native" / "_bindings" / file
        assert packed.read_bytes() == (ROOT / "bindings" / file).read_bytes()
    # Of the package itself only the bindings are imported here: its dependencies are not in this environment.
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    assert imported_from(sys.executable, "-S", cwd=tmp_path, env=environment).is_relative_to(
        tmp_path
    )


def test_sdist_holds_real_files_and_the_native_sources(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        members = {member.name.split("/", 1)[-1]: member for member in archive}
    for file in GENERATED:
        assert members[f"server_native/_bindings/{file}"].isfile()
    for needed in (
        "native/Cargo.toml",
        "native/Cargo.lock",
        "native/build.rs",
        "native/src/ffi.rs",
    ):
        assert needed in members
    assert not [name for name in members if name.startswith("native/target")]
