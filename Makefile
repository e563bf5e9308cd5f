# Every target sets up what it needs; nothing outside this folder is written, but for the caches named beside a target.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := gomodel tests bench docs/site setup.py

.PHONY: help demo run test test-unit test-compiled check static format docs docs-config docs-reference test-docs dist sbom build bench bench-vllm \
	test-vllm test-clients test-batches test-browser test-doctor docs-pictures coverage mutants fuzz lint-deploy soak chaos clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# What it takes to serve.
$(VENV)/.runs: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gomodel needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q python3-venv; } \
		|| { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "Installing gomodel and what it needs to serve into $(VENV): half a minute, the first time only"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[batch]'
	@touch $@

# And what it takes to work on it.
$(VENV)/.installed: $(VENV)/.runs
	@echo "Installing what the tests and the checks need into $(VENV): a minute, the first time only"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@

demo: $(VENV)/.runs  ## serve in front of a simulated vLLM: no GPU, no model
	@echo "Starting gomodel in front of two simulated vLLM servers"
	@$(BIN)/python -m gomodel demo

run: $(VENV)/.runs  ## serve what .env describes
	@$(BIN)/python -m gomodel

test: $(VENV)/.installed  ## the test suite, in half as many processes again as there are CPUs, four at most
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-unit: $(VENV)/.installed  ## the rules by themselves, tests/unit: some twenty seconds
	$(BIN)/python -m pytest tests/unit --numprocesses auto --maxprocesses 4 --dist worksteal

# Where the checkout's own gomodel is not found before it; ONLY="tests/wire/test_retry.py" runs some.
test-compiled: $(VENV)/.installed  ## the tests of the daemon with what every request passes compiled (gcc, python3-dev), in .compiled
	rm -rf .compiled && mkdir .compiled
	GOMODEL_COMPILE=1 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .compiled .
	cp -r tests docs docker bench setup.cfg Makefile mkdocs.yml pyproject.toml .env.example *.md .compiled
	cd .compiled && ../$(BIN)/python -m pytest $(or $(ONLY),tests/unit tests/wire tests/process) --numprocesses auto --maxprocesses 4 --dist worksteal

static: $(VENV)/.installed  ## format, lint, imports and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

check: static test  ## what CI runs, on one interpreter

format: $(VENV)/.installed  ## mend what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs-config: $(VENV)/.runs  ## write .env.example, docs/configuration.md and the quick start's table of gomodel/config/registry.py
	$(BIN)/python -m gomodel.config.reference

docs-reference: $(VENV)/.installed  ## write docs/metrics.md and docs/cli.md of the code
	$(BIN)/python -m docs.site.reference

$(VENV)/.docs: $(VENV)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## the documentation site in build/site, every link checked
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --quiet --strict

test-docs: $(VENV)/.installed  ## run the commands and examples of README and docs; DOCS="--without-downloads", DOCS=docs/guides/codex.md
	$(BIN)/python -m tests.documents $(DOCS)

dist: $(VENV)/.installed  ## sdist and wheel in dist/: built twice, compared, and their contents checked
	$(BIN)/pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m tests.packaging

# Of what the image has, in an environment of its own and in the versions that the image is built with.
sbom: $(VENV)/.runs  ## dist/gomodel.cdx.json: the Python packages of the image, as CycloneDX
	rm -rf .venv-sbom && $(BIN)/python -m venv --without-pip .venv-sbom
	$(BIN)/pip --python .venv-sbom install --quiet --disable-pip-version-check --constraint docker/constraints.txt '.[batch,redis]'
	$(BIN)/pip install --quiet --disable-pip-version-check cyclonedx-bom
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o dist/gomodel.cdx.json .venv-sbom/bin/python

build: $(VENV)/.runs  ## ./bin/gomodel
	@mkdir -p bin
	@printf '#!/bin/sh\nexec "%s/$(BIN)/python" -m gomodel "$$@"\n' "$(CURDIR)" > bin/gomodel
	@chmod +x bin/gomodel

bench: $(VENV)/.installed  ## cost beside nginx and its peers; BENCH="--quick --only json,sse" passes options
	$(BIN)/python -m bench $(BENCH)

test-vllm: $(VENV)/.installed  ## against a real vLLM on the CPU, built once: 3.5 GB in ~/.cache/gomodel (GOMODEL_VLLM_DIR, GOMODEL_VLLM_FRONTEND=rust)
	$(BIN)/python -m tests.vllm.vllm_setup
	$(BIN)/python -m pytest tests/vllm $(VLLM)

bench-vllm: $(VENV)/.installed  ## vllm bench serve against that server, direct and through gomodel
	$(BIN)/python -m tests.vllm.vllm_setup
	$(BIN)/python -m tests.vllm.bench $(VLLM)

test-clients: $(VENV)/.installed  ## the real client packages, Python and Node, in .venv-clients
	$(BIN)/python -m tests.clients $(CLIENTS)

test-batches: $(VENV)/.installed  ## kills, full disks, several gateways on one database (Debian: apt-get install postgresql)
	$(BIN)/python -m pytest tests/batches

test-doctor: $(VENV)/.installed  ## what gomodel doctor finds, in real time: nginx well and badly set up (Debian: apt-get install nginx-light)
	$(BIN)/python -m pytest tests/doctor --numprocesses auto --maxprocesses 4

test-browser: $(VENV)/.installed  ## the status page and pages of other origins in headless Chromium (Debian: apt-get install chromium)
	$(BIN)/pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest tests/browser

docs-pictures: $(VENV)/.installed  ## take docs/images/page.png and draw the plots anew (Debian: apt-get install chromium)
	$(BIN)/pip install --quiet --disable-pip-version-check playwright pillow
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser/test_pictures.py
	$(BIN)/python -c 'from PIL import Image; p = "docs/images/page.png"; Image.open(p).convert("RGB").crop((0, 0, 1400, 1090)).quantize(220, dither=0).save(p, optimize=True)'
	$(BIN)/python -m bench.published

fuzz: $(VENV)/.installed  ## atheris on each parser, SECONDS each (default 60)
	$(BIN)/pip install --quiet --disable-pip-version-check atheris
	for target in selector continuation conversation multipart targets headers frames framing repeated; do \
		$(BIN)/python -m tests.fuzz $$target -max_total_time=$(or $(SECONDS),60) -max_len=4096 -artifact_prefix=/tmp/ || exit 1; done

lint-deploy:  ## docker/ against its tools' linters and schemas, in .venv-deploy
	docker/lint.sh

chaos: $(VENV)/.installed  ## random clients against random instances; SEED=7 REQUESTS=2000
	SEED=$(or $(SEED),1) REQUESTS=$(or $(REQUESTS),2000) $(BIN)/python -m pytest tests/wire/test_chaos.py

# Rules without I/O: the tests reach every line and every branch of these. Of all the rest FLOOR per cent.
PURE := $(wildcard gomodel/http1/*.py gomodel/routes/*.py gomodel/selector/*.py) gomodel/dialects.py \
	$(addprefix gomodel/access/,caller.py fair_queue.py host_lease.py limits.py rights.py) \
	$(addprefix gomodel/balancing/,aliases.py equivalence.py keys_in_flight.py near_models.py rendezvous.py rotation.py) \
	$(addprefix gomodel/batches/,byte_ranges.py ids.py lines.py parameters.py politeness.py usage.py) \
	$(addprefix gomodel/config/,addresses.py dotenv_file.py header_fields.py in_force.py keys_file.py load.py reader.py registry.py typos.py values.py variable.py) \
	$(addprefix gomodel/process/,ending.py hub.py lending.py orders.py restarts.py slot_desk.py) $(addprefix gomodel/relay/,attempts.py pace.py refusals.py sums.py) \
	$(addprefix gomodel/telemetry/,counters.py failures.py histogram.py history.py spending.py tally.py usage.py usage_table.py waste.py) \
	$(addprefix gomodel/upstream/,breaker.py connect_failure.py connection_loss.py demotion.py health.py model_list.py)
FLOOR := 97

# Measuring makes the gateway too slow for a test now and then; what passes is for `make test` to say.
coverage: $(VENV)/.installed  ## which lines and branches the tests reach, workers and other processes included
	-$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --cov --cov-report=
	$(BIN)/coverage report --skip-covered --show-missing --fail-under=$(FLOOR)
	$(BIN)/coverage report --skip-covered --show-missing --fail-under=100 $(PURE)

MODULE ?= upstream/breaker
TESTS ?= tests/unit/$(dir $(MODULE))test_$(notdir $(MODULE)).py
mutants: $(VENV)/.installed  ## changes MODULE (upstream/breaker) in each small way and shows what TESTS do not notice, in .mutants
	$(BIN)/pip install --quiet --disable-pip-version-check mutmut
	rm -rf .mutants && mkdir .mutants && cp -r gomodel tests setup.cfg README.md .mutants
	printf '%s\n' '' '[mutmut]' 'source_paths = gomodel' 'only_mutate = gomodel/$(MODULE).py' \
		'pytest_add_cli_args_test_selection =' $(foreach each,$(TESTS),'    $(each)') >> .mutants/setup.cfg
	cd .mutants && ../$(BIN)/python -m mutmut run --max-children 1 > run.log 2>&1 || { tail -20 run.log; exit 1; }
	@cd .mutants && ../$(BIN)/python -m mutmut results | sed -n 's/^ *\(.*\): .*/\1/p' \
		| while read -r each; do ../$(BIN)/python -m mutmut show "$$each"; done

soak: $(VENV)/.installed  ## the keep-alive race, the damage tests, the line and upgrades at full length
	GOMODEL_SOAK=10000 $(BIN)/python -m pytest tests/wire/test_keepalive_race.py tests/wire/test_response_damage.py \
		tests/process/test_queueing_soak.py tests/process/test_upgrade_soak.py

clean:  ## remove all that any of these made in this folder
	rm -rf $(VENV) .venv-* bin build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis bench-results .coverage .mutants .compiled
