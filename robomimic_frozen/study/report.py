"""A study as one HTML file that needs no network, its figures as PNG files, and its numbers as JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import jinja2

from robomimic_frozen.files import complete_or_absent, write_json
from robomimic_frozen.study.figures import draw
from robomimic_frozen.study.film import films
from robomimic_frozen.study.results import Results, read_results

CAPTIONS = {
    "success_over_seconds": "Success rate against training seconds (feature extraction included); pale: single seeds",
    "success_over_steps": "Success rate against gradient steps; pale: single seeds",
    "success_over_demonstrations": "Success rate at the end of training against the number of demonstrations; pale: single seeds",
    "training_speed": "Gradient steps per second, data loading included",
    "memory": "Resident memory of the training process",
}


def write_report(folder: Path, with_films: bool) -> Path:
    """Write `report.html`, `figures/*.png` and `results.json` into the folder of a study. Returns the path of the first.

    Args:
        with_films: whether to roll out a success and a failure of each configuration again for their pictures.

    Raises:
        ConfigError: `folder` is not that of a study, or none of its runs is finished.
    """
    results = read_results(folder)
    write_json(folder / "results.json", {**results.manifest, "runs": results.runs})
    pictures = {}
    for name, figure in draw(results).items():
        path = folder / "figures" / f"{name}.png"
        with complete_or_absent(path) as beside:
            figure.savefig(beside, dpi=130)
        pictures[name] = _embedded(path)
    shown = [(film, _embedded(film.strip)) for film in films(results)] if with_films else []
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robomimic_frozen.study"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("report.html.j2").render(
        results=results,
        plan=results.manifest["plan"],
        environment=results.manifest["environment"],
        provenance=list(_provenance(results)),
        numbers=sorted({run["demos"] for run in results.runs}),
        final={(point.configuration, point.demos): point for point in results.final_points()},
        points=results.points(),
        costs=results.costs(),
        pictures=pictures,
        captions=CAPTIONS,
        films=shown,
    )
    report = folder / "report.html"
    with complete_or_absent(report) as beside:
        beside.write_text(html, encoding="utf-8")
    return report


def _embedded(picture: Path) -> str:
    kind = "jpeg" if picture.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _provenance(results: Results) -> Iterator[tuple[str, str]]:
    environment = results.manifest["environment"]
    yield "git revision", str(environment["git_revision"] or "installed package")
    yield "sha256 of the code", environment["code_sha256"]
    for name, version in {"python": environment["python"], **environment["packages"]}.items():
        yield name, version
    yield "dataset", Path(results.manifest["data"]["dataset"]).name
    yield "sha256 of the dataset", results.manifest["data"]["sha256"]
    for name, digest in results.manifest["weights_sha256"].items():
        yield f"sha256 of the weights, {name}", digest or "drawn by the training seed"
