"""`robomimic-frozen data`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from robomimic_frozen.commands.arguments import add_executor_flags, check_at_least_one, executor_of
from robomimic_frozen.data.released import RELEASED


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data", help="image dataset of robomimic's released demonstrations, or of your own",
        description="Render the observations of raw demonstrations with robomimic's environment, in parallel, as its "
        "dataset_states_to_obs.py does. Released ones are downloaded from the Hugging Face hub first. An interrupted rendering goes on "
        "where it stopped.",
    )
    parser.add_argument("source", metavar="SOURCE", help=f"{', '.join(RELEASED)}, or a raw HDF5 file of robomimic, also by URL")
    parser.add_argument("--out", help="file to write, also at a URL (NAME_image.hdf5 here)")
    parser.add_argument("--cameras", nargs="+", metavar="NAME", help="cameras to render (those of robomimic's own image datasets)")
    parser.add_argument("--image-size", type=int, help="height and width of images in pixels (84; 240 of ToolHang)")
    parser.add_argument("--next-obs", action="store_true", help="also store next_obs, which offline RL needs")
    parser.add_argument("--check", action="store_true", help="compare a sample of the file, new or old, with frames rendered again")
    add_executor_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.data.checking import check_images
    from robomimic_frozen.data.download import find_source
    from robomimic_frozen.data.raw_file import read_raw_file
    from robomimic_frozen.data.released import default_view
    from robomimic_frozen.data.rendering import View, render_dataset
    from robomimic_frozen.executors.staging import StagingFirst
    from robomimic_frozen.files import already_there
    from robomimic_frozen.storage import exists, local_path, made_for

    check_at_least_one(arguments, "workers", "image_size")  # before a download
    for library in ("httpx", "httpx2"):  # of huggingface_hub; they tell of every request, with its signature
        logging.getLogger(library).setLevel(logging.WARNING)
    source = arguments.source
    out = arguments.out or f"{source.replace('-', '_') if source in RELEASED else Path(source).stem}_image.hdf5"
    is_made = exists(out)
    if is_made and not arguments.check:
        raise already_there(out)
    raw = read_raw_file(find_source(source))
    cameras, image_size = default_view(raw.env_meta["env_name"])
    view = View(tuple(arguments.cameras or cameras), arguments.image_size or image_size, arguments.next_obs)
    with executor_of(arguments) as executor:
        if not is_made:
            with made_for(out) as path:
                render_dataset(raw, path, view, StagingFirst(executor, [source]))
            print(f"{out}: {len(raw.steps)} demonstrations, {sum(raw.steps.values())} frames of {', '.join(view.cameras)}")
        if arguments.check:
            path = local_path(out)
            checked = check_images(raw, path, StagingFirst(executor, [source, out]))
            print(f"{out}: {checked} frames are what is rendered again")
