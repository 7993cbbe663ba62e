# The three commands of a newcomer. A fresh machine lacks libclang, which cargo cannot fetch; otherwise this is
# plain cargo (CONTRIBUTING.md).

.PHONY: demo test bench setup

# The main job on real input: generate, build rollups, ask, rebuild two partitions. ARGS="--serve" keeps it up.
demo: setup
	@. scripts/env.sh && cargo run --release --locked -- demo $(ARGS)

# Everything that CI runs.
test:
	@sh scripts/setup.sh tests
	@sh scripts/test.sh

# Medians and ratios of planning, answering and building; BENCH=rebuild for one of them.
bench: setup
	@. scripts/env.sh && cargo bench --locked $(if $(BENCH),--bench $(BENCH)) $(if $(ARGS),-- $(ARGS))

setup:
	@sh scripts/setup.sh
