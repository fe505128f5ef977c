# SPDX-License-Identifier: Apache-2.0
# Images of sparse-deploy; see docs/containers.md for building, running and checking them.
#   serve           the server with ONNX Runtime and the sparse operators
#   serve-openvino  the same, and OpenVINO with the sparse operators
#   toolchain       finetune, export and bench on a CPU
#
# The base needs Python 3.11 with venv, ca-certificates and glibc 2.28 or newer. A tag can change; pin the digest of the image that you checked:
#   docker buildx imagetools inspect python:3.11-slim-bookworm    # prints the digest
#   docker build --build-arg BASE_IMAGE=python:3.11-slim-bookworm@sha256:... --target serve .
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# ---- compiler, CMake and pip; nothing of this stage is in an image
FROM ${BASE_IMAGE} AS builder
SHELL ["/bin/sh", "-eu", "-c"]
# Debian removes old versions, so a pinned compiler would soon be unavailable.
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install -y --no-install-recommends g++; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY docker/requirements-build.txt docker/
RUN python3 -m venv /opt/build; \
    /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r docker/requirements-build.txt

# ---- the wheel with its compiled kernels
FROM builder AS wheel
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY export_configs export_configs
COPY sparse_deploy sparse_deploy
# Without a working compiler the build makes a wheel without kernels, which is an error here.
RUN PATH="/opt/build/bin:$PATH" pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index -w /wheels .; \
    python3 -c "import glob, zipfile; [zipfile.ZipFile(wheel).getinfo('sparse_deploy/kernels/libsparse_deploy_onnxruntime.so') for wheel in glob.glob('/wheels/*.whl')]"

# ---- the environments: without pip, so they hold only the packages of the lock file. Bytecode is compiled here, for a
# read-only root, and is not compared with its source at run time.
FROM builder AS serve-environment
COPY docker/requirements-serve.txt docker/
RUN python3 -m venv --without-pip /opt/venv; \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --require-hashes --only-binary :all: -r docker/requirements-serve.txt
COPY --from=wheel /wheels /wheels
RUN /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --no-index \
        /wheels/*.whl; \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

# ---- common parts of all images
FROM ${BASE_IMAGE} AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="sparse-deploy" \
      org.opencontainers.image.description="Sparse BERT-family models on CPU servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# HOME: a numeric user has no home folder, and libraries need a writable one; the root file system is read-only.
ENV PATH="/opt/venv/bin:${PATH}" \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/venv/bin/sparse-deploy"]

# ---- common parts of both servers
FROM runtime AS server
ENV SPARSE_DEPLOY_DEPLOYMENT=/model \
    SPARSE_DEPLOY_HOST=0.0.0.0 \
    SPARSE_DEPLOY_PORT=8000
EXPOSE 8000
WORKDIR /model
# An empty proxy table: the request to this server must not use http_proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['SPARSE_DEPLOY_PORT'] + '/v2/health/ready', timeout=4)"]
CMD ["serve"]

# ---- the images
FROM server AS serve
COPY --from=serve-environment /opt/venv /opt/venv

# The operators' extension is compiled against the installed OpenVINO, whose library has another name in each release.
FROM serve-environment AS serve-openvino-environment
COPY docker/requirements-serve-openvino.txt docker/
RUN /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --require-hashes --only-binary :all: -r docker/requirements-serve-openvino.txt; \
    /opt/venv/bin/python -m sparse_deploy.kernels.openvino_extension; \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM server AS serve-openvino
COPY --from=serve-openvino-environment /opt/venv /opt/venv

FROM serve-environment AS toolchain-environment
# The index of PyTorch's CPU build; the lock file has its hash, so another build is refused. It contains a file that only
# Python 3.12 can compile.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY docker/requirements-toolchain.txt docker/
RUN /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --require-hashes --only-binary :all: ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
        -r docker/requirements-toolchain.txt; \
    /opt/venv/bin/python -m sparse_deploy.kernels.openvino_extension; \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash -x 'torch/testing/_internal/py312_' /opt/venv/lib

FROM runtime AS toolchain
COPY --from=toolchain-environment /opt/venv /opt/venv
WORKDIR /work
CMD ["--help"]
