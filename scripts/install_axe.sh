#!/usr/bin/env bash
# Puts axe-core into .tools/browser for the tests, from npm. Without npm the tests that need it are skipped and say so.
set -eu
cd "$(dirname "$0")/.."
[ -d .tools/browser/node_modules/axe-core ] && exit 0
command -v npm >/dev/null || { echo "npm is not installed: the accessibility tests will be skipped" >&2; exit 0; }
mkdir -p .tools/browser
cp tests/browser/package.json tests/browser/package-lock.json .tools/browser/
npm ci --prefix .tools/browser --no-audit --no-fund --silent
