"""The plots of bench/scaling: from its JSON to PNG and SVG files beside it. Started by bench/scaling with a Python that
has matplotlib:

  scaling_plots.py NAME.json

NAME-speed: tokens/s against ranks, with the ideal line. NAME-time: what a token's time is spent on. NAME-roofline:
tokens/s against tokens a step, below what the memory allows. NAME-depth and NAME-batch where such sweeps were run."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullLocator  # noqa: E402

FORMAT = "tandem-scaling 1"
# Okabe and Ito's colours: told apart by everyone, and in grey.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
COMPUTE, EXCHANGE, IDEAL = "#0072B2", "#E69F00", "#888888"

STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": True,
    "legend.edgecolor": "none", "legend.facecolor": "white", "legend.framealpha": 0.85,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 5,
    "svg.fonttype": "none", "svg.hashsalt": "tandem", "savefig.dpi": 200, "figure.dpi": 100,
}


def thousands(value, _=None):
    if value >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def caption(found):
    """The machine, in one line that fits below a plot."""
    machine = found["machine"]
    device = machine["gpu"] or machine["cpu"]
    parts = [found["model"]["file"], device]
    if machine["gpu"] and machine["driver"]:
        parts.append(f"driver {machine['driver']}")
    if not machine["gpu"]:
        parts.append(f"{machine['cores']} cores")
    parts += [f"tandem {found['commit']}", found["date"][:10]]
    return " · ".join(parts)


def save(figure, found, base, name):
    # Inches above the figure's edge, whatever its height.
    figure.text(0.5, 0.06 / figure.get_figheight(), caption(found), ha="center", va="bottom", fontsize=6.5,
                color="#666666")
    figure.tight_layout(rect=(0, 0.25 / figure.get_figheight(), 1, 1))
    for suffix in ("png", "svg"):
        path = base.with_name(f"{base.name}-{name}.{suffix}")
        figure.savefig(path, metadata={"Date": None} if suffix == "svg" else None)
        print(path)
    plt.close(figure)


def test_label(point):
    if point["n_prompt"]:
        label = f"prompt of {point['n_prompt']}"
    else:
        label = f"generation of {point['n_gen']}"
    label += f", {point['n_parallel']} sequences" if point["n_parallel"] > 1 else ""
    return label + (f", depth {point['n_depth']}" if point["n_depth"] else "")


def base_tests(points):
    """The points of one sequence at depth 0, a list a test: generations, then prompts."""
    tests = {}
    for point in points:
        if point["n_parallel"] == 1 and point["n_depth"] == 0:
            tests.setdefault((point["n_prompt"], point["n_gen"]), []).append(point)
    return [tests[key] for key in sorted(tests)]


def comms(points):
    """The ways to exchange among points of several ranks; [None] where there are none (CPUs)."""
    found = list(dict.fromkeys(p["comm"] for p in points if p["ranks"] > 1))
    return found or [None]


def series(points, comm):
    """Equal shares, by ranks: the one rank, and those that exchange by `comm`."""
    chosen = [p for p in points if p["split"] is None and (p["ranks"] == 1 or p["comm"] == comm)]
    return sorted(chosen, key=lambda p: p["ranks"])


def mark(axis, points, x_of, color, marker):
    """Markers with bars of one standard deviation, hollow where threads shared cores."""
    for point in points:
        face = "white" if point["oversubscribed"] else color
        axis.errorbar(x_of(point), point["ts"], yerr=point["ts_stddev"], color=color, marker=marker, mfc=face,
                      capsize=2, elinewidth=0.8, zorder=3)


def draw_speed(found, base):
    tests = base_tests(found["points"])
    figure, axes = plt.subplots(1, len(tests), figsize=(3.5 * len(tests), 3.0), squeeze=False)
    for axis, points in zip(axes[0], tests):
        ranks = sorted({p["ranks"] for p in points})
        one = next((p["ts"] for p in points if p["ranks"] == 1), None)
        if one:
            axis.plot([1, ranks[-1]], [one, one * ranks[-1]], color=IDEAL, linestyle=(0, (4, 3)), linewidth=1.2,
                      label="ideal", zorder=1)
        ways = comms(points)
        for i, comm in enumerate(ways):
            line = series(points, comm)
            axis.plot([p["ranks"] for p in line], [p["ts"] for p in line], color=COLORS[i], zorder=2,
                      label=f"tandem, {comm}" if len(ways) > 1 else "tandem")
            mark(axis, line, lambda p: p["ranks"], COLORS[i], MARKERS[i])
            if len(ways) == 1:
                for p in line:
                    if p["efficiency"] is not None and p["ranks"] > 1:
                        axis.annotate(f"{p['efficiency']:.0%}", (p["ranks"], p["ts"]), textcoords="offset points",
                                      xytext=(0, -12), ha="center", fontsize=7.5, color=COLORS[i])
        splits = list(dict.fromkeys(p["split"] for p in points if p["split"]))
        for i, split in enumerate(splits):
            color, marker = COLORS[(len(ways) + i) % len(COLORS)], MARKERS[(len(ways) + i) % len(MARKERS)]
            mark(axis, [p for p in points if p["split"] == split], lambda p: p["ranks"], color, marker)
            axis.plot([], [], color=color, marker=marker, linestyle="none", label=f"split {split}")
        if any(p["oversubscribed"] for p in points):
            axis.plot([], [], color="#444444", marker="o", mfc="white", linestyle="none",
                      label="more threads than cores")
        axis.set_xticks(ranks)
        axis.set_xlim(ranks[0] - 0.35, ranks[-1] + 0.35)
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(FuncFormatter(thousands))
        axis.grid(axis="x", visible=False)
        axis.set_xlabel("GPUs" if found["machine"]["gpu"] else "ranks")
        axis.set_ylabel("tokens/s")
        axis.set_title(test_label(points[0]))
        axis.legend(loc="upper left")
    save(figure, found, base, "speed")


def bar_label(point, several_ways):
    label = f"{point['ranks']}"
    if point["split"]:
        label += f"\n{point['split'].replace(',', ':')}"
    if several_ways and point["ranks"] > 1:
        label += f"\n{point['comm']}"
    return label


def draw_time(found, base):
    tests = [[p for p in points if p["collective_share"] is not None] for points in base_tests(found["points"])]
    tests = [points for points in tests if points]
    if not tests:
        return
    figure, axes = plt.subplots(1, len(tests), figsize=(3.5 * len(tests), 3.0), squeeze=False)
    for axis, points in zip(axes[0], tests):
        ways = comms(points)
        points.sort(key=lambda p: (p["ranks"], p["split"] or "", ways.index(p["comm"]) if p["ranks"] > 1 else 0))
        tokens = points[0]["n_prompt"] + points[0]["n_gen"]
        places = range(len(points))
        compute = [p["compute_ms"] / tokens for p in points]
        exchange = [p["collective_ms"] / tokens for p in points]
        axis.bar(places, compute, 0.62, color=COMPUTE, label="compute")
        axis.bar(places, exchange, 0.62, bottom=compute, color=EXCHANGE, label="communication")
        highest = max(a + b for a, b in zip(compute, exchange))
        for x, a, b, p in zip(places, compute, exchange, points):
            if p["ranks"] > 1:
                axis.text(x, a + b + 0.015 * highest, f"{p['collective_share']:.0%}", ha="center", va="bottom",
                          fontsize=7.5, color="#8a5a00")
        axis.set_xticks(list(places), [bar_label(p, len(ways) > 1) for p in points])
        axis.set_ylim(0, highest * 1.28)
        axis.grid(axis="x", visible=False)
        axis.set_xlabel("GPUs" if found["machine"]["gpu"] else "ranks")
        axis.set_ylabel("ms a token")
        axis.set_title(test_label(points[0]))
        axis.legend(loc="upper right", ncols=2, handlelength=1.2, columnspacing=1.0)
    save(figure, found, base, "time")


def tokens_a_step(point):
    """How many tokens share one reading of the weights."""
    if point["n_gen"]:
        return point["n_parallel"]
    return min(point["n_prompt"] * point["n_parallel"], point["n_batch"])


def memory_roof(points, ranks):
    """(tokens/s of one sequence that reading alone allows) on so many ranks; None where nothing was generated."""
    for point in points:
        if point["ranks"] == ranks and point["n_gen"] and point["n_parallel"] == 1 and point["split"] is None:
            return point["sweep_gbps"] * 1e9 / point["weight_bytes_step"]
    return None


def draw_roofline(found, base):
    points = [p for p in found["points"] if p["split"] is None]
    figure, axis = plt.subplots(figsize=(4.8, 3.5))
    comm = comms(points)[0]
    unit = "GPU" if found["machine"]["gpu"] else "rank"
    widest = max(tokens_a_step(p) for p in points)
    highest = 0
    for i, ranks in enumerate(sorted({p["ranks"] for p in points})):
        own = [p for p in points if p["ranks"] == ranks and (ranks == 1 or p["comm"] == comm)]
        roof = memory_roof(own, ranks)
        color = COLORS[i % len(COLORS)]
        prompts = [p["ts"] for p in own if p["n_prompt"]]
        if roof is not None:
            # Where prompts show what the arithmetic allows, the roof is flat from there on.
            flat = max(prompts) if prompts else roof * widest
            bend = max(1.0, flat / roof)
            axis.plot([1, bend], [roof, roof * bend], color=color, linewidth=1.1)
            axis.plot([bend, max(widest, bend) * 1.4], [roof * bend] * 2, color=color, linewidth=1.1,
                      linestyle=(0, (2, 2)))
            highest = max(highest, roof * bend)
        mark(axis, [p for p in own if p["n_depth"] == 0 or p["n_parallel"] > 1], tokens_a_step, color,
             MARKERS[i % len(MARKERS)])
        axis.plot([], [], color=color, marker=MARKERS[i % len(MARKERS)], linestyle="none",
                  label=f"{ranks} {unit}{'s' if ranks > 1 else ''}")
    handles, _ = axis.get_legend_handles_labels()
    handles += [Line2D([], [], color="#444444", linewidth=1.1, label="memory: read sweep / weight bytes"),
                Line2D([], [], color="#444444", linewidth=1.1, linestyle=(0, (2, 2)), label="fastest prompt measured")]
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=10)
    axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    axis.yaxis.set_major_formatter(FuncFormatter(thousands))
    axis.yaxis.set_minor_locator(NullLocator())
    lowest = min(p["ts"] for p in points)
    axis.set_ylim(lowest / 2, max(highest, max(p["ts"] for p in points)) * 2)
    axis.set_xlabel("tokens a step (that share one reading of the weights)")
    axis.set_ylabel("tokens/s")
    axis.set_title("roofline")
    axis.legend(handles=handles, loc="lower right")
    save(figure, found, base, "roofline")


def draw_sweep(found, base, name, points, x_of, x_label, title):
    """tokens/s against something, a line a rank count; nothing where there is no sweep."""
    if len({x_of(p) for p in points}) < 2:
        return
    figure, axis = plt.subplots(figsize=(5.8, 3.2))
    unit = "GPU" if found["machine"]["gpu"] else "rank"
    ways = comms(points)
    i = 0
    for ranks in sorted({p["ranks"] for p in points}):
        for comm in ways if ranks > 1 else ways[:1]:
            line = sorted((p for p in series(points, comm) if p["ranks"] == ranks), key=x_of)
            if not line:
                continue
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            label = f"{ranks} {unit}{'s' if ranks > 1 else ''}"
            axis.plot([x_of(p) for p in line], [p["ts"] for p in line], color=color, marker=marker, zorder=2,
                      mfc="white" if line[0]["oversubscribed"] else color,
                      label=label + (f", {comm}" if ranks > 1 and len(ways) > 1 else ""))
            mark(axis, line, x_of, color, marker)
            i += 1
    if name == "batch":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(thousands))
    axis.set_xticks(sorted({x_of(p) for p in points}))
    if name == "batch":
        axis.set_yscale("log", base=10)
        axis.set_ylim(min(p["ts"] for p in points) / 1.5, max(p["ts"] for p in points) * 1.5)
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: thousands(v) if f"{v:e}"[0] in "25" else ""))
    else:
        axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(thousands))
    axis.set_xlabel(x_label)
    axis.set_ylabel("tokens/s")
    axis.set_title(title)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))  # beside the lines, wherever they run
    save(figure, found, base, name)


def main():
    path = pathlib.Path(sys.argv[1])
    found = json.loads(path.read_text())
    if found.get("format") != FORMAT:
        sys.exit(f"scaling_plots: {path}: not a document of bench/scaling ({FORMAT})")
    base = path.with_suffix("")
    plt.rcParams.update(STYLE)
    points = found["points"]
    generations = [p for p in points if p["n_gen"] and p["split"] is None]
    draw_speed(found, base)
    draw_time(found, base)
    draw_roofline(found, base)
    draw_sweep(found, base, "depth", [p for p in generations if p["n_parallel"] == 1], lambda p: p["n_depth"],
               "tokens in the cache before", "generation by depth")
    # Several sequences generate behind a prompt each; one behind nothing, or as deep where that was run.
    batches = [p for p in generations if p["n_parallel"] > 1 or p["n_depth"] == 0]
    draw_sweep(found, base, "batch", batches, lambda p: p["n_parallel"], "sequences at once",
               "generation, all sequences together")


if __name__ == "__main__":
    main()
