"""Writes docs/speed.md from the records in `benchmarks/results/`: `python -m benchmarks.report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"

HEAD = """# Speed

Generated from `benchmarks/results/` by `python -m benchmarks.report`. Every table was measured in one process, its
contenders interleaved; times are medians over the rounds, the ratio is the median of each round's ratio to the
yardstick, with the smallest and largest. The machines are shared: trust ratios, not milliseconds.
"""


def page(records: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for name, record in records.items():
        environment = record["environment"]
        parts.append(f"\n## {name}\n")
        parts.append(
            f"{environment['device']}; PyTorch {environment['torch']}, timm {environment['timm']}; "
            f"{record['dtype']}, batch {record['batch_size']}, {record['rounds']} rounds.\n"
        )
        for table in record["tables"]:
            parts.append(_table(record, table))
    return "\n".join(parts)


def _table(record: dict[str, Any], table: dict[str, Any]) -> str:
    memory_format = table.get("memory_format") or record["memory_format"]
    call = table["call"].replace("forward_backward", "forward + backward").replace("_", " ")
    lines = [
        f"\n### {table.get('group') or table['family']}: {call}, {memory_format}\n",
        f"| | ms | x {table['yardstick']} | min to max | peak MiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in table["rows"].items():
        lines.append(
            f"| {name} | {row['median_ms']:.2f} | {row['ratio']:.2f} | {row['ratio_min']:.2f} to {row['ratio_max']:.2f} "
            f"| {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


def load_records() -> dict[str, dict[str, Any]]:
    """The records of the pooling and network benchmarks, by file name."""
    paths = sorted(p for pattern in ("pooling*", "networks*") for p in RESULTS.glob(f"{pattern}.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


if __name__ == "__main__":
    PAGE.write_text(page(load_records()) + "\n")
    print(PAGE)
