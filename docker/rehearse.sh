#!/usr/bin/env bash
# Does without Docker what the image does: builds a wheel from the files that .dockerignore lets through, installs it
# into an empty prefix, starts it as a user without rights on a read-only tree, asks for its health, and stops it with
# SIGTERM while a stream runs. Wants the network for the dependencies; as root it also mounts and drops privileges.
#
#   docker/rehearse.sh              PYTHON=/path/to/python3 docker/rehearse.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# A Python below somebody's home would be out of reach for the user it is to run as.
python=${PYTHON:-/usr/bin/python3}
[ -x "$python" ] || python=$(command -v python3)
tree=$(mktemp -d)
log=$(mktemp)
gateway=
finish() {
    if [ -n "$gateway" ]; then kill -KILL "$gateway" 2>/dev/null || true; fi
    chmod -R u+w "$tree"
    rm -rf "$tree" "$log"
}
trap finish EXIT
fail() {
    echo "FAILED: $1" >&2
    cat "$log" >&2
    exit 1
}

echo "== build a wheel, with $("$python" --version)"
mkdir "$tree/src"
sed -n 's/^!//p' .dockerignore | tar --create --exclude=__pycache__ --files-from=- | tar --extract --directory "$tree/src"
export PIP_CONSTRAINT=$tree/src/docker/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m venv "$tree/build"
(cd "$tree/src" && "$tree/build/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$tree/wheels" .)

echo "== install into an empty prefix"
"$python" -m venv --without-pip "$tree/root"
"$tree/build/bin/python" -m pip install --quiet --only-binary :all: --prefix "$tree/root" "$(echo "$tree"/wheels/*.whl)[all]"
"$tree/build/bin/python" -m pip --python "$tree/root/bin/python" check
mkdir "$tree/etc"
rm -rf "$tree/build" "$tree/wheels"
chmod -R go=u-w "$tree"

port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
run=(env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PORT="$port" LOG_LEVEL=info
    GOMODEL_DRAIN_TIMEOUT=20s
    "$tree/root/bin/python" -m gomodel demo)
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
    echo "== start as user 65532, without capabilities, on a read-only tree"
    # shellcheck disable=SC2016  # expanded by that shell, not by this one
    unshare --mount --propagation private sh -euc '
        tree=$1
        shift
        mount --bind "$tree" "$tree"
        mount -o remount,bind,ro "$tree"
        cd "$tree/etc"
        exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
    ' sh "$tree" "${run[@]}" >"$log" 2>&1 &
    gateway=$!
else
    echo "== start as $(id -un) on a tree without write permission (root could mount it read-only and drop privileges)"
    chmod -R a-w "$tree/root" "$tree/etc"
    (cd "$tree/etc" && exec "${run[@]}") >"$log" 2>&1 &
    gateway=$!
fi

healthy() { PORT=$port "$python" -I docker/healthcheck.py 2>/dev/null; }
for _ in $(seq 100); do
    if healthy; then break; fi
    kill -0 "$gateway" 2>/dev/null || fail "it did not start"
    sleep 0.1
done
healthy || fail "it never became healthy"
echo "== healthy; $(grep -E '^(Uid|CapEff|NoNewPrivs)' "/proc/$gateway/status" | tr '\t\n' '  ')"

"$python" -c 'import sys, urllib.request; assert b"<title>" in urllib.request.urlopen(sys.argv[1]).read()' "$url/" ||
    fail "the status page is missing"

ask='
import json, sys, urllib.request
body = {"model": "vllm/demo/llama-sim", "stream": True, "max_tokens": 50, "min_tokens": 50,
        "messages": [{"role": "user", "content": "Hello"}]}
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode(),
                                 {"Authorization": "Bearer demo", "Content-Type": "application/json"})
for line in urllib.request.urlopen(request, timeout=20):
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
'
"$python" -c "$ask" "$url" >"$tree/stream" &
client=$!
for _ in $(seq 100); do
    if [ -s "$tree/stream" ]; then break; fi
    sleep 0.1
done
[ -s "$tree/stream" ] || fail "no stream began"
echo "== SIGTERM while a stream runs"
kill -TERM "$gateway"
status=0
wait "$gateway" || status=$?
gateway=
wait "$client" || fail "the stream was cut"
grep -q '^data: \[DONE\]' "$tree/stream" || fail "the stream did not end with [DONE]"
[ "$status" = 0 ] || fail "exit status $status"
echo "== the stream ended by itself, then the gateway: exit status 0"
