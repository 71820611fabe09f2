"""The example of a backbone package in `third_party_backbone/`, installed as its users would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "third_party_backbone"


def test_an_installed_package_adds_a_backbone_with_weights_and_stages(tmp_path):
    source = shutil.copytree(PACKAGE, tmp_path / "source")  # building writes beside it
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", tmp_path / "site", source]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    script = (
        "import torch\n"
        "from robomimic_frozen.encoders import FrozenResNetCore\n"
        "import squeezenet_backbone as package\n"
        "torch.save(package.build().state_dict(), package.fetch_weights())\n"
        "core = FrozenResNetCore((3, 84, 84), rgb_model_name='squeezenet', freeze_encoder='fire8')\n"
        "assert core(torch.rand(2, 3, 84, 84)).shape == (2, 256)\n"
        "assert core.backbone.frozen_stages == ['fire4', 'fire8']\n"
    )
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "TORCH_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
