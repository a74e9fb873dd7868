# Two commands do all the set-up on a fresh machine:
#   make demo    the main job, end to end, on loopback
#   make test    the test suite
# Python 3.11 or newer is all they need; peers (DCMTK, Orthanc) are installed
# from Debian when apt-get can be used, and their tests are left out otherwise.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PEERS  := dcmtk orthanc libgdcm-tools libxml2-utils openssl postgresql softhsm2 sslscan

.PHONY: demo test lint format types install peers experiment corpus sheets keys \
  lock check-lock sbom audit-deps clean security fuzz load reliability

demo: $(VENV)/.installed-demo
	$(BIN)/miad-gateway demo --report demo-report --json demo-report/demo.json

# Many tests wait for processes they start: one more than there are cores.
TESTERS ?= 3
test: $(VENV)/.installed-dev peers
	@if command -v storescu >/dev/null && PATH=$$PATH:/usr/sbin command -v Orthanc >/dev/null; \
	then marks=; else marks="not peers"; fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "$$marks" -n $(TESTERS) --dist loadfile \
	  $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed

# DATA=DIR holds CLASS/*.jpg of images no shipped model was trained on. Can be
# interrupted: it goes on from docs/results/*.jsonl.
JOBS ?= 2
experiment: $(VENV)/.installed
	$(BIN)/miad-gateway experiment all --data $(DATA) --jobs $(JOBS) --out docs/results

# Every DICOM file of the installed packages through a gateway and back; what is
# made lies in CORPUS. `make sheets` draws contact sheets of the last run.
CORPUS ?= build/corpus
corpus: $(VENV)/.installed-dev peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.corpus run --out $(CORPUS) \
	  --jobs $(JOBS) --page docs/results/corpus.md

# Kills and faults of every kind; goes on where it was interrupted. ROUNDS of kill -9
# on SQLite and as many on PostgreSQL.
FAULTS ?= build/faults
ROUNDS ?= 200
SEED   ?= 1
reliability: $(VENV)/.installed-dev peers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults run --work $(FAULTS) \
	  --rounds $(ROUNDS) --seed $(SEED) --table docs/reliability.md

sheets: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.corpus sheets $(CORPUS) --out $(CORPUS)/sheets \
	  --page docs/results/sheets.md

keys: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.record_sizes \
	  --out docs/results/keys.md

# A million changed PDUs, messages and data sets, and 20,000 changed associations.
FUZZ ?= build/fuzz
EXECUTIONS ?= 1100000
fuzz: $(VENV)/.installed-dev
	$(PIP) install -q -e ".[dev,fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz run --out $(FUZZ) --jobs $(JOBS) \
	  --executions $(EXECUTIONS)
	$(BIN)/python -m tests.fuzz wire --out $(FUZZ)
	$(BIN)/python -m tests.fuzz page $(FUZZ)

load: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.load --page benchmarks/results/load.md

# The supply chain; docs/supply-chain.md. `lock` resolves the product anew,
# `check-lock` compares every file's hash with the lock, `sbom` writes two bills of
# materials (of the lock, and of what is installed here), `audit-deps` looks the
# lock up among known vulnerabilities.
SUPPLY ?= build/supply-chain
lock: $(VENV)/.installed-dev
	mkdir -p $(SUPPLY)
	$(PIP) install -q --dry-run --ignore-installed \
	  --report $(SUPPLY)/report.json ".[pkcs11]"
	$(BIN)/python -m tools.lock $(SUPPLY)/report.json requirements.lock

check-lock: $(VENV)/bin/python
	$(PIP) install -q --dry-run --ignore-installed --no-deps --require-hashes \
	  -r requirements.lock

sbom: $(VENV)/.installed-dev
	mkdir -p $(SUPPLY)
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	  --validate --of JSON --output-reproducible -o $(SUPPLY)/sbom-product.json
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
	  --validate --of JSON --output-reproducible -o $(SUPPLY)/sbom-environment.json

audit-deps: $(VENV)/.installed-dev
	$(BIN)/python -m tools.audit requirements.lock

# What docs/security.md promises, by the tests it names.
SECURITY := $(addprefix tests/gateway/test_,tls.py tls_handshake.py tls_scan.py \
  access_nodes.py access_network.py access_grants.py access_clock.py \
  access_approvals.py access_ledger.py web_identity.py web_originals.py web_limits.py \
  rotation.py key_restore.py key_backup.py key_erase.py sealing_envelope.py \
  store_sealed.py vault.py recipients.py audit_checkpoints.py audit_messages.py \
  audit_syslog.py limits_connections.py limits_data_sets.py limits_pdus.py) \
  $(addprefix tests/endtoend/test_,access.py at_rest.py attacks.py web.py) \
  tests/test_phi_scan.py tests/test_supply_chain.py
security: $(VENV)/.installed-dev peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SECURITY) -n $(TESTERS) --dist loadfile \
	  $(PYTEST_ARGS)

peers:
	@if ! command -v storescu >/dev/null || ! command -v sslscan >/dev/null || ! PATH=$$PATH:/usr/sbin command -v Orthanc >/dev/null || ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -q && apt-get install -yq --no-install-recommends $(PEERS); \
	  else \
	    echo "DCMTK or Orthanc not found: tests with them are left out (install: $(PEERS))"; \
	  fi; \
	fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q -e .
	@touch $@

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q -e ".[demo]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -q -e ".[dev]"
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed

clean:
	rm -rf $(VENV) demo-report build dist *.egg-info
