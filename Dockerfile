# The deliverable: one image for the Ray head, its workers and the autoscaler, on NVIDIA GPUs (docs/adr/0007).
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) --tag gatehouse .
#
# Needs .gatehouse/vocabulary/o200k_base.tiktoken, which `make run` leaves there (or --build-arg VOCABULARY=path).
# Behind a mirror: --secret id=pip,src=pip.conf. CUDA comes from the locked wheels; the node brings only its driver.
# Weights are never in the image, and nothing is fetched at run time.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/gatehouse/venv
ENV PATH=/opt/gatehouse/venv/bin:$PATH
# Before the sources: the layer of 10 GB changes with the lock only.
COPY requirements/gpu.lock requirements/gpu.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --require-hashes --only-binary :all: -r requirements/gpu.lock
COPY pyproject.toml README.md LICENSE ./
COPY router router
COPY deployments deployments
COPY serve_app serve_app
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
    && pip install --no-deps --no-index /dist/gatehouse_serving-*.whl
# Three generic names: nobody else may bring them (docs/adr/0007).
RUN python -c "from importlib.metadata import packages_distributions as owners; names = ('serve_app', 'deployments', 'router'); assert all(owners()[name] == ['gatehouse-serving'] for name in names), owners()"
ARG VOCABULARY=.gatehouse/vocabulary/o200k_base.tiktoken
COPY ${VOCABULARY} /opt/gatehouse/vocabulary/o200k_base.tiktoken
RUN echo "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d  /opt/gatehouse/vocabulary/o200k_base.tiktoken" \
    | sha256sum --check --strict

FROM ${PYTHON_IMAGE} AS runtime
# bash, wget, grep, openssl: KubeRay's probes and TLS set-up run them. gcc, g++: Triton and FlashInfer compile kernels.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates g++ gcc grep libc6-dev libnuma1 openssl wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 gatehouse \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash gatehouse \
    && install --directory --owner=1000 --group=1000 /var/cache/gatehouse /var/lib/gatehouse
COPY --from=build /opt/gatehouse /opt/gatehouse
COPY configs /opt/gatehouse/configs
# Where an installed package looks for `configs/`, whatever its working directory is.
RUN ln -s /opt/gatehouse/configs /opt/gatehouse/venv/lib/python3.11/site-packages/configs

ARG REVISION=unknown
LABEL org.opencontainers.image.title="gatehouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# PYTHONSAFEPATH: a stray router.py in the working directory must not shadow the package.
ENV PATH=/opt/gatehouse/venv/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CUDA_HOME=/opt/gatehouse/venv/lib/python3.11/site-packages/nvidia/cu13 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TIKTOKEN_ENCODINGS_BASE=/opt/gatehouse/vocabulary \
    GATEHOUSE_OFFLINE=1 \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    VLLM_CACHE_ROOT=/var/cache/gatehouse/vllm \
    TRITON_CACHE_DIR=/var/cache/gatehouse/triton \
    FLASHINFER_WORKSPACE_BASE=/var/cache/gatehouse \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/ \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.door:middlewares

WORKDIR /opt/gatehouse
USER 1000:1000
EXPOSE 8000
# Kubernetes probes the pod; a second opinion from the container runtime would only disagree.
HEALTHCHECK NONE
CMD ["gatehouse", "--help"]
