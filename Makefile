# make demo | test | test-newest | soak | lint | bench | results | books |
# notebooks | lock | clean
# The first target that needs it sets up .venv from requirements.lock.

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
LOCK_VENV := .cache/lock-venv
TEST_FLAGS ?= -n auto --maxprocesses=4 --dist=worksteal

export JAX_PLATFORMS ?= cpu

.PHONY: demo test test-newest soak lint bench results books notebooks lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/mattt demo --out=runs/demo

# Compiled programs are kept between runs; delete .cache/jax to compile anew.
test test-newest soak results books: \
	export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TEST_FLAGS)

# The wheel as `pip install` makes it today: the newest versions that
# pyproject.toml allows, without the lock. NEWEST_TESTS=tests: all of them.
NEWEST := .cache/newest
NEWEST_TESTS ?= tests/test_versions.py \
	tests/interop/test_ttt_e2e.py::test_published_numbers \
	tests/ttt/test_differentiation.py::test_derivative_of_loss_aux_and_gradient \
	tests/ttt/test_differentiation.py::test_batch_that_shares_inputs_and_outputs \
	tests/training/test_checkpoint.py::test_round_trip_keeps_the_newest \
	tests/training/test_checkpoint.py::test_restores_to_another_placement \
	tests/devices/test_sharding.py::test_batch_is_split_over_sequences
test-newest:
	$(check_python)
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip wheel -q --no-deps --wheel-dir=$(NEWEST) .
	$(NEWEST)/bin/pip install -q "$$(echo $(NEWEST)/*.whl)[test]"
	$(NEWEST)/bin/pip list 2>/dev/null | grep -E '^(jax|jaxlib|flax|optax) '
	$(NEWEST)/bin/pytest $(TEST_FLAGS) $(NEWEST_TESTS)

# Runs killed 20 times, at random moments, and every other fault.
soak: $(VENV)/.installed
	MATTT_KILLS=20 MATTT_SOAK=$(CURDIR)/results/soak.json \
		$(BIN)/python -m pytest tests/faults tests/devices/test_processes.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

# What README shows: FILE=EXPERIMENT, whose sweep() lists its runs; those that
# results/FILE.jsonl has are not repeated, broken ones go on.
RESULTS := recall=recall hard=recall:hard easy=recall:easy \
	induction=recall:easy,induction rule=rule coordination=coordination \
	write=coordination:write records=student_records frontier=frontier \
	reasoning=reasoning retention_tune=retention:tune retention=retention \
	retention_long=retention:long context=context_scaling
TTT := recall:hard,system=ttt_e2e,seed=1

results: demo
	cp runs/demo/results.json results/demo.json
	for pair in $(RESULTS); do \
		$(BIN)/mattt sweep --config=$${pair#*=} --out=runs/$${pair%%=*} \
			--results=results/$${pair%%=*}.jsonl || exit 1; done
	$(BIN)/mattt train --config=$(TTT) --workdir=runs/million
	$(BIN)/python benchmarks/million.py --workdir=runs/million \
		--out=results/streaming.jsonl
	$(MAKE) notebooks

# A real book from end to end: prepared, trained on others, read.
books: data/books.json
	$(BIN)/mattt sweep --config=books:ask --out=runs/books
	$(BIN)/python benchmarks/headroom.py --out=results/headroom.json

# The tables and figures of results/, from the rows there; under a minute.
notebooks: $(VENV)/.installed
	$(BIN)/jupyter execute --timeout=60 notebooks/*.ipynb

data/books.json: | $(VENV)/.installed
	$(BIN)/mattt prepare books data/books
	$(BIN)/mattt tokenizer train --source=directory:data/books --vocab=1024 \
		--out=$@

# Resolves the newest versions that pyproject.toml allows and pins them.
lock:
	$(check_python)
	$(PYTHON) -m venv --clear $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip install -q '.[test,dev,notebooks]'
	{ echo '# Every package of the run-time, test, dev and notebooks'; \
	  echo '# environment, pinned (Python 3.11). Re-made by: make lock'; \
	  $(LOCK_VENV)/bin/pip freeze --exclude mattt-jax; } >requirements.lock
	rm -rf $(LOCK_VENV)

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist

# Two stamps: a change of pyproject.toml alone installs nothing anew.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.locked: requirements.lock
	$(check_python)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install -q -r requirements.lock
	touch $@

define check_python
	@test -n '$(PYTHON)' && $(PYTHON) -c \
		'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Python 3.11 or newer is needed (found: $(PYTHON)):' \
			'make PYTHON=/path/to/python3.11' >&2; exit 1; }
endef
