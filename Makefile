# One definition for people and for CI. PYTHON picks the interpreter the environment is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-gpu check bench docs screenshots readme-picture starter clean

demo: $(VENV)/.run
	$(BIN)/accelerate launch --config_file accelerate_configs/cpu.yaml train_lora.py \
	  --output_dir outputs/demo --overwrite_output_dir

# Bytecode is kept whatever the environment says: many of the tests start a Python of its own, which would compile it all.
test: $(VENV)/.dev
	CUDA_VISIBLE_DEVICES= PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n 2 --dist loadgroup

# What only a GPU can show; 'slow' trains denoisers of the published sizes and needs 60 GB of disk.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 4 -m 'gpu and not slow' tests/gpu

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python docs/make_flags.py --check
	$(BIN)/python docs/make_benchmarks.py --check

bench: $(VENV)/.dev
	$(BIN)/python -m pipeline bench cpu --to docs/benchmarks
	$(BIN)/python docs/make_benchmarks.py

docs: $(VENV)/.dev
	$(BIN)/python docs/make_flags.py
	$(BIN)/python docs/make_benchmarks.py

# Screenshots of the demo's report; needs Chromium.
screenshots: $(VENV)/.dev
	$(BIN)/python docs/make_screenshots.py outputs/demo

# The picture at the top of the README, from the test set of the demo; prints the numbers for the text below it.
readme-picture: $(VENV)/.dev
	$(BIN)/python docs/make_readme_picture.py outputs/demo

# Rebuild the starter base model and dataset from nothing, measure it and write docs/starter.md (DEVICE=cuda: minutes
# of a large GPU; cpu: many hours; resumes; needs fonts-noto-color-emoji).
DEVICE ?= cpu
starter: $(VENV)/.dev
	$(BIN)/python -m pipeline.starter.build --work outputs/starter --device $(DEVICE)
	$(BIN)/python -m pipeline.starter.measure
	$(BIN)/python docs/make_starter.py --work outputs/starter

# What pip says is of interest only where it fails: it goes to a file.
PIP_LOG := $(VENV)/pip.log
INSTALL = $(BIN)/python -m pip install -q -c constraints.txt -e $(1) > $(PIP_LOG) 2>&1 \
  || { cat $(PIP_LOG) >&2; echo "Installing $(1) failed; the reason is above and in $(PIP_LOG)." >&2; exit 1; }

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once: some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(call INSTALL,'.[eval]')
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once: some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(call INSTALL,'.[dev]')
	@touch $(VENV)/.run $@

clean:
	rm -rf $(VENV) outputs
