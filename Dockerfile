# The captioner that comes with this repository, in an image without Keras and TensorFlow.
#
#     docker build -t caption .
#     docker run --rm -v "$PWD/photos:/photos:ro" caption /photos
#     docker run --rm -p 127.0.0.1:8000:8000 caption serve --host 0.0.0.0 --no-browser
#
# docs/scale.md says more. The versions of the packages are those of requirements.lock.
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml setup.py requirements.txt README.md LICENSE ./
COPY config.py model.py preprocessing.py test.py app.py ./
COPY captioning captioning
COPY pretrained pretrained
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY requirements.lock /tmp/
# The wheel is only mounted, so it takes no place in the image.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    set -- /wheels/*.whl && pip install --no-cache-dir "$1[app,formats]" -c /tmp/requirements.lock
RUN useradd --create-home --uid 1000 caption
USER caption
WORKDIR /home/caption
EXPOSE 8000
ENTRYPOINT ["caption"]
CMD ["--help"]
