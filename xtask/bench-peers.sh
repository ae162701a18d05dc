#!/bin/sh
# Installs what `cargo xtask bench` measures carboy against: bubblewrap, Anthropic's sandbox-runtime, mitmproxy, the
# two gateways to models, LiteLLM's proxy and Portkey's, and FastAPI with uvicorn.
#
#   xtask/bench-peers.sh [DIR]        DIR defaults to /opt/carboy-bench
#
# Afterwards: DIR/bin/srt and DIR/bin/node, DIR/mitmproxy/bin/mitmdump, DIR/litellm/bin/litellm,
# DIR/node_modules/@portkey-ai/gateway, DIR/fastapi/bin/python, and DIR/versions (one `name version` a line).
# Idempotent: what is there is left alone. Debian packages are installed only where a command is missing, and only as
# root; otherwise the line to run is printed and the script stops.
set -eu

SANDBOX_RUNTIME=0.0.83
NODE=22.23.3
# What is installed where Python is 3.12 or newer; with an older one pip takes the newest that still supports it.
MITMPROXY=12.2.3
LITELLM=1.105.0
PORTKEY=1.15.2
FASTAPI=0.165.0
UVICORN=0.54.0
HTTPX=0.28.1

dir=${1:-/opt/carboy-bench}
say() { printf '%s\n' "peers: $*" >&2; }

# The newest Python of this machine, a version manager's included.
python=
for candidate in python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python \
    "$HOME"/.pyenv/versions/3.13*/bin/python python3; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
mitmproxy="mitmproxy==$MITMPROXY"
if [ -z "$python" ]; then
    python=python3
    mitmproxy=mitmproxy
    say "no Python 3.12 here: the newest mitmproxy that this one can run is taken instead of $MITMPROXY"
fi

. "$(dirname "$0")/packages.sh"
need_packages bwrap socat rg npm

wanted="sandbox-runtime $SANDBOX_RUNTIME
node $NODE
litellm $LITELLM
portkey-gateway $PORTKEY
fastapi $FASTAPI
uvicorn $UVICORN
httpx $HTTPX"
if [ -x "$dir/bin/srt" ] && [ -x "$dir/mitmproxy/bin/mitmdump" ] && [ -x "$dir/litellm/bin/litellm" ] \
    && [ -d "$dir/node_modules/@portkey-ai/gateway" ] && [ -x "$dir/fastapi/bin/uvicorn" ] && [ -f "$dir/versions" ] \
    && [ "$(grep -v '^mitmproxy ' "$dir/versions")" = "$wanted" ]; then
    say "up to date in $dir"
    exit 0
fi
# Written last, so that a broken installation is never taken for a whole one.
mkdir -p "$dir/bin"
rm -f "$dir/versions"

say "sandbox-runtime $SANDBOX_RUNTIME and portkey-gateway $PORTKEY on node $NODE into $dir"
npm install --prefix "$dir" --no-fund --no-audit --loglevel=error \
    "node@$NODE" "@anthropic-ai/sandbox-runtime@$SANDBOX_RUNTIME" "@portkey-ai/gateway@$PORTKEY" >&2
ln -sf ../node_modules/.bin/node "$dir/bin/node"
ln -sf ../node_modules/.bin/srt "$dir/bin/srt"
PATH="$dir/bin:$PATH" "$dir/bin/srt" --version >/dev/null

say "$mitmproxy into $dir/mitmproxy"
[ -x "$dir/mitmproxy/bin/python" ] || "$python" -m venv "$dir/mitmproxy"
"$dir/mitmproxy/bin/python" -m pip install --quiet --disable-pip-version-check "$mitmproxy" >&2
got=$("$dir/mitmproxy/bin/mitmdump" --version | sed -n 's/^Mitmproxy: //p')

say "litellm[proxy] $LITELLM into $dir/litellm"
[ -x "$dir/litellm/bin/python" ] || "$python" -m venv "$dir/litellm"
"$dir/litellm/bin/python" -m pip install --quiet --disable-pip-version-check "litellm[proxy]==$LITELLM" >&2

say "fastapi $FASTAPI, uvicorn[standard] $UVICORN and httpx $HTTPX into $dir/fastapi"
[ -x "$dir/fastapi/bin/python" ] || "$python" -m venv "$dir/fastapi"
"$dir/fastapi/bin/python" -m pip install --quiet --disable-pip-version-check "fastapi==$FASTAPI" \
    "uvicorn[standard]==$UVICORN" "httpx==$HTTPX" >&2

chmod -R a+rX "$dir"
printf '%s\nmitmproxy %s\n' "$wanted" "$got" >"$dir/versions"
say "installed in $dir"
