"""docs/speed.md from the records: a table for each question, and the two plots."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from timm_asap.ops import resample
from timm_asap.zoo import summary

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = "networks.float32.eager.cpu"
PHONE = (
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobileone_s0",
    "mobileone_s0, fused",
    "repvit_m0_9",
    "fastvit_t8",
)

Record = dict[str, Any]

HEAD = """# Speed

Generated from `benchmarks/results/` by `python -m benchmarks.report`. Every ratio is the median of ratios taken side by
side in one process, its contenders in turn; the range is that of the rounds. The machines are shared: trust ratios, not
milliseconds.
"""

NOT_MEASURED = """
## What is not measured

- **bfloat16.** The processor has no instructions for it, so that PyTorch computes it by float32: the numbers would say
  nothing of a processor that has. `python -m benchmarks.networks --dtype bfloat16` measures where it does.
- **`torch.compile`.** `--compile` measures it.
- **GPUs.** `--device cuda` measures them.
- **A training step of `mobileone_s0` and `fastvit_t8` in channels_last**: the plain networks end the process in PyTorch
  2.14.1 on a CPU, in the gradient of the weights of a 1 x 1 convolution of stride 2 on three channels.
"""


def page(records: dict[str, Record]) -> str:
    """The whole page but what is said of training."""
    networks, scale = records[NETWORKS], records["scale.cpu"]
    tried = _tried(records["depthwise.cpu"])
    evaluated = _evaluation(records["evaluation.cpu"])
    parts = [HEAD, _questions(networks), _scale(scale), _multiply_adds(networks), evaluated, tried, NOT_MEASURED]
    return "\n".join(parts)


def by_network(record: Record) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """The rows of a record: by network, then by call and memory format."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = defaultdict(dict)
    for table in record["tables"]:
        found[table["family"]][table["call"], table["memory_format"]] = table["rows"]
    return dict(found)


def environment_line(record: Record) -> str:
    """Device, versions and rounds."""
    environment = record["environment"]
    clock = ", CPU time of the process" if record.get("clock") == "cpu" else ""
    size = f" at {record['image_size']} x {record['image_size']}" if "image_size" in record else ""
    return (
        f"{environment['device']}; PyTorch {environment['torch']}, timm {environment['timm']}; {record['dtype']}, "
        f"batch {record['batch_size']}{size}, {record['rounds']} rounds{clock}."
    )


def _questions(record: Record) -> str:
    networks = by_network(record)
    phone = [name for name in networks if name in PHONE]
    server = [name for name in networks if name not in PHONE]
    parts = [
        "\n## Which twin for a phone?\n",
        environment_line(record),
        "\nInference, as a multiple of the plain network's time; *blur* is BlurPool's filter at the same layers, "
        "*released* the authors' FFT pooling in the paper's layout.\n",
        _inference(networks, phone),
        "\n## Which for a server?\n",
        _inference(networks, server),
        "\n## What does training cost?\n",
        "A step (forward, backward, SGD) and the most memory that it needs beyond the weights, as multiples of the "
        "plain "
        f"network's; {record['training_rounds']} rounds.\n",
        _training(networks, [*phone, *server]),
    ]
    return "\n".join(parts)


def _cell(rows: dict[str, Any], name: str) -> str:
    if name not in rows:
        return "-"
    row = rows[name]
    return f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"


def _inference(networks: dict, names: list[str]) -> str:
    lines = ["| | memory format | plain, ms | twin | blur | released |", "|---|---|---:|---:|---:|---:|"]
    for name in names:
        for (call, memory_format), rows in networks[name].items():
            if call == "inference":
                cells = " | ".join(_cell(rows, contender) for contender in ("asap", "blur", "released"))
                lines.append(f"| {name} | {memory_format} | {rows['plain']['median_ms']:.0f} | {cells} |")
    return "\n".join(lines)


def _training(networks: dict, names: list[str]) -> str:
    lines = [
        "| | memory format | plain, ms | twin | blur | twin's memory | blur's memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        for (call, memory_format), rows in networks[name].items():
            if call == "training_step":
                cells = " | ".join(_cell(rows, contender) for contender in ("asap", "blur"))
                peak = max(rows["plain"]["peak_mib"], 1)
                memory = " | ".join(f"{rows[contender]['peak_mib'] / peak:.2f}" for contender in ("asap", "blur"))
                lines.append(f"| {name} | {memory_format} | {rows['plain']['median_ms']:.0f} | {cells} | {memory} |")
    return "\n".join(lines)


def _scale(record: Record) -> str:
    names = list(record["networks"])
    lines = [
        "\n## Which for 1024 pixels?\n",
        environment_line(record) + " Inference, channels_last.\n",
        "| pixels | " + " | ".join(f"{n}, ms | {n}_asap, multiple" for n in names) + " |",
        "|---:|" + "---:|---:|" * len(names),
    ]
    for size in record["networks"][names[0]]:
        cells = []
        for name in names:
            rows = record["networks"][name][size]
            cells += [f"{rows['plain']['median_ms']:.0f}", _cell(rows, "asap")]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    lines += [
        "\n![Time against the size of the input, of the operator and of networks](speed_scale.png)\n",
        f"The operator by itself, on {record['channels']} maps, NCHW. A product with matrices grows with the third "
        "power of the size, a network with the second, a Fourier transform hardly faster. So low-passes of "
        f"{resample._LARGE_AXIS} pixels and more run by the transform where no size has a prime factor above 7, in "
        "float32 and float64, with the boundary `circular`, on a CPU and outside exported graphs; everything else, "
        "pools among it, multiplies by matrices. The twin of a small network still grows faster than the network.\n",
        "| pixels | matrices, ms | Fourier, multiple | pool by matrices, multiple |",
        "|---:|---:|---:|---:|",
    ]
    for size, rows in record["operator"].items():
        lines.append(
            f"| {size} | {rows['matrices']['median_ms']:.2f} | {_cell(rows, 'fourier')} | {_cell(rows, 'pool')} |"
        )
    return "\n".join(lines)


def twin_costs() -> dict[str, tuple[float, float]]:
    """Of every twin: the plain network's billions of multiply-adds, and the twin's as a multiple of them."""
    rows = summary._shipped().values()
    return {row.name: (row.macs / 1e9, 1 + row.added_macs / row.macs) for row in rows if row.macs}


def _multiply_adds(record: Record) -> str:
    costs = twin_costs()
    ratios = [ratio for _, ratio in costs.values()]
    below = [sum(ratio <= bound for ratio in ratios) / len(ratios) for bound in (1.05, 1.15, 1.5)]
    most = sorted(costs, key=lambda name: costs[name][1])[-5:][::-1]
    shown = ", ".join(f"`{name}` {costs[name][1]:.2f}" for name in most)
    return (
        "\n## And every other twin?\n\n"
        "![Multiply-adds of every twin over its plain network, with the measured ones marked](speed_macs.png)\n\n"
        f"Multiply-adds of {len(costs)} twins at their own input size, as multiples of the plain network's, counted "
        f"with matrices everywhere: median {statistics.median(ratios):.2f}; {100 * below[0]:.0f} % are at most 1.05, "
        f"{100 * below[1]:.0f} % at most 1.15, {100 * below[2]:.0f} % at most 1.5. The most: {shown}. A multiply-add "
        "of a matrix product is cheaper than one of a depthwise convolution: mobile networks take less time than the "
        "count says."
    )


def _tried(record: Record) -> str:
    tables = record["tables"]
    forms = [name for name in tables[0]["rows"] if name != "twin"]
    lines = [
        "\n## What was tried for mobile networks\n",
        environment_line(record),
        "A depthwise convolution of stride 2 in other forms, each as a multiple of what the twin does; "
        "`benchmarks/depthwise.py` says what they are. *whole* is the twin without dividing large batches. *conv, "
        "pool* "
        "is another network at the borders, which no saved one means, and a training step pays back what inference "
        "gains: the gradient of a depthwise convolution at stride 1 costs more than the product that it saves.\n",
        "| channels, size, kernel | memory format | | " + " | ".join(forms) + " |",
        "|---|---|---|" + "---:|" * len(forms),
    ]
    for table in tables:
        site = f"{table['channels']} x {table['size']} x {table['size']}, {table['kernel']} x {table['kernel']}"
        call = table["call"].replace("_", " + ")
        cells = " | ".join(f"{table['rows'][name]['ratio']:.2f}" for name in forms)
        lines.append(f"| {site} | {table['memory_format']} | {call} | {cells} |")
    return "\n".join(lines)


def _evaluation(record: Record) -> str:
    kinds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, row in record["rows"].items():
        kinds[name.partition("/")[0]].append((row["cell"]["median_ms"], row["bare"]["median_ms"]))
    lines = [
        "\n## How much of an evaluation is the network's?\n",
        environment_line(record),
        "The default measures of `timm-asap evaluate` at 32 pixels, through `resnet20_lowres_asap`, over the bare "
        "forward "
        "and backward passes that they need (`benchmarks/evaluation.py`).\n",
        "| measure | cells | time over bare passes | highest of a cell |",
        "|---|---:|---:|---:|",
    ]
    for kind, times in kinds.items():
        ratio = sum(cell for cell, _ in times) / sum(bare for _, bare in times)
        highest = max(cell / bare for cell, bare in times)
        lines.append(f"| {kind} | {len(times)} | {ratio:.2f} | {highest:.2f} |")
    total = sum(cell for times in kinds.values() for cell, _ in times)
    bare = sum(bare for times in kinds.values() for _, bare in times)
    lines.append(f"| all of these | {sum(map(len, kinds.values()))} | {total / bare:.2f} | |")
    return "\n".join(lines)


def plot(records: dict[str, Record]) -> list[Path]:
    """Draw both pictures of the page."""
    import matplotlib

    matplotlib.use("Agg")
    return [_plot_scale(records["scale.cpu"]), _plot_multiply_adds(records[NETWORKS])]


def _plot_scale(record: Record) -> Path:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    sizes = [int(size) for size in record["operator"]]
    for name, label in (
        ("matrices", "low-pass, matrices"),
        ("fourier", "low-pass, Fourier"),
        ("pool", "pool, matrices"),
    ):
        times = [rows[name]["median_ms"] for rows in record["operator"].values()]
        left.plot(sizes, times, marker="o", markersize=4, label=label)
    left.axvline(resample._LARGE_AXIS, color="gray", linestyle=":", linewidth=1)
    left.set_title(f"The operator on {record['channels']} maps", fontsize=10)
    for (name, rows), color in zip(record["networks"].items(), ("C0", "C1", "C2"), strict=False):
        sizes_here = [int(size) for size in rows]
        for contender, style in (("plain", "-"), ("asap", "--")):
            times = [row[contender]["median_ms"] for row in rows.values()]
            label = name if contender == "plain" else f"{name}_asap"
            right.plot(sizes_here, times, style, color=color, marker="o", markersize=4, label=label)
    right.set_title("Networks, one image", fontsize=10)
    ticks = [96, 128, 192, 256, 384, 512, 768, 1024]
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="pixels", ylabel="ms of one thread")
        axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _save(figure, "speed_scale.png")


def _plot_multiply_adds(record: Record) -> Path:
    import matplotlib.pyplot as plt

    costs = twin_costs()
    figure, axes = plt.subplots(figsize=(11, 5.5))
    axes.scatter(*zip(*costs.values(), strict=True), s=8, color="0.7", label=f"{len(costs)} twins, multiply-adds")
    counted, measured, key = [], [], []
    for name, tables in by_network(record).items():
        twin, rows = f"{name}_asap", tables.get(("inference", "channels_last"), {})
        if twin in costs and "asap" in rows:
            macs, ratio = costs[twin]
            counted.append((macs, ratio))
            measured.append((macs, rows["asap"]["ratio"]))
            axes.plot([macs, macs], [ratio, rows["asap"]["ratio"]], color="C1", linewidth=0.8)
            number = len(measured)
            key.append(f"{number}  {name}")
            axes.annotate(
                str(number), (macs, rows["asap"]["ratio"]), fontsize=8, xytext=(5, -3), textcoords="offset points"
            )
    if counted:
        axes.scatter(*zip(*counted, strict=True), s=22, color="C0", label="of these measured, multiply-adds")
        axes.scatter(*zip(*measured, strict=True), s=30, color="C1", marker="x", label="time, inference, channels_last")
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.text(0.8, 0.82, "\n".join(key), transform=axes.transAxes, fontsize=8, va="top")
    axes.set(xscale="log", yscale="log", xlabel="billions of multiply-adds, plain", ylabel="twin / plain")
    ticks = [1, 1.1, 1.25, 1.5, 2, 3, 5]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(figure, "speed_macs.png")


def _save(figure: Any, name: str) -> Path:
    path = DOCS / name
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def readme_table(record: Record) -> str:
    """The README's table: twins over plain networks."""
    lines = ["| time of the twin / plain network | inference | training step |", "|---|---:|---:|"]
    for name, tables in by_network(record).items():
        cells = []
        for call in ("inference", "training_step"):
            rows = [tables[key] for key in tables if key[0] == call]
            cells.append(" to ".join(f"{ratio:.2f}" for ratio in sorted(row["asap"]["ratio"] for row in rows)) or "-")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)
