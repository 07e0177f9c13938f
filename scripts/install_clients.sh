#!/usr/bin/env bash
# Puts the JavaScript clients that the tests run into .tools/clients, from npm. check_test_tools.sh has said so where npm is missing.
set -eu
cd "$(dirname "$0")/.."
cmp -s tests/clients/package-lock.json .tools/clients/installed.json && exit 0
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools/clients
cp tests/clients/package.json tests/clients/package-lock.json .tools/clients/
# The peers of LangChain's package are clients of other services, whose versions contradict each other.
npm ci --prefix .tools/clients --legacy-peer-deps --no-audit --no-fund --loglevel=error
cp tests/clients/package-lock.json .tools/clients/installed.json
