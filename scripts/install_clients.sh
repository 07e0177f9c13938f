#!/usr/bin/env bash
# Puts the JavaScript clients that the tests run into .tools/clients, from npm. If npm is missing, check_test_tools.sh
# reports it.
set -eu
cd "$(dirname "$0")/.."
cmp -s tests/clients/package-lock.json .tools/clients/installed.json && exit 0
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools/clients
cp tests/clients/package.json tests/clients/package-lock.json .tools/clients/
# The peer dependencies of LangChain's package are not installed: they are clients of other services, and their versions
# contradict each other.
npm ci --prefix .tools/clients --legacy-peer-deps --no-audit --no-fund --loglevel=error
cp tests/clients/package-lock.json .tools/clients/installed.json
