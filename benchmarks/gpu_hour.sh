#!/usr/bin/env bash
# Everything that only a GPU can show, in about 12 minutes on a machine with torch, triton and no network.
#
#   OUT=results/gpu WHEELS=.whl bash benchmarks/gpu_hour.sh                      # all steps, in order
#   OUT=... STEPS="tests references bench" bash benchmarks/gpu_hour.sh           # some of them
#   OUT=... DEVICE=cpu GPU_HOUR_TINY=1 bash benchmarks/gpu_hour.sh               # the script itself, without a GPU
#
# OUT     where results go: gpu_hour.log (everything printed), results.jsonl (figures), summary.txt (one line a step),
#         bench.json, stability.json, and after `pipeline` its log and report. Each step writes as it ends, has a time limit
#         of its own, and stops no other when it fails.
# WHEELS  folder of wheels that the machine lacks (optional); packages that are only imported are stood in for where absent.
#         Made with: pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#           --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#           -d WHEELS -r benchmarks/requirements-gpu.txt   (then `trim_wheel.py` for sae-probes where size matters)
# PYTHON  interpreter, python3 by default.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?name a folder for the results}"
DEVICE=${DEVICE:-cuda} TINY=${GPU_HOUR_TINY:-} PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-tests references graphs formats readers auxk bench fraction stability profile campaign pipeline}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
LOG=$OUT/gpu_hour.log RESULTS=$OUT/results.jsonl SUMMARY=$OUT/summary.txt
SITE=$(mktemp -d) WORK=$(mktemp -d)
trap 'rm -rf "$SITE" "$WORK"' EXIT
export PYTHONPATH=$SITE/own:$PWD:$SITE/absent PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore HF_HUB_OFFLINE=1 WANDB_MODE=disabled
export PYTHONHASHSEED=0 PATH=$SITE/bin:$PATH

prepare() {
    mkdir -p "$SITE/own" "$SITE/absent" "$SITE/bin"
    if [ -n "${WHEELS:-}" ]; then
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
            --target "$SITE/own" "$WHEELS"/*.whl 2>&1 | tail -3
    fi
    # Large, imported by SAELens and by Snakemake, and used by neither here (Snakemake: --scheduler greedy).
    printf 'def __getattr__(name):\n    if name.startswith("__"):\n        raise AttributeError(name)\n    return type(name, (), {})\n' \
        > "$SITE/absent/wandb.py"
    printf 'class apis:\n    LpSolverDefault = None\n\n\ndef listSolvers(**_):\n    return []\n' > "$SITE/absent/pulp.py"
    printf '#!/bin/sh\nexec "%s" -m husai "$@"\n' "$(command -v "$PYTHON")" > "$SITE/bin/husai"
    chmod +x "$SITE/bin/husai"
    "$PYTHON" - << 'END'
import platform
import torch
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{card}; torch {torch.__version__}; Python {platform.python_version()}")
END
}

step() { # step NAME SECONDS COMMAND...
    local name=$1 limit=$2 began status
    shift 2
    case " $STEPS " in *" $name "*) ;; *) return 0 ;; esac
    began=$(date +%s.%N)
    printf '\n===== %s: %s\n' "$name" "$*" >> "$LOG"
    timeout -k 5 "$limit" "$@" >> "$LOG" 2>&1
    status=$?
    printf '%-10s exit %d, %.1f s (limit %s)\n' "$name" "$status" "$(echo "$(date +%s.%N) - $began" | bc 2> /dev/null || "$PYTHON" -c \
        "import time; print(time.time() - $began)")" "$limit" | tee -a "$SUMMARY"
}

check() { # check NAME SECONDS
    step "$1" "$2" "$PYTHON" benchmarks/gpu_checks.py "$1" --device "$DEVICE" ${TINY:+--tiny} --json "$RESULTS"
}

bench() {
    if [ "$DEVICE" = cpu ]; then
        "$PYTHON" benchmarks/bench_sae.py --quick --only "128->1024" --others saelens --json "$OUT/bench.json"
    else
        "$PYTHON" benchmarks/bench_sae.py --device "$DEVICE" --only "512->2048" --others saelens --threads 8 --json "$OUT/bench.json"
    fi
}

fraction() {
    local sizes="512->16384"
    [ -n "$TINY" ] && sizes="16->64"
    for batch in ${TINY:+128} ${TINY:-4096 16384}; do
        [ "$batch" = 1 ] && continue
        "$PYTHON" benchmarks/bench_sae.py --device "$DEVICE" --matmul-fraction --sizes "$sizes" --batch "$batch" --threads 8 \
            --json "$OUT/fraction-$batch.json"
    done
}

stability() {
    local size=(--d-sae 16384 --d-in 2304)
    [ -n "$TINY" ] && size=(--d-sae 256 --d-in 64)
    "$PYTHON" benchmarks/bench_stability.py --pairs-only "${size[@]}" --seeds 8 --device "$DEVICE" --json "$OUT/stability.json"
}

speed() { "$PYTHON" benchmarks/gpu_speed.py "$1" --device "$DEVICE" ${TINY:+--tiny --dtype float32} --json "$RESULTS"; }

pipeline() {
    local status
    "$PYTHON" tests/hub/build.py b200 "$WORK/hub" || return
    mkdir -p "$WORK/run"
    printf 'compute: {device: %s}\n' "$DEVICE" > "$WORK/device.yaml"
    HF_HOME=$WORK/hub timeout -s INT -k 5 "$((PIPELINE_SECONDS - 25))" "$PYTHON" -m snakemake --nolock --profile profiles/b200 --snakefile Snakefile --directory "$WORK/run" \
        --cores "$(nproc)" --retries 0 --scheduler greedy \
        --configfile "$PWD/config/b200.yaml" "$PWD/tests/real/tiny_b200.yaml" "$WORK/device.yaml" > "$OUT/pipeline.log" 2>&1
    status=$?
    tail -c 3000 "$OUT/pipeline.log"
    echo "snakemake: exit $status (1 is also what a gate that says no gives); $(find "$WORK/run/results" -name '*.json' | wc -l) records"
    (cd "$WORK/run" && tar czf "$OUT/pipeline.tgz" logs reports results/benchmarks results/*.json 2> /dev/null)
    test -s "$WORK/run/reports/gate_report.html"
}

export -f bench fraction stability speed pipeline
PIPELINE_SECONDS=${PIPELINE_SECONDS:-300}
export OUT DEVICE TINY PYTHON RESULTS WORK PIPELINE_SECONDS
prepare 2>&1 | tee -a "$LOG" "$SUMMARY"
GPU_TESTS="gpu or cuda_device or triton"
step tests 90 "$PYTHON" -m pytest -p no:cacheprovider -q -k "$GPU_TESTS" \
    tests/sae/test_graphs.py tests/activations/test_reader.py tests/sae/test_triton.py
check references 60
check graphs 60
check formats 60
check readers 60
check auxk 60
step bench 100 bash -c bench
step fraction 90 bash -c fraction
step stability 60 bash -c stability
step profile 90 bash -c "speed profile"
step campaign 120 bash -c "speed campaign"
step pipeline "$PIPELINE_SECONDS" bash -c pipeline
[ -n "${QUIET:-}" ] || cat "$LOG"
echo "----- summary"
cat "$SUMMARY"
