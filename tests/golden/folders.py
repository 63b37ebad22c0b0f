"""What lies in `tests/golden`: versions, the runs in each, and the sum over every file."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"
VERSIONS = sorted(one for one in HERE.glob("v[0-9]*") if one.is_dir())


def having(*names: str) -> list[Path]:
    """The versions that hold all of these; there is always one."""
    found = [one for one in VERSIONS if all((one / name).exists() for name in names)]
    assert found, f"no version has {names}"
    return found


def runs(version: Path) -> list[str]:
    """Every folder with a run in it, relative to the version's."""
    return sorted(str(one.parent.relative_to(version)) for one in version.rglob("run.json"))


def listing(version: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    return {
        str(one.relative_to(version)): (one.stat().st_size, one.stat().st_mtime_ns)
        for one in sorted(version.rglob("*"))
        if one.is_file()
    }


def sums(version: Path) -> str:
    """`sha256sum`'s lines for every file but the one that keeps them."""
    lines = [
        f"{hashlib.sha256((version / name).read_bytes()).hexdigest()}  {name}"
        for name in listing(version)
        if name != SUMS
    ]
    return "\n".join(lines) + "\n"
