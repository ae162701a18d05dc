#!/bin/sh
# Installs the real clients that the tests drive against the simulated provider: `claude`, `codex`, `gemini` and
# `opencode` from npm, axe-core that judges pages, and the anthropic and openai SDKs from PyPI. With them the libraries that
# programs speak HTTP, WebSockets and gRPC with: httpx, requests, aiohttp, websockets, grpcio; undici and ws.
#
#   xtask/clients.sh [DIR]        DIR defaults to /opt/carboy-clients
#
# Afterwards: DIR/bin/claude (and codex, gemini, opencode), DIR/venv/bin/python, and DIR/versions (one `name version` a line).
# Idempotent: what is there in the pinned version is left alone. Debian packages are installed only where a command
# is missing, and only as root; otherwise the line to run is printed and the script stops.
set -eu

CLAUDE=2.1.197
CODEX=0.169.0
GEMINI=0.61.0
OPENCODE=1.18.33
AXE=4.14.1
UNDICI=6.29.1
WS=8.23.0
ANTHROPIC=2.11.0
OPENAI=2.54.0
HTTPX=0.28.1
H2=4.4.1
REQUESTS=2.34.2
AIOHTTP=3.14.5
WEBSOCKETS=17.4
GRPCIO=1.85.3

dir=${1:-/opt/carboy-clients}
say() { printf '%s\n' "clients: $*" >&2; }

# The distribution's Python: a venv made from a version manager's Python would break when that goes away, and
# could not be shown to a bottle by binding /usr alone.
python=/usr/bin/python3

. "$(dirname "$0")/packages.sh"
need_packages curl git node npm

mkdir -p "$dir/bin"
wanted="claude $CLAUDE
codex $CODEX
gemini $GEMINI
opencode $OPENCODE
axe $AXE
undici $UNDICI
ws $WS
anthropic $ANTHROPIC
openai $OPENAI
httpx $HTTPX
h2 $H2
requests $REQUESTS
aiohttp $AIOHTTP
websockets $WEBSOCKETS
grpcio $GRPCIO"
if [ -f "$dir/versions" ] && [ "$(cat "$dir/versions")" = "$wanted" ] \
    && [ -x "$dir/bin/claude" ] && [ -x "$dir/bin/codex" ] && [ -x "$dir/bin/gemini" ] \
    && [ -x "$dir/bin/opencode" ] && [ -f "$dir/node_modules/axe-core/axe.min.js" ] && [ -x "$dir/venv/bin/python" ]; then
    say "up to date in $dir"
    exit 0
fi
# Written last, so that a broken installation is never taken for a whole one.
rm -f "$dir/versions"

say "claude $CLAUDE, codex $CODEX, gemini $GEMINI and opencode $OPENCODE into $dir"
npm install --prefix "$dir" --no-fund --no-audit --loglevel=error "@anthropic-ai/claude-code@$CLAUDE" \
    "@openai/codex@$CODEX" "@google/gemini-cli@$GEMINI" "opencode-ai@$OPENCODE" \
    "axe-core@$AXE" "undici@$UNDICI" "ws@$WS" >&2
for client in claude codex gemini opencode; do
    ln -sf "../node_modules/.bin/$client" "$dir/bin/$client"
    # In a home of its own: some leave files in the one that they are started in.
    HOME="$dir" "$dir/bin/$client" --version >/dev/null
done

say "Python packages into $dir/venv"
[ -x "$dir/venv/bin/python" ] || "$python" -m venv "$dir/venv"
"$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "anthropic==$ANTHROPIC" "openai==$OPENAI" "httpx==$HTTPX" "h2==$H2" "requests==$REQUESTS" \
    "aiohttp==$AIOHTTP" "websockets==$WEBSOCKETS" "grpcio==$GRPCIO" >&2
"$dir/venv/bin/python" -c 'import anthropic, openai, httpx, requests, aiohttp, websockets, grpc'

# Ordinary users read it too: the tests run as root and as one of those.
chmod -R a+rX "$dir"
printf '%s\n' "$wanted" >"$dir/versions"
say "installed in $dir"
