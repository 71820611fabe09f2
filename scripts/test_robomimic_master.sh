#!/usr/bin/env bash
# All tests against robomimic's master branch, which is not on the package index: bash scripts/test_robomimic_master.sh CHECKOUT
# (further arguments go to pytest). What CHECKOUT holds goes into an environment of its own, on top of .venv.

[ -f "${1:-}/robomimic/__init__.py" ] || {
    echo "$0: give the folder of a checkout of https://github.com/ARISE-Initiative/robomimic" >&2
    exit 1
}
checkout="$(cd "$1" && pwd)"
shift
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
install_environment dev

overlay=.venv-robomimic-master
.venv/bin/python -m venv --clear --without-pip "$overlay"
packages="$("$overlay/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
below="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# After the packages of the overlay, and with the .pth files there, as a mere path would be without.
echo "import site; site.addsitedir('$below')" > "$packages/below.pth"
# With the old versions that it pins of diffusers, transformers and huggingface_hub; of the rest it takes what .venv has.
.venv/bin/python -m pip --python "$overlay/bin/python" install -q "$checkout"
.venv/bin/python -m pip --python "$overlay/bin/python" install -q --no-deps --no-build-isolation -e .
exec "$overlay/bin/python" -m pytest "$@"
