# CPU:   docker build --tag swarmctl .
# CUDA:  docker build --tag swarmctl:cuda --build-arg TORCH=default .      (needs the NVIDIA Container Toolkit to run)
# Run:   docker run --rm --interactive --tty --volume swarmctl:/data swarmctl run --profile demo

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# cpu: the CPU build of torch. default: the index's first choice, which on Linux brings its own CUDA libraries.
ARG TORCH=cpu
# Further options for uv pip install, such as an index.
ARG PIP_FLAGS=""
WORKDIR /source
# reasoning-gym needs pycosat, which must be compiled: it is published as source only.
# Versions are not pinned, because Debian removes old ones.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# uv, because it knows where PyTorch publishes its CPU builds.
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv>=0.9,<1"
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY requirements requirements
COPY tools/install.py tools/
COPY swarmctl swarmctl
COPY hivemind_exp hivemind_exp
RUN PATH="/opt/uv/bin:$PATH" UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 \
    PIP_FLAGS="${PIP_FLAGS}" python3 tools/install.py /opt/swarmctl --torch "${TORCH}" --no-editable

FROM ${PYTHON_IMAGE}
RUN useradd --create-home --uid 1000 swarmctl && mkdir /data && chown swarmctl:swarmctl /data
COPY --from=build /opt/swarmctl /opt/swarmctl
# Nodes, profiles and the model cache are kept in the volume.
ENV PATH="/opt/swarmctl/bin:$PATH" \
    SWARMCTL_HOME=/data \
    HF_HOME=/data/huggingface
VOLUME /data
USER 1000
WORKDIR /data
ENTRYPOINT ["swarmctl"]
CMD ["--help"]
