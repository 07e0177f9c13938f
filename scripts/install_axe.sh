#!/usr/bin/env bash
# Puts axe-core into .tools/browser for the tests, from npm. If npm is missing, check_test_tools.sh reports it.
set -eu
cd "$(dirname "$0")/.."
[ -d .tools/browser/node_modules/axe-core ] && exit 0
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools/browser
cp tests/browser/package.json tests/browser/package-lock.json .tools/browser/
npm ci --prefix .tools/browser --no-audit --no-fund --silent
