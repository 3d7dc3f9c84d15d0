# make demo    set up, then ten episodes with the shipped weights and a page: outputs/demo/report.html
# make test    set up, then the tests; ARGS="-k report" goes to pytest
# make worlds  the environment's tests with an older MuJoCo, too (MUJOCO=3.3.7), in a virtual environment of its own
# make setup   .venv, the Python packages, and what rendering needs where it may be installed
#
# PYTHON       the interpreter that .venv is made with, 3.10 to 3.13
# TORCH        the PyTorch to install; without it the CPU build. With a GPU:  make setup TORCH=torch
# TORCH_INDEX  the package index that it comes from, such as https://download.pytorch.org/whl/cu128

PYTHON ?= python3
MUJOCO ?= 3.3.7
OLDER  := .venv-mujoco
VENV   := .venv
BIN    := $(VENV)/bin
ifeq ($(origin TORCH)$(origin TORCH_INDEX),undefinedundefined)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
else
.PHONY: $(VENV)/torch
endif
TORCH ?= torch==2.13.0

.PHONY: demo test worlds setup clean

demo: setup
	$(BIN)/soma demo

test: $(VENV)/tested
	$(BIN)/python -m pytest $(ARGS)

worlds: setup $(OLDER)/mujoco-$(MUJOCO)
	$(OLDER)/bin/python -m pytest -q tests/test_arm.py tests/test_tabletop.py tests/test_scenes.py \
		tests/test_labels.py tests/test_sound.py tests/test_heard.py

$(OLDER)/mujoco-$(MUJOCO): | $(BIN)/python
	@$(PYTHON) -m venv $(OLDER)
	@$(OLDER)/bin/python -m pip install --quiet "mujoco==$(MUJOCO)" "gymnasium>=1.1" numpy scipy soundfile \
		opencv-python-headless espeakng-loader ruckig pytest hypothesis
	@touch $@

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(VENV)/torch
	$(BIN)/python -m pip install --quiet --editable .
	@sh .ci/system $(BIN)/python
	@touch $@

$(VENV)/tested: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

# Another build of PyTorch satisfies pip: where another was asked for before, it is replaced, then what the new one needs comes.
# An index that cannot be reached is left out: pip would wait for it again and again, and go on without it in the end.
$(VENV)/torch: | $(BIN)/python
	@index="$(TORCH_INDEX)"; \
	if [ -n "$$index" ] && ! $(BIN)/python -c "import sys, urllib.request; \
	urllib.request.urlopen(sys.argv[1] + '/torch/', timeout=10)" "$$index" 2>/dev/null; then \
		echo "$$index cannot be reached: $(TORCH) comes from pip's own index"; index=; \
	fi; \
	echo "installing $(TORCH) (some hundred megabytes)"; \
	again=; [ ! -f $@ ] || [ "$$(cat $@)" = "$(TORCH) $(TORCH_INDEX)" ] || again="--force-reinstall --no-deps"; \
	for how in $${again:+"$$again"} ""; do \
		$(BIN)/python -m pip install --quiet $$how "$(TORCH)" $${index:+--index-url "$$index"} || exit 1; \
	done; \
	echo "$(TORCH) $(TORCH_INDEX)" > $@

$(BIN)/python:
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13))" \
	|| { echo "Python 3.10 to 3.13 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 1; }

clean:
	rm -rf $(VENV) $(OLDER) *.egg-info build dist
