# Two images from one file:
#   docker build --target api .      the HTTP API with the tools for AI agents, without TensorFlow
#   docker build --target worker .   the training process; --build-arg REQUIREMENTS=gpu for NVIDIA GPUs
# Dependencies are installed before the wheel of the code, so a change of code rebuilds one small layer.

FROM python:3.13-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH \
    NEXTCHAR_DATA_DIR=/data
# A fixed number, so that a volume's files belong to the same user in every image and version.
RUN python -m venv --without-pip /opt/venv \
 && groupadd --gid 10001 nextchar \
 && useradd --uid 10001 --gid nextchar --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin nextchar \
 && install --directory --owner nextchar --group nextchar /data
WORKDIR /srv/nextchar
STOPSIGNAL SIGTERM
VOLUME /data

FROM base AS wheel
COPY requirements/build.txt requirements/
RUN pip --python /opt/venv/bin/python install --require-hashes --no-deps -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY clients/ clients/
COPY launcher/ launcher/
COPY models/ models/
COPY store/ store/
COPY worker/ worker/
COPY app/ app/
RUN python -m build --wheel --no-isolation --outdir /dist .

FROM base AS api
COPY requirements/api.txt requirements/
RUN pip --python /opt/venv/bin/python install --require-hashes --no-deps -r requirements/api.txt
COPY deploy/healthcheck.py deploy/
COPY --from=wheel /dist/ /dist/
RUN pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl
# The kernels of completions for each level of x86-64, so that a new container compiles nothing: a minute of one core.
RUN python -m nextchar.models.kernels.prebuild
USER nextchar
# Inside a container loopback reaches nobody; the publisher of the port decides who may call.
ENV NEXTCHAR_HOST=0.0.0.0 NEXTCHAR_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "deploy/healthcheck.py", "api"]
CMD ["python", "-m", "nextchar.app.main"]

FROM base AS worker
ARG REQUIREMENTS=worker
COPY requirements/${REQUIREMENTS}.txt requirements/
RUN pip --python /opt/venv/bin/python install --require-hashes --no-deps -r requirements/${REQUIREMENTS}.txt
COPY deploy/healthcheck.py deploy/
COPY --from=wheel /dist/ /dist/
RUN pip --python /opt/venv/bin/python install --no-deps --no-index /dist/*.whl
# As above, with the kernels of training: two minutes of two cores.
RUN python -m nextchar.models.kernels.prebuild training
USER nextchar
# Keras and Matplotlib want folders of their own to write to.
ENV KERAS_HOME=/tmp/keras MPLCONFIGDIR=/tmp/matplotlib TF_CPP_MIN_LOG_LEVEL=1
# On a processor of another kind it compiles at the first start before Redis knows it: a minute, or some on a busy machine.
HEALTHCHECK --interval=30s --timeout=15s --start-period=300s --retries=3 CMD ["python", "deploy/healthcheck.py", "worker"]
CMD ["python", "-m", "nextchar.worker.main"]
