# `up` as a container, and a code location as a pod: see docs/deployment.md.
# A base has Python 3.11 or newer (what the checkout's dcpy needs: NYC's 3.12), venv and bash, and
# whatever the build commands call.
ARG BASE=docker.io/library/python:3.13-slim
FROM ${BASE}

RUN useradd --uid 10001 --gid 0 --home-dir /tmp --no-create-home orchestration \
    && install --directory --owner orchestration --mode 770 /data
WORKDIR /opt/orchestration

COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-compile --requirement requirements.txt
ENV PATH=/opt/venv/bin:$PATH

# The folder of the checkout, in what is sent to be built. A mount over it takes its place.
ARG CHECKOUT=sample/data-engineering
COPY ${CHECKOUT} /checkout
COPY orchestration orchestration
COPY templates templates
ENV DATA_ENGINEERING_ROOT=/checkout

# An interpreter of the base that has the checkout's dcpy; else that is installed.
ARG DCPY_PYTHON=
RUN if [ -z "${DCPY_PYTHON}" ]; then \
        PIP_NO_CACHE_DIR=1 python -m orchestration.installation \
        && mkdir --parents .checkouts \
        && chmod --recursive a+rX .checkouts \
        && ln --symbolic "$PWD"/.checkouts/*/.dcpy/venv /opt/dcpy; \
    fi \
    && python -m orchestration generate \
    && python -m compileall -q /opt/venv /opt/orchestration
ENV DCPY_PYTHON=${DCPY_PYTHON:-/opt/dcpy/bin/python} \
    DCPY_LIFECYCLE_DATA_DIR=/data/lifecycle \
    DAGSTER_HOME=/data/dagster \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp

# `up` writes the locations anew when products.yml changes: a copy in the temporary folder takes it
# where the root file system is read-only. A start that was ended before it had one has left a part,
# under the number that the next one has, too.
RUN printf '%s\n' '#!/bin/sh' 'set -e' \
        'copy=/tmp/orchestration' \
        'if [ ! -d "$copy" ]; then' \
        '    rm -rf "$copy.$$"' \
        '    mkdir "$copy.$$"' \
        '    cp -R /opt/orchestration/[!.]* "$copy.$$"' \
        '    mv "$copy.$$" "$copy"' \
        'fi' \
        'cd "$copy"' \
        'exec python -m orchestration "$@"' > /usr/local/bin/orchestration \
    && chmod 755 /usr/local/bin/orchestration
USER 10001
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s --interval=15s --timeout=10s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/server_info')"]
# No entry point: Dagster's chart starts `dagster` in it.
CMD ["orchestration", "up", "--host", "0.0.0.0"]
