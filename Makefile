# The commands of README.md. Each makes its own environment when it needs one.

PYTHON ?= python3
BIN = .venv/bin
NAME = my-pytorch-project
PACKAGE = my_pytorch_project

# `make demo TASK=image`; what is predicted then
TASK ?= text
PREDICT_text = sparkly gloomily griefstricken
PREDICT_image = data/digits.zip/3/0003.png data/digits.zip/7/0007.png
PREDICT_tabular = data/penguins.csv

.PHONY: demo test torture fuzz bench

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/ready
	$(BIN)/cookiecutter . --no-input --overwrite-if-exists --output-dir demo task=$(TASK)
	cd demo/$(NAME) && . ../../.venv/bin/activate && export PYTHONPATH=src && \
	run=$$(python -m $(PACKAGE) train) && \
	python -m $(PACKAGE) evaluate $$run && \
	python -m $(PACKAGE) predict $$run $(PREDICT_$(TASK))
	@echo; echo "See it in TensorBoard:"; echo "    $(BIN)/tensorboard --logdir demo/$(NAME)/runs"

.venv/tests: .venv/ready tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

test: .venv/tests
	$(BIN)/python -m pytest

# Kills training runs at random moments, and lets them go on: 300 of one process, and 200 of 1, 2 or 4
# processes, drawn anew each time. About half an hour.
torture: .venv/ready
	$(BIN)/cookiecutter . --no-input --overwrite-if-exists --output-dir demo
	$(BIN)/python tests/torture.py demo/$(NAME) --kills 300 --seed $$(date +%s)
	$(BIN)/python tests/torture.py demo/$(NAME) --kills 200 --seed $$(date +%s) --processes

# Tries 10,000 random inputs of each kind on a project of each task. At the speed of 150 inputs of each, a
# kind takes up to ten minutes, and all of them three hours.
fuzz: .venv/tests
	for task in text image tabular; do \
		$(BIN)/cookiecutter . --no-input --overwrite-if-exists --output-dir demo/fuzz \
			project_name=fuzz-$$task task=$$task || exit 1; \
	done
	$(BIN)/python tests/fuzz/run.py demo/fuzz --inputs 10000

# Measures what README.md says of speed, and writes benchmarks/RESULTS.md: 25 minutes.
BENCH = benchmarks/.venv

$(BENCH)/ready: benchmarks/requirements.txt requirements.txt
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

bench: $(BENCH)/ready
	$(BENCH)/bin/cookiecutter . --no-input --overwrite-if-exists --output-dir demo
	$(BENCH)/bin/python benchmarks/bench.py demo/$(NAME)
