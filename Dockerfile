# The commands on a CPU, as a user who is not root. docs/containers.md says how to build and to run it.
FROM python:3.11-slim-bookworm AS packages
COPY requirements.txt /tmp/
RUN python -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install --no-cache-dir --requirement /tmp/requirements.txt

FROM python:3.11-slim-bookworm
# The CPU kernels are compiled at the first start, for the processor at hand.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# Of mode 1777, so that docker run --user works with any number.
RUN useradd --create-home --uid 1000 mobilenetv2 && install --directory --mode 1777 /data /output /cache
COPY --from=packages /opt/venv /opt/venv
COPY . /opt/mobilenetv2
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 MOBILENETV2_CACHE=/cache PLATFORM=CPU
USER 1000
WORKDIR /output
ENTRYPOINT ["/bin/bash", "/opt/mobilenetv2/scripts/container.sh"]
