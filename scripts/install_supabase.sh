#!/usr/bin/env bash
# Puts the Supabase CLI into .tools/supabase for the tests, from npm. If npm is missing, check_test_tools.sh reports it.
set -eu
cd "$(dirname "$0")/.."
[ -x .tools/supabase/node_modules/.bin/supabase ] && exit 0
command -v npm >/dev/null || { exit 0; }
mkdir -p .tools/supabase
cp tests/supabase_cli/package.json tests/supabase_cli/package-lock.json .tools/supabase/
npm ci --prefix .tools/supabase --no-audit --no-fund --silent
