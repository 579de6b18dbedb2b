# The targets of the project; `make help` lists them. Every target installs what it needs first.
# Defaults are the demo's: for another data set, give the variables below on the command line.

PYTHON ?= python3
DEMO = work/demo
EXTRACT_CONFIG ?= demo
TRAIN_CONFIG ?= demo
DATA ?= $(DEMO)/data
TRAIN_SPLIT ?= train
EVAL_SPLIT ?= valid_u
SPLITS ?= $(TRAIN_SPLIT) $(EVAL_SPLIT)
WEIGHTS ?= extract/assets/vita_tiny.safetensors
CACHE ?= $(DEMO)/cache
RUN ?= $(DEMO)/run
OUT ?= $(DEMO)
# Keys to change, such as EXTRACT_OPTIONS="dataset=ref_davis codec=float16" TRAIN_OPTIONS=train.seed=1
EXTRACT_OPTIONS ?=
TRAIN_OPTIONS ?=
SEGMENT_OPTIONS ?=
# Rows of ablation tables, in train/configs/sweeps, and the seeds that each gets.
SWEEP ?= demo
SEEDS ?= 0 1 2

# Tests run in as many processes as there are cores, the tests of a file in one of them.
TEST_OPTIONS ?= -n auto --maxprocesses 8 --dist loadfile

# Threads that spin while they wait for each other slow a busy machine down several times.
export OMP_WAIT_POLICY = PASSIVE

BIN = .venv/bin
INSTALLED = .venv/installed
CHANGED = $(if $(TRAIN_OPTIONS),--cfg-options $(TRAIN_OPTIONS))
TRAINING = $(BIN)/python -m train $(TRAIN_CONFIG) --cache $(CACHE)/$(TRAIN_SPLIT) --work-dir $(RUN) \
	--resume $(CHANGED)
SWEEPING = $(BIN)/python -m train.sweep $(SWEEP) --config $(TRAIN_CONFIG) \
	--cache $(CACHE)/$(TRAIN_SPLIT) --eval-cache $(CACHE)/$(EVAL_SPLIT) --seeds $(SEEDS) \
	--work-dir $(OUT)/sweep-$(SWEEP) --resume $(CHANGED)
EXTRACTING = $(BIN)/python -m extract $(EXTRACT_CONFIG) --data-root $(DATA) --split $(1) \
	--weights $(WEIGHTS) --out $(CACHE)/$(1) $(2) \
	$(if $(EXTRACT_OPTIONS),--cfg-options $(EXTRACT_OPTIONS))
# The demo gives each of two cores a process. What they say is kept, and shown where one fails.
SIDE_BY_SIDE = --no-print-directory -j2
LOGS = $(OUT)/logs
KEPT = > $(LOGS)/$(1).txt 2>&1 || { cat $(LOGS)/$(1).txt >&2; false; }
CHECK_IMPORTS = $(BIN)/lint-imports --config setup.cfg

.DEFAULT_GOAL := help
.PHONY: help setup check-train check-sweep data extract train eval demo \
	demo-valid demo-cache demo-drawing demo-select demo-page demo-picture segment sweep params check-data \
	stats submit verify bench bench-gpu test faults lint

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED) ## install everything into .venv, once

$(INSTALLED): setup.cfg pyproject.toml scripts/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e '.[all,dev]'
	@touch $@

# Wrong options are refused before hours of stage one.
check-train: setup
	@$(TRAINING) --check

check-sweep: setup
	@$(SWEEPING) --check

data: setup ## draw the demo's videos (does nothing for your own data)
ifeq ($(DATA),$(DEMO)/data)
	@$(BIN)/python -m scripts.make_demo_data --root $(DATA)
endif

extract: data ## stage one: frozen VITA over $(SPLITS) of $(DATA) into $(CACHE), as far as it is missing
	@set -e; $(foreach split,$(SPLITS),echo "== extract $(split)"; $(call EXTRACTING,$(split));)

train: check-train extract ## stage two: train a head from $(CACHE) into $(RUN)
	@echo "== train"
	@$(TRAINING)

eval: train ## predict, rebuild masks and score on $(EVAL_SPLIT), with controls
	@echo "== eval"
	@$(BIN)/python -m train.evaluate $(TRAIN_CONFIG) --cache $(CACHE)/$(EVAL_SPLIT) \
		--checkpoint $(RUN) --out $(OUT) --controls --save-masks \
		$(CHANGED)

demo: setup ## the whole loop on the demo world, three heads, with tables, a picture and a page at the end
	@mkdir -p $(LOGS)
	@$(MAKE) $(SIDE_BY_SIDE) data check-train
	@echo "== extract"
	@$(MAKE) $(SIDE_BY_SIDE) demo-half-0 demo-half-1
	@echo "== train the paper's head and one that knows the order of frames, in one pass, and beside" \
		"them one that draws no masks"
	@$(MAKE) $(SIDE_BY_SIDE) demo-drawing demo-score-select demo-cache
	@echo "== what they learned from"
	@sed -n '/^codec/,/^file_bytes/p' $(LOGS)/cache.txt
	@echo "== evaluate"
	@$(MAKE) $(SIDE_BY_SIDE) demo-score-dmvs demo-score-trajectory
	@cat $(LOGS)/dmvs.txt
	@$(MAKE) $(SIDE_BY_SIDE) demo-page demo-picture
	@cat $(LOGS)/page.txt $(LOGS)/picture.txt
	@echo "data $(DATA)  cache $(CACHE)  checkpoints and logs $(OUT)/heads"
	@echo "figures $(OUT)/*/metrics.json  page $(OUT)/report.html  picture $(OUT)/overlays.png"

# Parts of the demo. The halves are ranks of one extraction, on one device.
demo-half-%:
	@RANK=$* WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 \
		$(call EXTRACTING,$(TRAIN_SPLIT),--launcher pytorch) > $(LOGS)/half-$*.txt

demo-valid:
	@$(call EXTRACTING,$(EVAL_SPLIT)) $(call KEPT,valid)

demo-cache:
	@$(BIN)/python -m cache_schema info $(CACHE)/$(TRAIN_SPLIT) $(call KEPT,cache)

demo-drawing:
	@$(BIN)/python -m train.sweep drawing --config demo --cache $(CACHE)/$(TRAIN_SPLIT) --seeds 0 \
		--work-dir $(OUT)/heads --resume $(CHANGED)

demo-select: demo-valid
	@$(BIN)/python -m train demo_select --cache $(CACHE)/$(TRAIN_SPLIT) --work-dir $(OUT)/heads/select \
		--resume $(CHANGED) $(call KEPT,train-select)

demo-score-select: demo-select
demo-score-%:
	@mkdir -p $(OUT)/$*
	@$(BIN)/python -m train.evaluate --cache $(CACHE)/$(EVAL_SPLIT) \
		--checkpoint $(OUT)/heads/$*$(if $(filter-out select,$*),/seed-0) --out $(OUT)/$* \
		--controls --save-masks $(call KEPT,$*)

demo-page:
	@$(BIN)/python -m scripts.report --cache $(CACHE)/$(EVAL_SPLIT) --evaluation DMVS=$(OUT)/dmvs \
		trajectory=$(OUT)/trajectory select=$(OUT)/select \
		--data-root $(DATA) --split $(EVAL_SPLIT) --out $(OUT)/report.html $(call KEPT,page)

demo-picture:
	@$(BIN)/python -m scripts.draw_overlays --data-root $(DATA) --split $(EVAL_SPLIT) \
		--masks $(OUT)/dmvs/masks --metrics $(OUT)/dmvs/metrics.json --out $(OUT)/overlays.png \
		--beside trajectory=$(OUT)/trajectory select=$(OUT)/select $(call KEPT,picture)

segment: setup ## masks for your own video and sentence: VIDEO=clip.mp4 TEXT="..."; without, of the demo
	@$(BIN)/python -m scripts.segment $(if $(VIDEO),"$$VIDEO" "$$TEXT" --out $(OUT)/segment \
		--checkpoint $(if $(filter command% env%,$(origin RUN)),$(RUN),$(DEMO)/heads/select) \
		$(if $(filter command%,$(origin WEIGHTS)),--weights $(WEIGHTS))) \
		$(SEGMENT_OPTIONS)

sweep: check-sweep extract ## train the rows of $(SWEEP) with $(SEEDS) in one pass, score them, make the table
	@$(SWEEPING)

params: setup ## count the parameters of the paper's head, part by part
	@$(BIN)/python -m train.params

check-data: data ## what is wrong with a data set, before any hour is spent: DATA=mevis ROOT=folder
	@$(BIN)/python -m scripts.check_data --dataset $(if $(ROOT),$(DATA),mevis) \
		--root $(or $(ROOT),$(DATA)) $(if $(filter command%,$(origin SPLITS)),--split $(SPLITS))

stats: setup ## frames, objects and words of the caches under $(CACHE), as tables and pictures
	@set -e; for split in $(SPLITS); do \
		$(BIN)/python -m cache_schema stats $(CACHE)/$$split --out $(OUT)/stats-$$split.png; \
	done

submit: eval ## masks of $(EVAL_SPLIT) as the archive that the benchmark takes, checked
	@$(BIN)/python -m scripts.submit --cache $(CACHE)/$(EVAL_SPLIT) \
		--predictions $(OUT)/predictions.h5 --out $(OUT)/submission.zip

verify: setup ## check every byte of the caches under $(CACHE)
	@set -e; for split in $(SPLITS); do $(BIN)/python -m cache_schema verify $(CACHE)/$$split; done

bench: data ## measure stage one, the cache, training and scoring; tables here, JSON in $(OUT)/bench
	@mkdir -p $(OUT)/bench
	@$(BIN)/python -m scripts.bench_extract demo --data-root $(DEMO)/data --split valid_u \
		--weights extract/assets/vita_tiny.safetensors --json $(OUT)/bench/extract_demo.json
	@$(BIN)/python -m scripts.bench_extract mevis_r50 --json $(OUT)/bench/extract_r50.json
	@$(BIN)/python -m scripts.bench_train --json $(OUT)/bench/train.json
	@$(BIN)/python -m scripts.bench_score --json $(OUT)/bench/score.json

bench-gpu: setup ## measure both stages on a GPU, six minutes; tables here, JSON in $(OUT)/bench
	@mkdir -p $(OUT)/bench
	@$(BIN)/python -m scripts.bench_gpu --json $(OUT)/bench/gpu.json

test: setup ## check import boundaries and run the tests
	$(CHECK_IMPORTS)
	$(BIN)/python -m pytest $(TEST_OPTIONS)

faults: setup ## run every repro.sh below FAULTS=folder and count those that show a fault
	@bad=0; total=0; mkdir -p $(OUT); for case in $$(find $(FAULTS) -name repro.sh | sort); do \
		total=$$((total + 1)); \
		PY=$(CURDIR)/$(BIN)/python bash $$case > $(OUT)/fault.log 2>&1; \
		if grep -aqE '^FAULT|tracebacks [1-9]' $(OUT)/fault.log; then \
			bad=$$((bad + 1)); echo "fault: $$case"; fi; \
	done; echo "$$bad of $$total cases show a fault"; test $$bad = 0

lint: setup ## check style and import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CHECK_IMPORTS)
