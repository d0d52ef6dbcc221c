# Targets of the starter itself, included by the Makefile. A service that is made from it has none of them.
.PHONY: new wheel end-to-end test-pooler test-standbys bench

unexport DIR
$(call needs,new,NAME DIR,make new NAME=orders DIR=../orders)
new: $(READY)  ## make a service: make new NAME=orders DIR=../orders (FEATURE=ledger keeps the ledger; docs/updating.md)
	@$(BIN)/python -m template.new $(foreach answer,NAME DIR FEATURE SINGULAR KUBERNETES PGBOUNCER REPLICA TRACES ENGINE, \
	  $(if $(value $(answer)),$(answer)=$(call quoted,$(answer))))

wheel: $(READY)  ## build the engine, lifeguard-pg, into dist/
	$(BIN)/uv build --quiet --wheel $(PACKAGE) --out-dir dist

end-to-end: $(READY)  ## run docker-compose.yml under load: killed, updated, scaled, watched (needs Docker)
	$(BIN)/python -m deploy.end_to_end

test-standbys: $(READY)  ## run the ledger's tests on a primary with two standbys, from which the service reads
	$(if $(wildcard tests/ledger),@LEDGER_STANDBYS=2 $(BIN)/python $(PYTEST) -m 'not slow and not deploy' tests/ledger)

test-pooler: $(READY)  ## run the ledger's tests, and the engine's, through PgBouncer: the installed one, or PGBOUNCER=path
	@$(BIN)/python $(PYTEST) -m 'not slow and not deploy' --through-pgbouncer $(wildcard tests/ledger) \
	  $(if $(PACKAGE),$(PACKAGE)/tests/database/test_pgbouncer.py)

bench: $(READY)  ## answer the questions of bench/, a table and a plot each, and write the report, docs/benchmarks.md
	@failed=; for question in bench/*/__main__.py; do name=$$(basename "$$(dirname "$$question")"); \
	  $(BIN)/python -m "bench.$$name" || failed="$$failed $$name"; done; $(BIN)/python -m bench.readme && \
	  if [ -n "$$failed" ]; then echo "without an answer:$$failed" >&2; exit 1; fi
