# Every command of the project. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE := 1

# From the command line alone: a NAME or a HOST in the environment is somebody else's (WSL and conda export those).
NAME := ofa_caption
ENGINE := auto
DEVICE := cpu
PRECISION := fp32
SIZE := tiny
PIXELS := 480
HTTP_PORT := 8000
GRPC_PORT := 8001
METRICS_PORT := 8002
OPTIONAL := CHECKPOINT PICTURES SHA256 PEER CONTENDERS FLAGS BASE_DIGEST TARGET HOST METRICS SERVERS TIMEOUT THRESHOLDS \
  JUDGED WANTED
$(foreach name,$(OPTIONAL),$(eval $(name) :=))

# A misspelt one would be passed over in silence; what is meant for a command, such as PIP_INDEX_URL, only gets a word.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
STRANGE := $(if $(GIVEN),$(filter-out $(shell grep -oE '[A-Z_0-9]+' $(firstword $(MAKEFILE_LIST))),$(GIVEN)))
$(if $(STRANGE),$(warning $(STRANGE): no variable of this Makefile, see `make`; passed on to the commands as it is))

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment ------------------------------------------------------------------------------------------------------

$(VENV)/.ready: pyproject.toml client/pyproject.toml constraints.txt requirements/development.txt scripts/environment
	scripts/environment $(PYTHON) $(VENV)

.PHONY: environment
environment: $(VENV)/.ready ## install everything into .venv (the other commands do it by themselves)

# For the tests that run the deployment's proxy, its alerts and its dashboard.
PROGRAMS := $(VENV)/.programs
$(PROGRAMS): scripts/debian | $(VENV)/.ready
	scripts/debian $(VENV)/debian nginx nginx -V
	scripts/debian $(VENV)/debian prometheus prometheus --version
	touch $@

# --- the main way -----------------------------------------------------------------------------------------------------

.PHONY: demo
demo: artifacts/ofa_caption/manifest.json ## build the bundled checkpoint, serve it, caption examples/images, stop
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo

# What an artifact is made by: benchmarks/builds.py has the same.
BUILDER := $(wildcard $(addprefix build/ofa_build/,*.py *.jpg checkpoint/*.py commands/*.py export/*.py model/*.py) \
  $(addprefix model_repository/*/,config.pbtxt 1/model.py) $(addprefix serving/ofa_serving/,*.py engines/*.py))

artifacts/ofa_caption/manifest.json: $(VENV)/.ready $(BUILDER) $(wildcard checkpoints/emoji/*)
	$(BIN)/ofa-build build checkpoints/emoji

.PHONY: build
build: $(VENV)/.ready ## CHECKPOINT=dir-or-hub-name NAME=name [ENGINE= DEVICE= PRECISION= PICTURES= SHA256=]: engines and repository
	@test -n "$(CHECKPOINT)" || { echo "make build needs CHECKPOINT=directory, .pt file or hub name"; exit 2; }
	$(BIN)/ofa-build build "$(CHECKPOINT)" --name "$(NAME)" --engine $(ENGINE) --device $(DEVICE) --precision $(PRECISION) \
	  $(if $(PICTURES),--pictures "$(PICTURES)") $(if $(SHA256),--sha256 $(SHA256))

.PHONY: serve
serve: $(VENV)/.ready ## NAME=name [HTTP_PORT= GRPC_PORT= METRICS_PORT=]: serve a built checkpoint in the foreground
	$(BIN)/ofa-serve $(NAME) --http-port $(HTTP_PORT) --grpc-port $(GRPC_PORT) --metrics-port $(METRICS_PORT)

# --- checks -----------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/.ready $(PROGRAMS) ## every test but those that are listed with commands of their own
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

.PHONY: parity
parity: $(VENV)/.ready ## compare with ModelScope's own pipeline, live, in an environment of its own (minutes)
	scripts/parity

.PHONY: bench
bench: $(VENV)/.ready ## SIZE=tiny [PIXELS=480] [PEER=modelscope] [CONTENDERS="engine:precision ..."] [FLAGS=]: speed, to benchmarks/results
	$(if $(PEER),scripts/modelscope-environment .venv-modelscope)
	$(BIN)/python -m benchmarks.run --size $(SIZE) --image-size $(PIXELS) \
	  $(if $(CONTENDERS),--contenders $(CONTENDERS)) --work .cache/bench $(if $(PEER),--peer .venv-modelscope/bin/python) $(FLAGS)

.PHONY: gpu-bench
gpu-bench: ## [SIZE=tiny PIXELS=480 PEER=modelscope WHEELS=folder]: on a machine with a GPU, its tests and its whole benchmark
	SIZE=$(SIZE) PIXELS=$(PIXELS) PEER=$(PEER) scripts/gpu-bench

.PHONY: checkpoint
checkpoint: $(VENV)/.ready ## grow the bundled checkpoint and make its table, in .cache/checkpoint (about two hours on 2 quiet cores)
	scripts/checkpoint

# --- TensorRT, in NVIDIA's container ----------------------------------------------------------------------------------

TRITON_IMAGE := nvcr.io/nvidia/tritonserver:26.06-py3

.PHONY: plans
plans: ## CHECKPOINT=directory NAME=name BASE_DIGEST=sha256:... [PRECISION=fp32|fp16]: TensorRT plans for this machine's GPU, with Docker
	@test -d "$(CHECKPOINT)" || { echo "make plans needs CHECKPOINT=directory, and '$(CHECKPOINT)' is none: make build fetches a" \
	  "hub's name and says where to; a .pt file goes into a folder with its dictionaries"; exit 2; }
	@test -z "$$(find "$(CHECKPOINT)/" -type l)" || { echo "$(CHECKPOINT) holds links, as Hugging Face's cache does, which lead" \
	  "nowhere in the container: give make plans a copy (cp -rL)"; exit 2; }
	@test -n "$(BASE_DIGEST)" || { echo "make plans needs BASE_DIGEST: see deploy/Dockerfile"; exit 2; }
	docker build --target plans --build-arg TRITON_IMAGE=$(TRITON_IMAGE) --build-arg BASE_DIGEST=$(BASE_DIGEST) \
	  -t ofa-triton-plans -f deploy/Dockerfile .
	mkdir -p artifacts
	docker run --rm --gpus 1 --user "$$(id -u):$$(id -g)" \
	  --mount "type=bind,source=$$(realpath "$(CHECKPOINT)"),target=/checkpoint,readonly" \
	  --mount "type=bind,source=$(CURDIR)/artifacts,target=/artifacts" ofa-triton-plans \
	  build /checkpoint --name "$(NAME)" --artifacts /artifacts --engine tensorrt --device gpu --precision "$(PRECISION)"

.PHONY: clean
clean: ## remove what was built, not the environment
	rm -rf artifacts .cache

# --- load tests and deployment ----------------------------------------------------------------------------------------

RATE := 8
SECONDS_A_STEP := 20
SHAPE := steps
WORKERS := 1
# What they load unless told otherwise is built first.
BUNDLED := $(if $(filter ofa_caption,$(NAME)),artifacts/ofa_caption/manifest.json)
LOAD := --model $(NAME) --shape $(SHAPE) --rate $(RATE) --seconds $(SECONDS_A_STEP) --workers $(WORKERS) \
  $(if $(HOST),--url $(HOST)) $(if $(METRICS),--metrics-url $(METRICS)) $(if $(SERVERS),--servers $(SERVERS)) \
  $(if $(TIMEOUT),--timeout $(TIMEOUT)) $(if $(THRESHOLDS),--thresholds "$(THRESHOLDS)") $(if $(JUDGED),--judged $(JUDGED))

.PHONY: loadtest
loadtest: $(VENV)/.ready $(if $(HOST),,$(BUNDLED)) ## [HOST=grpc://host:port METRICS=url SERVERS=] [SHAPE= RATE= SECONDS_A_STEP= WORKERS= THRESHOLDS= JUDGED=]: load, judge, report
	$(BIN)/python -m loadtest $(LOAD)

.PHONY: capacity
capacity: $(VENV)/.ready $(if $(HOST),,$(BUNDLED)) ## WANTED=requests-a-second [HOST= SERVERS=]: how many servers like this machine, or those, that takes
	@test -n "$(WANTED)" || { echo "make capacity needs WANTED=requests a second"; exit 2; }
	$(BIN)/python -m loadtest $(LOAD) --wanted-rate $(WANTED)

.PHONY: throughput
throughput: $(VENV)/.ready $(BUNDLED) ## NAME=name: what batching, the protocol and a second server are worth, to loadtest/results
	$(BIN)/python -m loadtest.throughput $(NAME)

.PHONY: observability
observability: $(VENV)/.ready $(BUNDLED) ## NAME=name: what metrics, logs and traces cost, to benchmarks/results
	$(BIN)/python -m benchmarks.observability $(NAME)

.PHONY: bench-ways
bench-ways: $(VENV)/.ready $(BUNDLED) ## [NAME=name CHECKPOINT=directory]: what other ways to serve the same captions cost, to benchmarks/results
	$(BIN)/python -m benchmarks.ways $(NAME) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

.PHONY: scaling
scaling: $(VENV)/.ready $(BUNDLED) ## NAME=name: measure a server, replay a day over many of them with the chart's autoscaling, plot
	$(BIN)/python -m loadtest.scaling --serve $(NAME)

RUNS := 10

.PHONY: replicas
replicas: $(VENV)/.ready $(PROGRAMS) ## [RUNS=10]: spread, replacement and loss of servers behind the proxy under load, again and again
	for run in $$(seq $(RUNS)); do echo "run $$run of $(RUNS)"; $(BIN)/pytest -q tests/replicas || exit; done

.PHONY: image
image: ## TARGET=cpu|gpu|plans BASE_DIGEST=sha256:...: a container image, with Docker
	@test -n "$(BASE_DIGEST)" || { echo "make image needs BASE_DIGEST: see deploy/Dockerfile"; exit 2; }
	docker build -f deploy/Dockerfile --target $(or $(TARGET),cpu) --build-arg TRITON_IMAGE=$(TRITON_IMAGE) \
	  --build-arg BASE_DIGEST=$(BASE_DIGEST) -t ofa-triton:$(or $(TARGET),cpu) .

.venv-checkov/.ready:
	$(PYTHON) -m venv .venv-checkov
	.venv-checkov/bin/pip install -q checkov==3.3.30
	touch $@

.PHONY: check-deploy
check-deploy: $(VENV)/.ready $(PROGRAMS) .venv-checkov/.ready ## every check of deploy/, with checkov
	$(BIN)/pytest tests/deploy

# --- reliability: checks that take minutes; docs/reliability.md has their figures -------------------------------------

LONG := $(BIN)/pytest -m long -o junit_family=xunit1 --junitxml

.PHONY: overload
overload: $(VENV)/.ready ## 4,000 requests at 400 concurrent, and the memory a minute later (3 minutes)
	mkdir -p .cache && $(LONG)=.cache/overload.xml tests/faults/test_overload.py

.PHONY: fuzz
fuzz: $(VENV)/.ready $(PROGRAMS) ## 10,000 mutated images, HTTP and gRPC requests each (10 minutes)
	mkdir -p .cache && $(LONG)=.cache/fuzz.xml tests/faults/test_fuzz.py

SOAK_SECONDS := 3600

.PHONY: soak
soak: $(VENV)/.ready $(PROGRAMS) ## [SOAK_SECONDS=3600]: mixed load with kills, hangs and slow clients; memory against a leaking control
	mkdir -p .cache && SOAK_SECONDS=$(SOAK_SECONDS) $(LONG)=.cache/soak.xml tests/faults/test_soak.py

# --- supply chain -----------------------------------------------------------------------------------------------------

.PHONY: audit
audit: $(VENV)/.ready ## known vulnerabilities, licences and a bill of materials of what is installed, into .cache/audit
	$(PYTHON) scripts/audit.py .venv-audit $(BIN)/python .cache/audit

.PHONY: lock
lock: ## write the hashes of what constraints.txt pins to requirements/
	scripts/lock $(PYTHON) .venv-lock

# --- client -----------------------------------------------------------------------------------------------------------

.PHONY: client-soak
client-soak: $(VENV)/.ready ## 20,000 images through kills of client and server, and 100,000 results with flat memory (minutes)
	$(BIN)/pytest tests/client_soak -s --show-capture=no

.PHONY: client-api
client-api: $(VENV)/.ready ## write docs/client-api.md from the client's docstrings
	$(BIN)/python scripts/client-api

.PHONY: test-pythons
test-pythons: $(VENV)/.ready ## the client's tests under each installed Python from 3.9 to 3.13, oldest and newest libraries (minutes)
	mkdir -p .cache && PATH="$(CURDIR)/$(BIN):$$PATH" scripts/client-pythons .cache/pythons

# Ray wants a newer numpy than the server, and the page an older pillow: each has an environment of its own. hatchling is
# what the client is installed with.
.venv-ray/.ready: client/pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/pip install -q -c constraints.txt hatchling editables
	.venv-ray/bin/pip install -q --no-build-isolation -e 'client[ray]' ray==2.60.0 pyarrow==26.0.1 webdataset==1.0.2 tritonclient==2.73.0 pytest==9.2.0
	touch $@

.PHONY: test-ray
test-ray: $(VENV)/.ready .venv-ray/.ready ## caption data sets on a local Ray over two servers
	OFA_SERVER_PYTHON=$(BIN)/python .venv-ray/bin/pytest tests/client_ray --confcutdir=tests/client_ray

.venv-page/.ready: client/pyproject.toml
	$(PYTHON) -m venv .venv-page
	.venv-page/bin/pip install -q -c constraints.txt hatchling editables
	.venv-page/bin/pip install -q --no-build-isolation -e 'client[page]' gradio==6.31.0 tritonclient==2.73.0 playwright==1.65.2 pytest==9.2.0
	touch $@

.PHONY: page
page: .venv-page/.ready ## [OFA_URL=grpc://host:port]: a web page to try a running server with, at 127.0.0.1:7860
	.venv-page/bin/python -m ofa_client.page --model $(NAME) --examples examples/images

.PHONY: test-page
test-page: .venv-page/.ready artifacts/ofa_caption/manifest.json ## use the page in Debian's Chromium, over the bundled checkpoint
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/with-server ofa_caption .venv-page/bin/pytest tests/page --confcutdir=tests/page
