#!/usr/bin/env bash
# Prints which programs the tests need and this machine lacks, and how to install them. TONNETZ_SKIP_TOOLS=1 skips the tests
# that need them.
set -eu
missing=()
# Each program with the Debian package that contains it; for Chromium, one of two programs is enough. npm installs PostgREST, axe-core and the Supabase CLI.
while read -r program package; do
  if [ "$program" = chromium-headless-shell ] && command -v chromium >/dev/null; then continue; fi
  # Debian installs daemons into /usr/sbin.
  PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing+=("$package")
done <<'PROGRAMS'
redis-server redis-server
pgbouncer pgbouncer
chromium-headless-shell chromium-headless-shell
npm npm
curl curl
PROGRAMS
no_postgrest=
[ "$(uname -sm)" = "Linux x86_64" ] || no_postgrest="npm has no PostgREST for $(uname -sm)"
if [ "${#missing[@]}" = 0 ] && [ -z "$no_postgrest" ]; then exit 0; fi
if [ "${TONNETZ_SKIP_TOOLS:-}" = 1 ]; then
  echo "TONNETZ_SKIP_TOOLS=1: skipping the tests that need ${missing[*]:-}${no_postgrest:+ PostgREST ($no_postgrest)}" >&2
  exit 0
fi
if [ "${#missing[@]}" != 0 ]; then
  echo "the tests need: ${missing[*]}" >&2
  echo "  apt-get install -y --no-install-recommends ${missing[*]}" >&2
fi
if [ -n "$no_postgrest" ]; then echo "the tests need PostgREST: $no_postgrest" >&2; fi
echo "or skip the tests that need them: TONNETZ_SKIP_TOOLS=1 make test" >&2
exit 1
