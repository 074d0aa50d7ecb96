# papyra-otel's demo, recorded: for compose.yaml beside this file. Built from the root of the repository.
FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir '/src[demo]' && rm -rf /src
COPY collector-config/stack/shop.py /app/shop.py
USER 10001
WORKDIR /app
CMD ["opentelemetry-instrument", "python", "shop.py"]
