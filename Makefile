# The commands a contributor needs. CONTRIBUTING.md says when to use which.

# Debian's own Python can be executed by every user; one under a home cannot.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            && echo /usr/bin/python3 || echo python3)
VENV   := .venv
DEMO   := .demo
BIN    := $(VENV)/bin
TOOLS  := e2fsprogs coreutils debian-archive-keyring debootstrap busybox-static
CLUSTER := openmpi-bin libopenmpi-dev python3-mpi4py mpich libmpich-dev slurm-wlm slurmctld slurmd munge
NEEDED := $(TOOLS) $(CLUSTER) fuse2fs uidmap libcap2-bin file util-linux python3-venv faketime dnf rpm createrepo-c gnupg \
          docker-registry docker.io buildah skopeo umoci podman apache2-utils openssl squashfuse \
          squashfs-tools xvfb x11-apps strace gcc procps mandoc slapd nslcd libnss-ldapd fuse-overlayfs

.PHONY: singrun.pyz man demo test coverage check unit format packages clean

demo: $(VENV)/.installed ## build recipes/busybox.def and run the image
	@$(MAKE) --no-print-directory $(DEMO)/busybox.img
	@echo; echo '$$ ./busybox.img hello world'
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(DEMO)/busybox.img hello world
	@echo; echo '$$ singrun exec busybox.img id'
	@$(BIN)/singrun exec $(DEMO)/busybox.img id
	@echo; echo "The image is $(DEMO)/busybox.img; put $(CURDIR)/$(BIN) on your PATH to go on."

$(DEMO)/busybox.img: recipes/busybox.def $(wildcard singbuild/*.py plugins/*.py)
	@mkdir -p $(DEMO)
	$(BIN)/singbuild --force recipes/busybox.def $@

test: packages $(VENV)/.tested ## install what the tests need, check, and run them all
	$(MAKE) --no-print-directory check
	$(BIN)/pytest

unit: $(VENV)/.tested ## the quick tests, without root
	$(BIN)/pytest -m "not root and not network"

coverage: packages $(VENV)/.tested ## which lines the tests execute, in all processes
	$(BIN)/python -m tests.bench.line_coverage -m "not long" -n 3 --dist loadgroup

check: $(VENV)/.tested ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.tested ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

packages: ## Debian packages for the tests, when we are root and may install them
	@missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(NEEDED) 2>&1 | grep -v '^installed' \
	  | sed 's/.* //'); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y $(NEEDED); \
	elif [ -n "$$missing" ]; then \
	  echo "Not installed (some tests will be skipped): $(NEEDED)" | fold -s; \
	fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] \
	  && apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv; } \
	  || { echo 'Python has no venv module: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install -q -e '.[test]'
	@touch $@

man: $(VENV)/.installed ## man pages of the three commands, where man finds them by the PATH
	$(BIN)/python -m singbuild.cli.manpages $(VENV)/share/man/man1

singrun.pyz: ## the runtime as one file, for nodes without an installation
	$(PYTHON) -m singrun.bundle $@

clean:
	rm -rf $(VENV) $(DEMO) dist singrun.pyz
