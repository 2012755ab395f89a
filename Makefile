# The commands a contributor needs. CONTRIBUTING.md says when to use which.

# Debian's own Python can be executed by every user; one under a home cannot.
PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
            && echo /usr/bin/python3 || echo python3)
VENV   := .venv
DEMO   := .demo
BIN    := $(VENV)/bin
# A worker more than cores: while one waits for a process or a disk, another computes.
WORKERS := -n $(shell expr $$(nproc) + 1) --dist loadgroup
# Set in containers, it would have each process of pytest compile all anew.
unexport PYTHONDONTWRITEBYTECODE
# What is not run is not collected (tests/unit, --ignore): each worker would import all of it.
PYTEST := $(BIN)/pytest $(WORKERS)

# What the builder and the runtime use, and what the tests look at images with; fish and zsh, in
# which the tests complete words as their users do.
TOOLS := e2fsprogs coreutils debian-archive-keyring debootstrap busybox-static fuse2fs uidmap squashfuse \
         squashfs-tools squashfs-tools-ng fuse-overlayfs dnf zypper pacman-package-manager rpm createrepo-c gnupg libcap2-bin util-linux python3-venv \
         apache2-utils apt-utils bsdextrautils bzip2 faketime file fish gcc git libc6-dev mandoc openssl procps strace tini xz-utils zsh zstd
# Two services: images come from a registry, and a container without privileges is Podman's.
# crun, which Podman brings, refuses hosts with both versions of cgroups: runc does not.
SERVICES := docker-registry podman runc buildah skopeo umoci
LONG  := docker.io openmpi-bin libopenmpi-dev python3-mpi4py mpich libmpich-dev \
         slurm-wlm slurmctld slurmd munge slapd nslcd libnss-ldapd xvfb x11-apps tmux psmisc git \
         chromium fonts-dejavu-core nginx-light apache2 user-mode-linux dbus-user-session libpam-systemd

.PHONY: pictures hub-pictures deb rpm singrun.pyz player man demo test test-long coverage fuzz check unit format packages packages-long clean

demo: $(VENV)/.installed ## build recipes/busybox.def and run the image
	@[ "$$(id -u)" != 0 ] || command -v mke2fs >/dev/null || { $(call install,e2fsprogs); }
	@$(MAKE) --no-print-directory $(DEMO)/busybox.img
	@echo; echo '$$ ./busybox.img hello world'
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(DEMO)/busybox.img hello world
	@echo; echo '$$ singrun exec busybox.img id'
	@$(BIN)/singrun exec $(DEMO)/busybox.img id
	@echo; echo "The image is $(DEMO)/busybox.img; put $(CURDIR)/$(BIN) on your PATH to go on."

$(DEMO)/busybox.img: recipes/busybox.def $(shell find singbuild plugins -name '*.py')
	@mkdir -p $(DEMO)
	$(BIN)/singbuild --force recipes/busybox.def $@

unit: $(VENV)/.tested ## the quick tests, without root and without network
	$(PYTEST) tests/unit -m "not root and not network and not long"

test: packages $(VENV)/.tested ## install what the tests need, check, and run all but the long ones
	$(MAKE) --no-print-directory check
	$(PYTEST) --durations=25 --ignore=tests/long -m "not long"

test-long: packages-long $(VENV)/.tested ## campaigns, every mode, whole distributions, Slurm, MPI
	$(PYTEST) --durations=25 -m long

SECONDS ?= 3600
fuzz: packages $(VENV)/.tested ## the campaigns, each for SECONDS, with new seeds: make fuzz SECONDS=20000
	SINGBUILD_TEST_SECONDS=$(SECONDS) $(BIN)/pytest -s --timeout 0 tests/long/campaigns

coverage: packages $(VENV)/.tested ## which lines the tests execute, in all processes
	$(BIN)/python -m tests.bench.line_coverage $(WORKERS) -m "not long"

check: $(VENV)/.tested ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.tested ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

packages: ## Debian packages for `make test`, when we are root and may install them
	@$(call install,$(TOOLS) $(SERVICES))

packages-long: ## those, and what only `make test-long` needs
	@$(call install,$(TOOLS) $(SERVICES) $(LONG))

define install
missing=$$(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(1) 2>&1 | grep -v '^installed' | sed 's/.* //'); \
if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(1); \
elif [ -n "$$missing" ]; then \
  echo "Not installed (some tests will be skipped): "$$missing | fold -s; \
fi
endef

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

man: $(VENV)/.installed ## man pages of the commands, where man finds them by the PATH
	$(BIN)/python -m singbuild.cli.manpages $(VENV)/share/man

player: ## the program in C that starts images without Python
	$(CC) -O2 -Wall -Wextra -static -o singrun/recordings/player singrun/recordings/*.c 2>/dev/null || \
	    $(CC) -O2 -Wall -Wextra -o singrun/recordings/player singrun/recordings/*.c
	chmod 0755 singrun/recordings/player

singrun.pyz: ## the runtime as one file, for nodes without an installation
	$(PYTHON) -m singrun.bundle $@

pictures: $(VENV)/.tested ## docs/pictures, of the terminal: needs a network and a registry
	$(BIN)/python -m tests.bench.pictures docs/pictures

hub-pictures: $(VENV)/.tested ## docs/pictures, of a hub's pages: needs chromium and a network
	$(BIN)/python -m tests.bench.hub_pictures docs/pictures

deb rpm: ## packages for this host's distribution, in dist/
	/usr/bin/python3 packaging/packages.py $@ dist

clean:
	rm -rf $(VENV) $(DEMO) dist singrun.pyz
