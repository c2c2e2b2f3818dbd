# Not built by the project's own checks. For a CPU:
#   docker build -t trm .
# For CUDA, with NVIDIA's container toolkit on the host:
#   docker build -t trm --build-arg TORCH_BACKEND=cu130 . && docker run --gpus all trm …
# Runs go to /trm/outputs:
#   docker run --rm -v "$PWD/outputs:/trm/outputs" trm trm-train model=ar debug=fast
FROM python:3.13-slim

# Which torch: cpu, or CUDA's version such as cu130. torch's wheels bring CUDA's libraries along.
ARG TORCH_BACKEND=cpu

RUN pip install --no-cache-dir uv
WORKDIR /package
COPY requirements.lock ./
RUN uv pip install --system --no-cache --torch-backend=${TORCH_BACKEND} "$(grep '^torch==' requirements.lock)" \
    && uv pip install --system --no-cache -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY trm_lightning trm_lightning
RUN uv pip install --system --no-cache --no-deps --no-build-isolation .

RUN useradd --create-home trm && mkdir -p /trm/outputs && chown -R trm /trm
USER trm
WORKDIR /trm
CMD ["trm-train", "--help"]
