# pgmq_mail: a transactional mail queue inside PostgreSQL.
# `make help` says what there is. PG_CONFIG chooses the server, as with PGXS.

NAME      := pgmq_mail
VERSION   := $(shell sed -n "s/^default_version *= *'\([^']*\)'.*/\1/p" $(NAME).control 2>/dev/null)
SHELL     := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
.NOTPARALLEL:

CARGO     ?= cargo
TARGET    := $(or $(CARGO_TARGET_DIR),target)
DESTDIR   ?=
# The first pg_config on PATH, else Debian's 15.
PG_CONFIG ?= $(or $(shell command -v pg_config),/usr/lib/postgresql/15/bin/pg_config)
# Build against this one and install into PG_CONFIG's; they differ only for the staged servers of the tests.
BUILD_PG_CONFIG ?= $(PG_CONFIG)

# Recursive on purpose: `make help` and `make clean` need no PostgreSQL. Debian's pg_config on PATH
# is a wrapper of the versioned one: going by --bindir gives both the same name.
PG         = $(shell $(BUILD_PG_CONFIG) --bindir)/pg_config
MAJOR      = $(shell $(BUILD_PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
PKGLIBDIR  = $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)
EXTENSIONS = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension
OUT        = $(TARGET)/pg$(MAJOR)

# Majors that `make test` builds for besides 15, and the test binaries that it runs on them.
OTHER_MAJORS ?= 14 16 17 18
CORE_TESTS   ?= sql_surface worker upgrade

TESTS      = $(notdir $(basename $(wildcard tests/tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard tests/tests/*/main.rs)))
SQL        = $(sort $(wildcard sql/[0-9][0-9]_*.sql))
UPDATES    = $(sort $(wildcard sql/$(NAME)--*--*.sql))
# Install scripts of versions that are out, for the tests of updates.
RELEASED   = $(sort $(wildcard sql/released/$(NAME)--*.sql))
# Everything but the extension itself, which only links inside a server.
PURE      := --workspace --exclude $(NAME)
STAGED     = $(shell scripts/stage-dir)

##@ Build
all: build ## Build the extension and its install script for PG_CONFIG into target/pgNN

# One target directory for all majors: they differ in Cargo features, so that the majors' own parts
# stand side by side there, and what they share (TLS, the runtime, the message builder) is built once.
.PHONY: all build install
build:
	@test -x "$(PG)" || { echo "no PostgreSQL to build for: PG_CONFIG=$(PG_CONFIG)" >&2; exit 1; }
	@test -n "$(VERSION)" || { echo "no default_version in $(NAME).control" >&2; exit 1; }
	PGRX_PG_CONFIG_PATH=$(PG) $(CARGO) build --release --locked --package $(NAME) \
	    --no-default-features --features pg$(MAJOR)
	@mkdir -p $(OUT)
	@scripts/put 755 $(TARGET)/release/lib$(NAME).so $(OUT)/$(NAME).so
	@cat $(SQL) > $(OUT)/$(NAME)--$(VERSION).sql

install: build ## Install it into PG_CONFIG's server (DESTDIR is respected; sudo only where it is needed)
	@scripts/put 755 $(OUT)/$(NAME).so "$(PKGLIBDIR)/$(NAME).so"
	@scripts/put 644 $(NAME).control "$(EXTENSIONS)/$(NAME).control"
	@for script in $(OUT)/$(NAME)--$(VERSION).sql $(UPDATES); do \
	    scripts/put 644 $$script "$(EXTENSIONS)/$${script##*/}"; \
	done
	@echo "installed $(NAME) $(VERSION) for PostgreSQL $(MAJOR) in $(PKGLIBDIR)"

##@ Check
.PHONY: test test-all lint fmt unit test-15 test-core stage stage-15 stage-% chaos bench demo clean help deps
deps: ## Install what is missing on Debian 12 (says what)
	@scripts/install-deps

test: deps ## Everything that CI runs
	@$(MAKE) --no-print-directory lint test-15 test-core

lint: ## Formatting, clippy without a warning, licences of the dependencies
	$(CARGO) fmt --all --check
	PGRX_PG_CONFIG_PATH=$(PG) $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/check-licences

unit: ## Only the tests that need no server
	$(CARGO) test --locked $(PURE) --exclude pgmq-mail-tests

stage: stage-15 ## A private PostgreSQL 15 with the extension in it, for `cargo test -p pgmq-mail-tests`

stage-15:
	@scripts/stage-postgres 15
	@$(MAKE) --no-print-directory install PG_CONFIG=$(STAGED)/15/bin/pg_config \
	    BUILD_PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config UPDATES="$(UPDATES) $(RELEASED)"

stage-%:
	@scripts/stage-postgres $*
	@$(MAKE) --no-print-directory install PG_CONFIG=$(STAGED)/$*/bin/pg_config UPDATES="$(UPDATES) $(RELEASED)"

test-15: stage-15 stage-16 ## All tests, on PostgreSQL 15
	PG_CONFIG=$(STAGED)/15/bin/pg_config $(CARGO) test --locked --no-fail-fast $(PURE)

test-core: $(addprefix test-core-,$(OTHER_MAJORS)) ## Build and the core tests on the other majors

test-core-%: stage-%
	PG_CONFIG=$(STAGED)/$*/bin/pg_config PGMQ_MAIL_CORE=1 \
	    $(CARGO) test --locked --no-fail-fast $(PURE) $(addprefix --test ,$(filter $(TESTS),$(CORE_TESTS)))

CHAOS_CRASHES ?= 200
CHAOS_MAILS   ?= 200000
chaos: stage-15 ## Faults at random and in combination: CHAOS_CRASHES (200), CHAOS_MAILS (200000), CHAOS_SEED
	PG_CONFIG=$(STAGED)/15/bin/pg_config PGMQ_MAIL_CHAOS_CRASHES=$(CHAOS_CRASHES) PGMQ_MAIL_CHAOS_MAILS=$(CHAOS_MAILS) \
	    $(if $(CHAOS_SEED),PGMQ_MAIL_CHAOS_SEED=$(CHAOS_SEED)) $(CARGO) test --locked $(PURE) --test chaos -- --nocapture

bench: stage-15 ## Rate and latency from commit to a local SMTP sink
	PG_CONFIG=$(STAGED)/15/bin/pg_config $(CARGO) run --release --locked --package pgmq-mail-tests --bin bench

##@ Show
demo: deps stage-15 ## A throwaway server, a real SMTP server, and a mail that goes from one to the other
	@PG_CONFIG=$(STAGED)/15/bin/pg_config $(CARGO) run --quiet --locked --package pgmq-mail-tests --bin demo

fmt: ## Format the Rust sources
	$(CARGO) fmt --all

clean: ## Remove everything that was built, staged or left behind
	scripts/stage-dir --remove
	rm -rf target

help: ## This text
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
