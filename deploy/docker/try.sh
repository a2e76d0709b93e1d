#!/usr/bin/env bash
# Builds the image and runs it, without a Docker engine: learns, ends, goes on, survives kill -9.
# Needs root, a network, and: apt-get install buildah debootstrap podman runc conmon
# (some minutes, about 10 GB). Everything lies in one folder, which goes at the end.
#   deploy/docker/try.sh [FOLDER]           KEEP=1 keeps the folder, for a second try
# Of pip's settings, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS (folders are mounted),
# PIP_CERT and TORCH_INDEX_URL reach the build.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD
work=$(realpath -m "${1:-${TMPDIR:-/tmp}/stream-rnn-image}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
for tool in buildah debootstrap podman runc conmon; do
    command -v "$tool" >/dev/null || { echo "try.sh: $tool is not installed"; exit 69; }
done
# it is deleted at the end: it must be ours
if [ -e "$work" ] && [ ! -e "$work/made-by-try.sh" ]; then
    echo "try.sh: $work exists and is not this script's; name another folder"; exit 73
fi
mkdir -p "$work" && cd "$work" && touch made-by-try.sh
export BUILDAH_ISOLATION=chroot TMPDIR="$work"
store=(--root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-overlay}")
image=localhost/stream-rnn:try
name=stream-rnn-try-$$

# ulimits: a sandbox may not raise its own. No health check by podman: it needs systemd's timers.
limits=(--network none --no-healthcheck --ulimit nofile=1024:4096 --ulimit nproc=1000:1000)

podman_() {
    podman "${store[@]}" --cgroup-manager=cgroupfs --runtime runc "$@"
}

clean() {
    status=$?
    podman_ rm -f -t 0 "$name" >/dev/null 2>&1 || true
    if [ "${KEEP:-}" != 1 ]; then
        cd / && rm -rf "$work"
    fi
    exit "$status"
}
trap clean EXIT

step() { echo; echo "=== $*"; }

build() {
    if [ ! -e rootfs/usr/bin/python3 ]; then
        step "a base in place of python:3.11-slim: Debian bookworm, its Python is 3.11"
        debootstrap --variant=minbase \
            --include=python3,python3-venv,ca-certificates bookworm rootfs "$mirror" > debootstrap.log
    fi
    if ! buildah "${store[@]}" inspect localhost/base >/dev/null 2>&1; then
        c=$(buildah "${store[@]}" from scratch)
        buildah "${store[@]}" add -q "$c" rootfs /
        buildah "${store[@]}" commit -q --rm "$c" localhost/base >/dev/null
    fi
    arguments=(--build-arg BASE=localhost/base)
    for setting in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT TORCH_INDEX_URL; do
        [ -z "${!setting:-}" ] || arguments+=(--build-arg "$setting=${!setting}")
    done
    [ ! -d "${PIP_FIND_LINKS:-}" ] || arguments+=(-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro")
    [ -z "${PIP_CERT:-}" ] || arguments+=(-v "$(dirname "$PIP_CERT"):$(dirname "$PIP_CERT"):ro")
    step "the image"
    # docker format: the other one has no HEALTHCHECK
    time buildah "${store[@]}" bud -q --format docker "${arguments[@]}" \
        -f "$repository/deploy/docker/Dockerfile" -t "$image" "$repository"
}

start() {  # the state is a volume; nothing else can be written, nobody can be reached
    podman_ run -d --name "$name" "${limits[@]}" --read-only --read-only-tmpfs=false \
        --cap-drop ALL --security-opt no-new-privileges --memory 1g --pids-limit 256 \
        -v "$work/config.toml:/etc/stream-rnn/config.toml:ro" \
        -v "$work/state:/var/lib/stream-rnn" "$image" "$@" >/dev/null
}

said() { podman_ logs "$name" 2>&1; }

until_saved() {  # waits for one more snapshot, at most a minute
    before=$(newest)
    for _ in $(seq 120); do
        [ "$(newest)" = "$before" ] || return 0
        sleep 0.5
    done
    said | tail -20
    echo "no snapshot within a minute" && return 1
}

newest() { find "$work/state/state" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -1; }

require() {  # a pattern in the log
    said | grep -E "$1" || { said | tail -20; echo "expected in the log: $1"; return 1; }
}

build
rm -rf state && install -d -o 10001 -g 10001 -m 0700 state
cat > config.toml <<'TOML'
source = { kind = "synthetic", signal = "sines", rate_hz = 200 }
task = { kind = "forecast", target = "value", horizon = 5 }
learner = { cell = { kind = "lstm", units = 16 }, credit = { kind = "ok" } }
state = { dir = "state", every_s = 1 }
metrics = { address = "127.0.0.1:9464" }
TOML
chmod 0644 config.toml

step "what is in it"
podman_ run --rm "${limits[@]}" --entrypoint sh "$image" -c \
    'id; command -v g++ gcc cc || echo "no compiler"; python -m stream_rnn.native; stream-rnn --version'

step "it learns, as nobody in particular, on a read-only file system"
start
until_saved && until_saved
require 'native kernels'
podman_ exec "$name" stream-rnn health 127.0.0.1:9464
podman_ exec "$name" stream-rnn health --ready 127.0.0.1:9464
podman_ exec "$name" sh -c 'touch /opt/here 2>&1 && exit 1; id -u'

step "SIGTERM: a snapshot, exit code 0"
began=$(date +%s%N)
podman_ stop -t 60 "$name" >/dev/null
echo "ended in $(( ($(date +%s%N) - began) / 1000000 )) ms"
[ "$(( $(date +%s%N) - began ))" -lt 10000000000 ]
[ "$(podman_ inspect -f '{{.State.ExitCode}}' "$name")" = 0 ]
last=$(basename "$(newest)")
podman_ rm "$name" >/dev/null

step "a new container on the same volume goes on"
start
until_saved
require "resumes at step .* from $last\$"

step "kill -9, and another one"
podman_ kill -s KILL "$name" >/dev/null
podman_ wait "$name" >/dev/null
last=$(basename "$(newest)")
podman_ rm "$name" >/dev/null
start
until_saved
require "resumes at step .* from $last\$"

step "a refused configuration ends with 78"
podman_ rm -f -t 20 "$name" >/dev/null
echo 'surce = 1' > config.toml
start
[ "$(podman_ wait "$name")" = 78 ]
said
podman_ rm "$name" >/dev/null
step "all as it should be"
