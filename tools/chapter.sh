#!/usr/bin/env bash
# A chapter is edited as text and kept as a notebook.
#
#   tools/chapter.sh text  nbs/1_data/10_counts.ipynb chapter.py    notebook -> py:percent text
#   tools/chapter.sh build chapter.py nbs/1_data/10_counts.ipynb    text -> notebook, export, execute, clean
#   tools/chapter.sh run   nbs/1_data/10_counts.ipynb               export, execute, clean
#   tools/chapter.sh export                                         nbdev_export, one at a time
#
# NSF_NB_BIN    folder of python, jupytext, jupyter, nbdev_export (default: .venv/bin if it exists, else PATH)
# NSF_NB_LOCK   lock file that keeps two exports apart (default: .git/nbdev.lock)
# TIMEOUT       seconds that one cell may take (default 600)
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."
root=$PWD
bin=${NSF_NB_BIN:-}
if [ -z "$bin" ] && [ -x .venv/bin/nbdev_export ]; then bin=$root/.venv/bin; fi
if [ -n "$bin" ]; then PATH=$bin:$PATH; fi
lock=${NSF_NB_LOCK:-$root/.git/nbdev.lock}
# Absolute paths in the environment, so that a chapter finds them from its own folder.
if [ -n "${NSF_NB_DATA:-}" ]; then NSF_NB_DATA=$(cd "$here" && cd "$NSF_NB_DATA" && pwd); export NSF_NB_DATA; fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
unset MPLBACKEND  # a chapter keeps its figures, so they are drawn by the backend of notebooks
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

usage() { sed -n '2,11s/^# \{0,1\}//p' "$root/tools/chapter.sh"; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }

export_all() {
    if command -v flock >/dev/null; then flock "$lock" nbdev_export; else nbdev_export; fi
}

name_kernel() {  # every chapter names the same kernel, whatever machine it was written on, and keeps no start-up lines
    python - "$1" <<'PY'
import sys
import nbformat
path = sys.argv[1]
nb = nbformat.read(path, 4)
nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
start_up = ("absl::InitializeLog", "oneDNN custom operations", "cuda drivers", "cuInit")  # what TensorFlow writes when imported
for cell in nb.cells:
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stderr":
            kept = [line for line in output.text.splitlines(True) if not any(word in line for word in start_up)]
            output.text = "".join(kept)
    if "outputs" in cell:
        cell.outputs = [output for output in cell.outputs if output.get("text", True)]
if nb.nbformat_minor < 5:
    nb = nbformat.v4.upgrade(nb)
nbformat.write(nb, path)
PY
}

run() {
    export_all
    jupyter nbconvert --to notebook --execute --inplace --log-level ERROR \
        --ExecutePreprocessor.timeout="${TIMEOUT:-600}" "$1"
    name_kernel "$1"
    nbdev_clean --fname "$1"
}

case ${1:-} in
text)
    [ $# -eq 3 ] || usage
    jupytext --quiet --to py:percent --output "$(absolute "$3")" "$(absolute "$2")"
    ;;
build)
    [ $# -eq 3 ] || usage
    text=$(absolute "$2") book=$(absolute "$3")
    mkdir -p "$(dirname "$book")"
    if [ -e "$book" ]; then update=--update; else update=; fi
    jupytext --quiet --to ipynb $update --output "$book" "$text"
    name_kernel "$book"
    run "$book"
    ;;
run)
    [ $# -eq 2 ] || usage
    run "$(absolute "$2")"
    ;;
export) export_all ;;
*) usage ;;
esac
