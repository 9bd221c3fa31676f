#!/usr/bin/env bash
# What `ebb local` costs at rest, and how long a request to a revision at zero takes beyond the pod's start-up.
# Needs bash, curl and Linux. Usage: benches/local.sh [WAKE-UPS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wakes=${1:-10}
startup_ms=1000
cargo build --quiet --release
dir=$(mktemp -d)
trap 'kill -INT "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/hello.yaml" <<'YAML'
apiVersion: v1
kind: ConfigMap
metadata: {name: config-autoscaler, namespace: knative-serving}
data: {scale-to-zero-grace-period: 1s}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello}
spec:
  template:
    metadata:
      annotations: {autoscaling.knative.dev/window: 6s}
    spec:
      containers: [{image: ebb.local/hello}]
YAML
"${CARGO_TARGET_DIR:-target}/release/ebb" local -f "$dir/hello.yaml" --state-dir "$dir" --startup-delay ${startup_ms}ms \
    --gateway 127.0.0.1:0 --api 127.0.0.1:0 --admin 127.0.0.1:0 --stats 127.0.0.1:0 >"$dir/out" 2>&1 &
pid=$!
until [ -s "$dir/endpoints.json" ]; do
    kill -0 "$pid"
    sleep 0.1
done
address() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" "$dir/endpoints.json"; }
gateway=$(address gateway) api=$(address api)
pods() { curl -s "$api/api/v1/namespaces/default/pods" | grep -c '"podIP":' || true; }

delays=()
for _ in $(seq "$wakes"); do
    until [ "$(pods)" = 0 ]; do sleep 0.2; done
    seconds=$(curl -s -o /dev/null -w '%{time_total}' -f -H 'Host: hello.default.example.com' "$gateway/")
    delays+=("$(awk -v s="$seconds" -v start=$startup_ms 'BEGIN { printf "%.1f", s * 1000 - start }')")
done
printf '%s\n' "${delays[@]}" | sort -n | awk -v start=$startup_ms '
    { delay[NR] = $1 }
    END { printf "request to a revision at zero: %d ms start-up + %.1f ms (median of %d), %.1f ms at most\n",
          start, delay[int((NR + 1) / 2)], NR, delay[NR] }'
until [ "$(pods)" = 0 ]; do sleep 0.2; done
ticks() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; }
before=$(ticks)
sleep 20
after=$(ticks)
awk -v used=$((after - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "idle: %.2f %% of a core over 20 s\n", used / hz / 20 * 100 }'
awk '/VmRSS/ { printf "idle: %.1f MiB resident\n", $2 / 1024 }' "/proc/$pid/status"
