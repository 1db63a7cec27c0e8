"""Timing, peak memory and records, shared by the benchmarks."""

from __future__ import annotations

import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """One contender: milliseconds per call over the rounds, and its ratio to the yardstick round by round."""

    median_ms: float
    min_ms: float
    max_ms: float
    ratio: float
    ratio_min: float
    ratio_max: float


def synchronize(device: torch.device) -> None:
    """Wait for the device to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    contenders: dict[str, Callable[[], Any]],
    yardstick: str,
    device: torch.device,
    rounds: int,
    warm_up: int = 2,
    clock: str = "wall",
) -> dict[str, Timing]:
    """Time every contender once per round, in turn.

    Args:
        contenders: Name and call.
        yardstick: Name of the contender that the ratios are to.
        device: Where the calls run.
        rounds: How many times each is timed.
        warm_up: How many times each is called before.
        clock: `"wall"`, or `"cpu"` for the time that the process was on a core, all its threads together.
    """
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            synchronize(device)
            began = now()
            call()
            synchronize(device)
            seconds[name].append(now() - began)
    return {name: _timing(times, seconds[yardstick]) for name, times in seconds.items()}


def _timing(seconds: list[float], yardstick: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(seconds, yardstick, strict=True)]
    ms = [1e3 * s for s in seconds]
    values = (statistics.median(ms), min(ms), max(ms), statistics.median(ratios), min(ratios), max(ratios))
    return Timing(*(float(f"{v:.4g}") for v in values))


def peak_of(call: Callable[[], Any], device: torch.device) -> float:
    """MiB that the call needs beyond what is there before it (resident memory on the CPU, allocations on CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Linux: give freed memory back, then lower the recorded peak to what is resident now.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kib()
    call()
    return (_peak_kib() - before) / 2**10


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def environment(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions, for the record."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def path_of(name: str, device: torch.device) -> Path:
    """`benchmarks/results/NAME.DEVICE.json`."""
    slug = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device).lower().replace(" ", "_")
    return RESULTS / f"{name}.{slug}.json"


def store(name: str, device: torch.device, record: dict[str, Any]) -> Path:
    """Write a record to `benchmarks/results/NAME.DEVICE.json`."""
    path = path_of(name, device)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(device), **record}, indent=1) + "\n")
    return path


def as_json(timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Timings as plain numbers."""
    return {name: asdict(timing) for name, timing in timings.items()}


def print_table(title: str, yardstick: str, rows: dict[str, dict[str, Any]]) -> None:
    """One row per contender: median time, spread, ratio to the yardstick, and peak memory where it was taken."""
    table = Table(title=title, title_justify="left")
    table.add_column("contender", no_wrap=True)
    for heading in ("ms", "min to max", f"x {yardstick}", "min to max ", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        peak = row.get("peak_mib")
        table.add_row(
            name,
            f"{row['median_ms']:.2f}",
            f"{row['min_ms']:.2f} to {row['max_ms']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}",
            "-" if peak is None else f"{peak:.0f}",
        )
    Console(width=120).print(table)
