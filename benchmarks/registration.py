"""What the plugin costs before anything runs: `python -m benchmarks.registration [--rounds 15]`.

`import timm_asap` after `import timm`, each round in a fresh process, and building a twin against building its plain
network, with their first weights, interleaved in one process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import timm
import torch

import timm_asap
from benchmarks import common

ARCHITECTURES = ("resnet50", "convnext_tiny", "efficientnet_b0", "densenet121")

_IMPORT = """
import time
began = time.perf_counter()
import timm
middle = time.perf_counter()
import timm_asap
print(middle - began, time.perf_counter() - middle)
"""


def _import_ms(rounds: int) -> dict[str, float]:
    runs = [
        subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout.split()
        for _ in range(rounds + 1)
    ][1:]  # the first fills the disk cache
    timm_ms, asap_ms = ([1e3 * float(run[i]) for run in runs] for i in (0, 1))
    return {
        "import timm": round(statistics.median(timm_ms), 1),
        "import timm_asap, more": round(statistics.median(asap_ms), 1),
        "import timm_asap, more, min": round(min(asap_ms), 1),
        "import timm_asap, more, max": round(max(asap_ms), 1),
    }


def _convert_ms(name: str, rounds: int) -> float:
    """Median time of the conversion by itself, which is all that a twin adds to its plain network's construction."""
    times = []
    for _ in range(rounds):
        model = timm.create_model(name)
        began = time.perf_counter()
        timm_asap.convert(model)
        times.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(times), 2)


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", default=15, type=int)
    args = parser.parse_args()
    device = torch.device("cpu")
    record = {"rounds": args.rounds, "twins": len(timm_asap.zoo.twin_names()), "import_ms": _import_ms(args.rounds)}
    for name, ms in record["import_ms"].items():
        print(f"{name}: {ms} ms")
    record["creation"] = {}
    for name in ARCHITECTURES:
        calls = {
            "plain": lambda name=name: timm.create_model(name),
            "twin": lambda name=name: timm.create_model(f"{name}_asap"),
        }
        timings = common.as_json(common.interleave(calls, "plain", device, args.rounds, warm_up=1))
        convert_ms = _convert_ms(name, args.rounds)
        record["creation"][name] = {**timings, "convert_ms": convert_ms}
        plain_ms = timings["plain"]["median_ms"]
        print(
            f"{name}: twin x plain {timings['twin']['ratio']:.3f}; of {plain_ms:.0f} ms, converting {convert_ms:.1f} ms"
        )
    print(common.store("registration", device, record))


if __name__ == "__main__":
    main()
