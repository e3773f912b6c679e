"""Libraries for another processor and another C library, run here: the C ABI test, and the smoke suite."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".tools"
ARM64, MUSL = TOOLS / "arm64", TOOLS / "musl"
pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]


def need(folder: Path, missing: Path) -> None:
    """Skips with what the script said when it could not build."""
    if missing.is_file():
        pytest.skip(missing.read_text().strip())
    assert (folder / "abi").is_file(), "`make cross` first"


def run(
    *command: str | Path, environment: dict[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(result.stdout, result.stderr)
    return result


def emulator() -> list[str]:
    return [shutil.which("qemu-aarch64") or "qemu-aarch64", "-L", str(ARM64 / "root")]


def test_arm64_every_export_from_c() -> None:
    need(ARM64, ARM64.with_suffix(".missing"))
    result = run(*emulator(), ARM64 / "abi")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("ok\n")


def test_arm64_the_wheel_serves_on_its_python(tmp_path: Path) -> None:
    need(ARM64, ARM64.with_suffix(".missing"))
    (wheel,) = (ARM64 / "dist").glob("*aarch64.whl")
    # As pip would on such a machine; pip itself would take minutes there.
    packages = tmp_path / "site-packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    machine = ["--platform", "manylinux_2_17_aarch64", "--python-version", "3.11"]
    result = run(*pip, "--only-binary=:all:", *machine, "--target", packages, wheel)
    assert result.returncode == 0, result.stderr
    environment = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(packages),
        "LANG": "C.UTF-8",
        "SMOKE_EMULATOR": " ".join(emulator()),
    }
    python = ARM64 / "root" / "usr" / "bin" / "python3.11"
    smoke = ROOT / "tests" / "smoke" / "smoke.py"
    result = run(*emulator(), python, smoke, environment=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "aarch64" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")


@pytest.mark.parametrize("label", ["linux-musl-x64", "linux-musl-arm64"])
def test_musl_every_export_from_c(label: str) -> None:
    if not (MUSL.exists() or MUSL.with_suffix(".missing").exists()):
        pytest.skip("`make cross` builds it; `make conformance` has no time for a standard library")
    need(MUSL / label, MUSL.with_suffix(".missing"))
    emulated = ["qemu-aarch64", "-L", str(MUSL / label / "root")] if label.endswith("arm64") else []
    result = run(*emulated, MUSL / label / "abi")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("ok\n")
