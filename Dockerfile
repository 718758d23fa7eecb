# Postroom as an image: `postroom serve` unless another command is given (worker, migrate, keys, doctor, ...).
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE NOTICE schema.sql ./
COPY gateway gateway
COPY workers workers
RUN python -m venv /opt/postroom
RUN /opt/postroom/bin/pip install --no-cache-dir --constraint requirements.lock .

FROM python:3.13-slim
COPY --from=build /opt/postroom /opt/postroom
ENV PATH=/opt/postroom/bin:$PATH PYTHONUNBUFFERED=1 PORT=8000
USER 10001
EXPOSE 8000 2525 1587
STOPSIGNAL SIGTERM
ENTRYPOINT ["postroom"]
CMD ["serve"]
