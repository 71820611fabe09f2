"""What scripts/benchmark.py measured, as JSON, as a Markdown table and as a picture."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from robomimic_frozen.utils.machine import processor

VARIANTS = {
    "unfrozen": "(a) unfrozen, float32, as stock robomimic runs it",
    "unfrozen_tuned": "(b) unfrozen, bfloat16 autocast, channels_last, only the frames the policy reads",
    "frozen": "(c) frozen, no cache",
    "cached": "(d) frozen, cached features",
    "cached_float32": "(e) as (d), with algo.precision float32",
    "cached_positions": "(f) as (d), the map of stride 8 read by convolutions, as in the ready configs",
}
FINE_TUNING = {
    "fine_tune": "from pixels: the default config with algo.feature_cache.enabled=false",
    "fine_tune_tuned": "from pixels in memory, only the frames the policy reads",
    "fine_tune_cached": "from cached activations of the stage before",
}
# End to end: what one of robomimic's multi-human image sets amounts to.
TOTAL_STEPS, TOTAL_FRAMES = 20_000, 30_000


def make_report(
    results: dict[str, Any], scaling: dict[str, Any], fine_tuning: dict[str, Any], setting: dict[str, Any]
) -> dict[str, Any]:
    """Medians and ratios.

    Args:
        results: backbone -> variant -> what was measured.
        scaling, fine_tuning: name -> what was measured, of the first backbone.
        setting: the Job of all of them.
    """
    import torch
    import torchvision

    speedup = {}
    for backbone, variants in results.items():
        seconds = {variant: facts["seconds"] for variant, facts in variants.items()}
        extraction = TOTAL_FRAMES * len(setting["cameras"]) / variants["cached"]["extraction_images_per_s"]
        median = {variant: statistics.median(values) for variant, values in seconds.items()}
        speedup[backbone] = {
            "step": median["unfrozen"] / median["cached"],
            "step_range": _range_of_ratios(seconds["unfrozen"], seconds["cached"]),
            "step_float32": median["unfrozen"] / median["cached_float32"],
            "step_positions": median["unfrozen"] / median["cached_positions"],
            "step_vs_tuned": median["unfrozen_tuned"] / median["cached"],
            "step_vs_tuned_range": _range_of_ratios(seconds["unfrozen_tuned"], seconds["cached"]),
            "end_to_end": TOTAL_STEPS * median["unfrozen"] / (TOTAL_STEPS * median["cached"] + extraction),
            "end_to_end_vs_tuned": TOTAL_STEPS * median["unfrozen_tuned"] / (TOTAL_STEPS * median["cached"] + extraction),
        }
    tuned = {variant: statistics.median(facts["seconds"]) for variant, facts in fine_tuning.items()}
    cached = {backbone: variants["cached"] for backbone, variants in results.items()}
    return {
        "speedup": speedup,
        "extraction": {
            backbone: {"images_per_s": facts["extraction_images_per_s"], "precision": facts["extraction_precision"]}
            for backbone, facts in cached.items()
        },
        "variants": [
            {
                "backbone": backbone,
                "variant": variant,
                "seconds_per_step": statistics.median(facts["seconds"]),
                **{key: value for key, value in facts.items() if not key.startswith("extraction")},
            }
            for backbone, variants in results.items()
            for variant, facts in variants.items()
        ],
        "cached_step_scaling": {
            "backbone": next(iter(results)),
            "seconds_per_step": {name: statistics.median(facts["seconds"]) for name, facts in scaling.items()},
        },
        "fine_tuning": {
            "backbone": next(iter(results)),
            "seconds_per_step": tuned,
            "ratio": tuned["fine_tune"] / tuned["fine_tune_cached"],
            "ratio_vs_tuned": tuned["fine_tune_tuned"] / tuned["fine_tune_cached"],
        },
        "setting": {
            "cameras": len(setting["cameras"]),
            "image_size": setting["image_size"],
            "crop_of_unfrozen": setting["image_size"] - 8,
            "batch_size": setting["batch_size"],
            "end_to_end": {"steps": TOTAL_STEPS, "frames": TOTAL_FRAMES},
        },
        "device": torch.cuda.get_device_name() if setting["device"] == "cuda" else f"{processor()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def _range_of_ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Smallest and largest ratio of the two in one round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return [min(ratios), max(ratios)]


def markdown(report: dict[str, Any]) -> str:
    """The tables to print."""
    setting = report["setting"]
    lines = [
        f"{report['device']}; {setting['cameras']} cameras {setting['image_size']}x{setting['image_size']}, cropped to "
        f"{setting['crop_of_unfrozen']}x{setting['crop_of_unfrozen']} for (a) and (b), batch {setting['batch_size']}",
        "",
        "| backbone | variant | ms/step | trainable of encoder parameters | peak RSS |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['backbone']} | {VARIANTS[row['variant']]} | {1000 * row['seconds_per_step']:.1f} | "
        f"{row['trainable_encoder_parameters']:,} of {row['encoder_parameters']:,} | {row['peak_rss_mb']} MB |"
        for row in report["variants"]
    ]
    end_to_end = setting["end_to_end"]
    lines += ["", "| ratio (range over rounds) | " + " | ".join(report["speedup"]) + " |", "|---|" + "---|" * len(report["speedup"])]
    rows = {
        "train step, (a) / (d)": lambda r: f"{r['step']:.0f}x ({r['step_range'][0]:.0f}-{r['step_range'][1]:.0f})",
        "train step, (a) / (e)": lambda r: f"{r['step_float32']:.0f}x",
        "train step, (a) / (f)": lambda r: f"{r['step_positions']:.0f}x",
        "train step, (b) / (d)": lambda r: f"{r['step_vs_tuned']:.0f}x "
        f"({r['step_vs_tuned_range'][0]:.0f}-{r['step_vs_tuned_range'][1]:.0f})",
        f"end to end (a) / (d), {end_to_end['steps']:,} steps, extraction of {end_to_end['frames']:,} frames included": lambda r: (
            f"{r['end_to_end']:.0f}x"
        ),
        "end to end (b) / (d)": lambda r: f"{r['end_to_end_vs_tuned']:.0f}x",
    }
    lines += [f"| {name} | " + " | ".join(show(ratio) for ratio in report["speedup"].values()) + " |" for name, show in rows.items()]
    rates = [f"{facts['images_per_s']:.0f} ({facts['precision']})" for facts in report["extraction"].values()]
    lines.append("| extraction, images/s | " + " | ".join(rates) + " |")
    sizes = [f"{row['cache_bytes_per_frame']:,}" for row in report["variants"] if row["variant"] == "cached"]
    lines.append("| cache, bytes/frame | " + " | ".join(sizes) + " |")
    scaling = report["cached_step_scaling"]
    lines += ["", f"| cached {scaling['backbone']} step | ms |", "|---|---|"]
    lines += [f"| {name} | {1000 * seconds:.1f} |" for name, seconds in scaling["seconds_per_step"].items()]
    tuning = report["fine_tuning"]
    lines += ["", f"| fine-tuning the last stage of {tuning['backbone']} | ms/step |", "|---|---|"]
    lines += [f"| {FINE_TUNING[name]} | {1000 * seconds:.0f} |" for name, seconds in tuning["seconds_per_step"].items()]
    lines.append(f"| ratio of the first and the last | {tuning['ratio']:.2f}x |")
    lines.append(f"| ratio of the second and the last | {tuning['ratio_vs_tuned']:.2f}x |")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Seconds against steps on logarithmic axes; the cached line starts with the extraction, so the two cross."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    setting = report["setting"]
    steps = np.logspace(0, np.log10(setting["end_to_end"]["steps"]), 100)
    figure, panels = plt.subplots(1, len(report["speedup"]), figsize=(4.2 * len(report["speedup"]), 3.6), squeeze=False)
    for panel, backbone in zip(panels[0], report["speedup"], strict=True):
        extraction = setting["end_to_end"]["frames"] * setting["cameras"] / report["extraction"][backbone]["images_per_s"]
        for row in report["variants"]:
            if row["backbone"] == backbone:
                offset = extraction if row["variant"].startswith("cached") else 0
                panel.loglog(steps, offset + steps * row["seconds_per_step"], label=VARIANTS[row["variant"]][:3] + " " + row["variant"])
        panel.set(title=backbone, xlabel="gradient steps", ylabel="seconds, extraction included")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
