#!/bin/sh
# Installs everything and builds: system packages where missing (Debian, Ubuntu), npm packages, the native addon, TypeScript.
set -eu
cd "$(dirname "$0")/.."

node=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$node" -lt 20 ]; then
  echo "Expected Node.js 20.19 or newer but found $(node -v 2>/dev/null || echo none): see https://nodejs.org/en/download" >&2
  exit 1
fi

missing=''
for tool in cmake make g++; do
  command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "Expected$missing but found none: install them with the system's package manager" >&2
    exit 1
  fi
  sudo=''
  if [ "$(id -u)" -ne 0 ]; then sudo=sudo; fi
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -q
  # shellcheck disable=SC2086
  $sudo apt-get install -q -y --no-install-recommends $missing
fi

# Without npm's install scripts, which a user may have turned off: the build is called by name.
npm ci --ignore-scripts --no-audit --no-fund
node scripts/build-native.js
npm run build
