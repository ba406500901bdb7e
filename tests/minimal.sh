#!/bin/sh
# minimal.sh BIN DIST: installs the sdist and the wheel of DIST in the environment BIN belongs to, which has no extras, and
# uses them in an empty folder.
set -eu
bin=$(cd "$1" && pwd)
dist=$(cd "$2" && pwd)
tests=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -R "$tests" "$folder/tests"
cd "$folder"

# The wheel holds every file of the library, and the studies under their other name.
"$bin/python" - "$tests/.." "$dist"/*.whl <<'END'
import sys, zipfile
from pathlib import Path

root = Path(sys.argv[1])
files = {p.relative_to(root).as_posix() for p in (root / "gradlab").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
files |= {f"gradlab_studies/{p.name}" for p in (root / "studies").glob("*.py")}
shipped = {name for name in zipfile.ZipFile(sys.argv[2]).namelist() if ".dist-info/" not in name}
assert shipped == files, f"only in the wheel: {sorted(shipped - files)}; missing: {sorted(files - shipped)}"
END

install() { "$bin/uv" pip install --quiet --python "$bin/python" --no-deps --no-build-isolation --reinstall-package gradlab "$@"; }

install "$dist"/*.tar.gz
"$bin/gradlab" list >list.txt
"$bin/gradlab" check tests.minimal:mine --draws 10000

install "$dist"/*.whl
"$bin/gradlab" list | diff list.txt -
OMP_NUM_THREADS=1 "$bin/python" -m pytest -q -n 2 --dist loadfile -p no:cacheprovider -W ignore::FutureWarning --durations 5 tests

# Everything at once has a solution for this Python as well.
"$bin/uv" pip install --quiet --python "$bin/python" --dry-run "$(ls "$dist"/*.whl)[all]"
