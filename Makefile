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
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
test: $(VENV)/.installed
	$(BIN)/python -m pytest $(TEST_FLAGS)

# The wheel as `pip install` makes it today: the newest versions that
# pyproject.toml allows, without the lock. NEWEST_TESTS=tests: all of them.
NEWEST := .cache/newest
NEWEST_TESTS ?= tests/test_versions.py tests/commands/test_demo.py tests/devices/test_sharding.py \
	tests/interop tests/ttt/test_meta_gradient.py \
	tests/ttt/test_differentiation.py tests/training/test_checkpoint.py
test-newest: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
test-newest:
	$(check_python)
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip wheel -q --no-deps --wheel-dir=$(NEWEST) .
	$(NEWEST)/bin/pip install -q "$$(echo $(NEWEST)/*.whl)[test]"
	$(NEWEST)/bin/pip list 2>/dev/null | grep -E '^(jax|jaxlib|flax|optax) '
	$(NEWEST)/bin/pytest $(TEST_FLAGS) $(NEWEST_TESTS)

# Runs killed 20 times, at random moments, and every other fault.
soak: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
soak: $(VENV)/.installed
	MATTT_KILLS=20 MATTT_SOAK=$(CURDIR)/results/soak.json \
		$(BIN)/python -m pytest tests/faults tests/devices/test_processes.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

# What README shows; finished runs are not repeated, broken ones go on.
RECALL := $(foreach seed,1 2 3,$(foreach system,\
	swa_episodic ttt_episodic ttt swa,$(system)/$(seed)))

comma := ,
list = $(subst $() ,$(comma),$(strip $(1)))
EVERY := $(call list,swa_associative swa_neural swa_slots swa_chunk_store \
	sliding_window sliding_window_equal_bytes full_attention gated_delta_net \
	titans infini_attention memorizing_transformer rag rag_bm25 ttt_nn perk \
	dynamic_evaluation ttt_e2e ttt_e2e_first_order ttt_memory \
	ttt_memory_scheduled)
HOW := $(call list,joint scheduled memory_first memory_sometimes read_loss \
	inner_without_memory surprise rate_from_memory learn_rate residual \
	residual_scheduled retention replay)
WRITE := $(call list,$(addprefix write_,all recency random surprise gradient \
	learned oracle))

results: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
results: $(VENV)/.installed $(RECALL:%=runs/recall/%/evaluation.json) demo
	cp runs/demo/results.json results/demo.json
	$(BIN)/python -m mattt_jax.sweeps.rows runs/recall \
		--out=results/recall.jsonl
	$(BIN)/mattt compare --task=recall --arg=hard --out=runs/hard \
		--systems=swa_episodic,ttt,ttt_episodic,ttt_memory_scheduled \
		--seeds=1,2,3
	$(BIN)/python results/capacity.py
	$(BIN)/mattt compare --task=rule --out=runs/rule \
		--systems=2x2:episodic --seeds=1,2,3
	$(BIN)/mattt compare --task=recall --arg=easy --out=runs/easy --seeds=1 \
		--systems=$(EVERY)
	$(BIN)/mattt compare --task=recall --arg=easy,induction --steps=3000 \
		--out=runs/induction --seeds=1 \
		--systems=gated_delta_net,full_attention,infini_attention
	$(BIN)/mattt compare --task=coordination --out=runs/coordination \
		--systems=ttt_episodic --each=how:$(HOW) --seeds=1,2,3
	$(BIN)/mattt compare --task=coordination --out=runs/write \
		--systems=swa_episodic --each=how:$(WRITE) --seeds=1,2,3
	$(BIN)/mattt compare --task=student_records --out=runs/records \
		--systems=perk --seeds=1,2,3
	for name in hard rule easy induction coordination write records; do \
		for kind in jsonl md; do \
		cp runs/$$name/compare.$$kind results/$$name.$$kind; done; done
	$(BIN)/python results/streaming.py
	for name in retention frontier reasoning; do \
		$(BIN)/mattt sweep --experiment=$$name --out=runs/$$name \
		--results=results/$$name.jsonl || exit 1; done
	$(BIN)/mattt sweep --experiment=retention:long --out=runs/retention_long \
		--results=results/retention_long.jsonl
	$(BIN)/mattt sweep --experiment=context_scaling --out=runs/context \
		--results=results/context.jsonl
	$(BIN)/python results/shortcuts.py
	$(MAKE) notebooks

runs/recall/%/evaluation.json:
	$(BIN)/mattt train --workdir=runs/recall/$* \
		--config=experiments/recall.py:system=$(*D),seed=$(*F)

# A real book from end to end: prepared, trained on others, read (see results/).
BOOKS := $(foreach seed,1 2 3,$(foreach system,ttt_memory ttt_memory_scheduled \
	ttt_e2e swa_episodic sliding_window,runs/books/$(system)/$(seed)/.read)) \
	runs/books/full_attention/1/.read

books: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
books: $(BOOKS)
	$(BIN)/python results/books.py
	$(BIN)/python results/headroom.py
	$(MAKE) notebooks

# The tables and figures of results/, from the rows there; under a minute.
notebooks: $(VENV)/.installed
	$(BIN)/jupyter execute --timeout=60 notebooks/*.ipynb

data/books.json: | $(VENV)/.installed
	$(BIN)/mattt prepare books data/books
	$(BIN)/mattt tokenizer train --source=directory:data/books --vocab=1024 \
		--out=$@

CLOZE := name_cloze:source=directory:data/books,beyond=256

runs/books/%/.read: data/books.json
	$(BIN)/mattt train --workdir=$(@D) \
		--config=experiments/books.py:system=$(*D),seed=$(*F)
	$(BIN)/mattt evaluate --workdir=$(@D) --lengths=2048,32768 \
		--tasks='language_modeling:repeat_ngram=6,repeat_beyond=256'
	$(BIN)/mattt evaluate --workdir=$(@D) --lengths=2048 --sequences=64 \
		--tasks='$(CLOZE)'
	$(BIN)/mattt evaluate --workdir=$(@D) --lengths=32768 --sequences=8 \
		--tasks='$(CLOZE)'
	touch $@

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
