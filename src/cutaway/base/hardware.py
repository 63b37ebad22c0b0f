"""What the machine has: device, dtype and threads, from what the user wrote or from `auto`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.base.errors import UserError, whole_in
from cutaway.base.files import human_bytes

if TYPE_CHECKING:
    import torch

# Control groups of version 2 and 1: where they are, the files that say what may be taken and what
# has been, and how the statistics call cached files, which are given back when memory is asked for.
_CGROUPS = (
    ("", "/sys/fs/cgroup", "memory.max", "memory.current", ("active_file", "inactive_file")),
    (
        *("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_active_file", "total_inactive_file"),
    ),
)


def device(name: str = "auto") -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; refuses one that is absent."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind == "mps" and not index:
        if torch.backends.mps.is_available():
            return torch.device("mps")
        raise UserError("device = 'mps': this machine or this torch build has no Metal support")
    if kind == "cuda" and (number := whole_in(index or "0")) is not None:
        count = torch.cuda.device_count()
        if number < count:
            return torch.device(name)
        raise UserError(f"device = {name!r}: torch sees {count} CUDA devices here")
    raise UserError(f"device = {name!r}: expected auto, cpu, cuda, cuda:N or mps")


def wide(on: torch.device) -> torch.dtype:
    """The dtype for sums that must not lose digits: float64, but float32 on Metal, which has none."""
    import torch

    return torch.float32 if on.type == "mps" else torch.float64


def widened(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in float64, for sums that must not lose digits.

    On their device where it has float64; those of Metal, which has none, come to the CPU.
    """
    return (values.cpu() if wide(values.device).itemsize < 8 else values).double()


def precisions(on: torch.device) -> tuple[str, ...]:
    """The precisions worth timing on this device: float32 always, bfloat16 where hardware has it.

    On a CPU without bfloat16 instructions torch emulates it, several times slower than float32.
    """
    import torch

    if on.type == "cuda":
        return ("float32", "bfloat16") if torch.cuda.is_bf16_supported() else ("float32",)
    if on.type == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags():
        return ("float32", "bfloat16")
    return ("float32",)


@lru_cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags, empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@lru_cache
def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def threads() -> int:
    """Cores this process may use (a container's share, not the machine's count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(on: torch.device | None = None) -> int:
    """Bytes that could be taken now: of main memory and swap, or of the GPU `on`.

    Of main memory what is free or could be freed, and no more than the container still allows.
    """
    if on is not None and on.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(on)[0]
    return min(_free_in_machine(), _free_in_container())


def require_memory(needs: Iterable[Need], on: torch.device | None = None) -> None:
    """Refuse, before slow work, what the memory cannot hold.

    Needs are lower bounds, so that nothing is refused that would fit. Raises UserError naming the
    settings of the largest need, what is needed and what is there.
    """
    needs = list(needs)
    if on is not None and on.type == "cuda":
        _require([need for need in needs if need.host], None)
        _require([need for need in needs if not need.host], on)
    else:
        _require(needs, None)


def _require(needs: list[Need], on: torch.device | None) -> None:
    if not needs:
        return
    needed, there = sum(need.bytes for need in needs), available_memory(on)
    if needed <= there:
        return
    worst = max(needs, key=lambda need: need.bytes)
    given = ", ".join(f"{name} = {value}" for name, value in worst.settings.items())
    raise UserError(
        f"{given}: at least {human_bytes(needed)} of memory needed ({worst.what}), "
        f"{human_bytes(there)} free; lower {' or '.join(worst.settings)}"
    )


@dataclass(frozen=True)
class Need:
    """Memory that some work needs: at least how many bytes, for what, by which settings.

    `host`: in main memory, also where the work is done on a GPU.
    """

    bytes: int
    what: str
    settings: Mapping[str, Any]
    host: bool = False


def _free_in_machine() -> int:
    free = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            free[name] = int(rest.split()[0]) * 1024
        return free["MemAvailable"] + free.get("SwapFree", 0)
    except (OSError, ValueError, KeyError, IndexError):  # not Linux: all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_container() -> int:
    """The least that any control group around this process still allows; no bound without one."""
    free = sys.maxsize
    try:
        lines = [one.split(":", 2) for one in Path("/proc/self/cgroup").read_text().splitlines()]
        within = {controllers: place.lstrip("/") for _, controllers, place in lines}
    except (OSError, ValueError):
        within = {}
    for controller, root, limit, used, cached in _CGROUPS:
        place = Path(root, within.get(controller, ""))
        for group in (place, *place.parents):
            if not group.is_relative_to(root):
                break
            try:
                allowed = int((group / limit).read_text()) - int((group / used).read_text())
                stat = dict(one.split() for one in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group seen from in here, or no limit ("max")
                continue
            free = min(free, allowed + sum(int(stat.get(name, 0)) for name in cached))
    return max(0, free)


@lru_cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory instead of handing it back; whether it agreed.

    A training step frees and takes again the same hundreds of megabytes. glibc returns every large
    block to the system, so each step pays for tens of thousands of page faults: measured 1.1x the
    time on a quiet machine and up to 4x on a virtual one whose host is slow to give pages.
    """
    import ctypes

    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc: macOS, Windows, musl
        return False
    return bool(mallopt(mmap_threshold, 2**30) and mallopt(trim_threshold, 2**31 - 1))


def describe(on: torch.device) -> str:
    """`'cpu: AMD EPYC, 2 threads'` or the GPU's name, for a run's record."""
    import torch

    if on.type == "cuda":
        return f"{on}: {torch.cuda.get_device_name(on)}"
    if on.type == "cpu":
        return f"cpu: {cpu_name()}, {torch.get_num_threads()} threads"
    return str(on)


def reseed(on: torch.device, seed: int) -> None:
    """Start the random streams that computing on this device draws from afresh.

    `torch.manual_seed` seeds every kind of device there could be; for those not in use it keeps
    the call, with a traceback, for later: 0.4 ms and some memory at every step.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if on.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif on.type == "mps":
        torch.mps.manual_seed(seed)
