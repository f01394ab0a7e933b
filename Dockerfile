# recsim-env on a CPU, with everything that `make` sets up.
#
#   docker build -t recsim-env .
#   docker run --rm recsim-env             train an agent for three minutes, and show what it learned
#   docker run --rm recsim-env make test   all tests
#
# Versions are those of constraints.txt; tests/test_container.py compares the ones named here with it.
FROM python:3.13-slim

# TORCH is PyTorch's build without CUDA: the default one brings gigabytes of it.
ENV TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

# make is what the README types; benchmarks ask git for their commit; some dependencies have no wheel
# for every processor, and are compiled
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home shop
WORKDIR /home/shop/recsim-env
COPY --chown=shop:shop . .
RUN chown shop:shop .
USER shop
RUN make setup

CMD ["make", "demo"]
