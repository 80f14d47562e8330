# Both commands in a container: docker build -t husai . && docker run --rm -it husai make run
FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential git make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /husai
# The environment is a layer of its own: it changes only with the lock.
COPY requirements.lock pyproject.toml README.md LICENSE Makefile ./
COPY husai/__init__.py husai/__init__.py
RUN make .venv/.ready
COPY . .
ENV PATH=/husai/.venv/bin:$PATH
CMD ["make", "run"]
