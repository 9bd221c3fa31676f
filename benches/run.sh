#!/usr/bin/env bash
# What `ebb run` costs at rest: resident memory and CPU, in a cluster without revisions and in one with many services at
# zero. The cluster is an `ebb local`. Needs bash, curl and Linux. Usage: benches/run.sh [SERVICES]
#
# EBB names the binary to measure; without it a release build is made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
services=${1:-1000}
settle=20
watched=30
if [ -z "${EBB:-}" ]; then
    cargo build --quiet --release
    EBB=${CARGO_TARGET_DIR:-target}/release/ebb
fi
dir=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done; rm -rf "$dir"' EXIT
cat >"$dir/settings.yaml" <<'YAML'
apiVersion: v1
kind: ConfigMap
metadata: {name: config-autoscaler, namespace: knative-serving}
data: {allow-zero-initial-scale: "true", initial-scale: "0"}
YAML
"$EBB" local -f "$dir/settings.yaml" --state-dir "$dir" --gateway 127.0.0.1:0 --api 127.0.0.1:0 --admin 127.0.0.1:0 \
    --stats 127.0.0.1:0 >"$dir/local" 2>&1 &
pids+=($!)
until [ -s "$dir/endpoints.json" ]; do
    kill -0 "${pids[0]}"
    sleep 0.1
done
api=$(sed -n 's/.*"api": "\(.*\)".*/\1/p' "$dir/endpoints.json")

POD_NAME=autoscaler-0 POD_IP=127.0.0.1 SYSTEM_NAMESPACE=knative-serving "$EBB" run --kubeconfig "$dir/kubeconfig" \
    --stats 127.0.0.1:0 --admin 127.0.0.1:0 >"$dir/run" 2>&1 &
run=$!
pids+=("$run")
until grep -q '"message":"ready"' "$dir/run"; do
    kill -0 "$run"
    sleep 0.1
done
admin=$(sed -n 's/.*"message":"ready".*"admin":"\([^"]*\)".*/\1/p' "$dir/run")

ticks() { awk '{ print $14 + $15 }' "/proc/$run/stat"; }
measure() {
    sleep $settle
    local before after
    before=$(ticks)
    sleep $watched
    after=$(ticks)
    awk -v used=$((after - before)) -v hz="$(getconf CLK_TCK)" -v over=$watched -v what="$1" '
        /VmRSS/ { printf "%s: %.1f MiB resident, %.2f %% of a core over %d s\n", what, $2 / 1024, used / hz / over * 100, over }
    ' "/proc/$run/status"
}

measure "no revisions"
for n in $(seq "$services"); do
    printf 'url = "%s/apis/serving.knative.dev/v1/namespaces/default/services"\n' "$api"
    printf 'request = "POST"\nheader = "Content-Type: application/json"\noutput = "/dev/null"\n'
    printf 'data = "{\\"apiVersion\\": \\"serving.knative.dev/v1\\", \\"kind\\": \\"Service\\", \\"metadata\\": {\\"name\\": \\"idle-%d\\"}, ' "$n"
    printf '\\"spec\\": {\\"template\\": {\\"spec\\": {\\"containers\\": [{\\"image\\": \\"ebb.local/hello\\"}]}}}}"\n'
    [ "$n" = "$services" ] || echo next
done >"$dir/posts"
curl -sS --fail --config "$dir/posts"
known() { curl -s "http://$admin/revisions" | grep -o '"revision":' | wc -l; }
until [ "$(known)" = "$services" ]; do
    kill -0 "$run"
    sleep 1
done
measure "$services services at zero"
