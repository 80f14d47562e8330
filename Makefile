# make run: the embedded default, every stage. make test: linters and tests. make smoke: the whole graph, tiny.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# nproc answers OMP_NUM_THREADS where that is set.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
SNAKEMAKE := $(BIN)/snakemake --logger husai --cores $(CORES) --nolock
EXCLUSIVE := $(BIN)/python workflow/exclusive.py
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONHASHSEED := 0

.PHONY: run test test-real test-slurm official-env smoke search lint lock verify schema docs clean check-invariance cuda-device bench-sae bench-sae-gpu bench-sae-scaling bench-sae-memory \
        bench-probes bench-cebench bench-store bench-stability bench-stability-memory

# The logger shows stages instead of a diary (docs/terminal.md); Snakemake finds it there.
run smoke search: export PYTHONPATH := $(CURDIR)/workflow/logger

run: $(READY)
	$(EXCLUSIVE) .snakemake/run.lock $(SNAKEMAKE) --profile profiles/local

smoke: $(READY)
	mkdir -p .smoke
	$(EXCLUSIVE) .smoke/run.lock $(SNAKEMAKE) --profile profiles/local --snakefile Snakefile --directory .smoke --configfile config/smoke.yaml
	@echo "These paths are in .smoke/."

# The search for a recipe (config/search.yaml), more than an hour on two cores; started again it goes on.
search: $(READY)
	mkdir -p .search
	$(EXCLUSIVE) .search/run.lock $(SNAKEMAKE) --profile profiles/local --snakefile Snakefile --directory .search --configfile config/search.yaml -- search

# In the order of their folders: the smoke DAG of tests/end_to_end comes early, and neither core waits for it at the end.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# profiles/b200 at tiny sizes on a model hub in a folder, husai judge from SAEs to a verdict, and pages in a browser.
# Programs of Debian are installed where they are missing: a browser here, Slurm below.
test-real: $(READY) .venv/.browser
	command -v chromium > /dev/null || $(call debian,chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/real tests/browser tests/jobs/test_mlflow_runs.py

# SAEBench's own programs, for `husai official --python .official-venv`: about 7 GB.
official-env: .official-venv/.ready

.official-venv/.ready: workflow/envs/saebench.txt
	$(PYTHON) -m venv .official-venv
	.official-venv/bin/python -m pip install --quiet --disable-pip-version-check -r workflow/envs/saebench.txt
	touch $@

test-slurm: $(READY)
	command -v slurmctld munged > /dev/null || $(call debian,slurm-wlm munge)
	OMP_NUM_THREADS=1 PYTHONPATH=tests/slurm $(BIN)/python -m pytest tests/slurm

debian = { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); }

.venv/.browser: tests/browser/requirements.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check -l 100 Snakefile rules

verify: $(READY)
	$(BIN)/husai verify

# The pages are built from the source text, in an environment that holds mkdocs alone.
docs: .docs-venv/.ready
	NO_MKDOCS_2_WARNING=1 .docs-venv/bin/mkdocs build --strict --quiet

.docs-venv/.ready: docs/requirements.txt
	$(PYTHON) -m venv .docs-venv
	.docs-venv/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

schema: $(READY)
	$(BIN)/python -m husai.config.docs

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: $(READY)
	{ echo "# Every package of the environment at a fixed version. Regenerate with: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -viE '^(husai|pip|wheel)\b'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .smoke .snakemake logs

# Benchmarks: each measures HUSAI and the others in one run on this machine; figures and how to read them in benchmarks/README.md.
BENCH := .bench-venv
BENCH_READY := $(BENCH)/.ready

bench-sae: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/bench_sae.py

bench-sae-gpu: cuda-device $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/bench_sae.py --device cuda

cuda-device:
	@nvidia-smi -L > /dev/null 2>&1 || { echo "bench-sae-gpu: this machine has no CUDA device; make bench-sae measures on the CPU" >&2; exit 1; }

bench-sae-scaling: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/bench_sae.py --scaling

bench-sae-memory: $(READY)
	$(BIN)/python benchmarks/bench_sae.py --store-memory

bench-probes: $(READY)
	$(BIN)/python -W ignore benchmarks/bench_probes.py --all-datasets

bench-cebench: $(READY)
	PYTHONPATH=. $(BIN)/python benchmarks/bench_cebench.py

bench-store: $(READY)
	$(BIN)/python benchmarks/store_from_text.py

bench-stability: $(READY)
	$(BIN)/python benchmarks/bench_stability.py

bench-stability-memory: $(READY)
	$(BIN)/python benchmarks/bench_stability.py --memory

# Needs a finished `make run`: trains its baseline recipes again with 1 and 2 threads.
check-invariance: $(READY)
	$(BIN)/python benchmarks/check_invariance.py

$(BENCH_READY): benchmarks/requirements.txt benchmarks/requirements-nodeps.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements-nodeps.txt
	touch $@
