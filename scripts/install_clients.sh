#!/usr/bin/env bash
# Puts OpenAI's JavaScript client into .tools/clients for the tests, from npm. check_test_tools.sh has said so where npm is missing.
set -eu
cd "$(dirname "$0")/.."
[ -d .tools/clients/node_modules/openai ] && exit 0
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools/clients
cp tests/clients/package.json tests/clients/package-lock.json .tools/clients/
npm ci --prefix .tools/clients --no-audit --no-fund --silent
