#!/usr/bin/env bash
# Measures what shoal adds to the time that K3s takes to be up, and how long the API of a cluster is
# away when the host that answers for it vanishes, and prints the tables of docs/benchmarks.md.
#
#   benches/k3s.sh [report]    report: only prints the figures that are there
#
#   K3S=                  the program; else the one that stands in for it in shoal's tests
#   K3S_KINDS='…'         which, of: provision outage
#   K3S_RUNS=20           fresh hosts of each kind, for provision
#   K3S_VANISHED=30       holders of the API's virtual IP that vanish, while another one leads the mesh
#   K3S_LEADERS=30        and that lead it
#   K3S_PROFILE=          the profile of that virtual IP: lan, safe or wan; else the default
#   K3S_WATCHES='probe kubectl'   who watches the API meanwhile
#   K3S_PROBE_MS=10       between two probes
#   K3S_TIMEOUT_MS=250    after which a probe or a kubectl has failed
#   K3S_KEEP=             1: adds to the figures of an earlier run
#   K3S_LOGS=             a directory where the hosts' logs are kept
#   RAFT_TIMERS=safe      the profile of the daemons
#   PROFILE=release       whose programs are measured; they must have been built
#   SHOAL_BENCH_BIN=      or those in this directory
#
# Three servers and an agent are a mesh, hosts out of namespaces on one switch; hosts that are
# provisioned join it for that. Commands are given on the agent. Needs root. Whatever happens,
# everything it started is ended and removed; only what it started.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

KINDS=${K3S_KINDS:-provision outage}
RUNS=${K3S_RUNS:-20}
VANISHED=${K3S_VANISHED:-30}
LEADERS=${K3S_LEADERS:-30}
# Only its founder is told.
VIP_PROFILE=${K3S_PROFILE:+--vip-profile=$K3S_PROFILE}
WATCHES=${K3S_WATCHES:-probe kubectl}
PROBE_MS=${K3S_PROBE_MS:-10}
TIMEOUT_MS=${K3S_TIMEOUT_MS:-250}
RAFT_TIMERS=${RAFT_TIMERS:-safe}
BIN=${SHOAL_BENCH_BIN:-$PWD/target/${PROFILE:-release}}
PEERS=${SHOAL_BENCH_PEERS:-$PWD/target/bench/peers}
RESULTS=${SHOAL_BENCH_RESULTS:-$PWD/target/bench}
WHICH_K3S=${K3S:-the stand-in of tests/k3s}
K3S=${K3S:-$BIN/k3s}
TABLE=$RESULTS/k3s.md
FIGURES=$RESULTS/k3s.tsv
# A real K3s is up in some 20 s, and several at once on one machine take longer.
DEADLINE_SECONDS=300
FOUNDER=s1
SERVERS=(s1 s2 s3)
OBSERVER=o1
HOSTS=("${SERVERS[@]}" "$OBSERVER")
# Between two looks whether something that is measured is over.
PACE_SECONDS=0.25
# Where every host finds the program.
HOST_K3S=/run/lab/peers/k3s/k3s

source benches/hosts.sh
source benches/figures.sh
source benches/peers.sh
source benches/mesh.sh
source benches/k3s-provision.sh
source benches/k3s-outage.sh

# CLOCK_MONOTONIC in microseconds, for all hosts the same.
now() { "$BIN/api-watch" now; }
observer() { on "$OBSERVER" shoal "$@"; }

# until_seen WHAT COMMAND...: while something is measured, whose times others write down. Asking
# takes them little time away.
until_seen() {
  local what=$1 deadline=$((SECONDS + DEADLINE_SECONDS))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "in $DEADLINE_SECONDS s it did not come to this: $what"
    sleep "$PACE_SECONDS"
  done
}

# --- Hosts and clusters -----------------------------------------------------------------------

# k3s_host_on NAME: what is installed there stays there.
k3s_host_on() {
  host_on "$1"
  # shellcheck disable=SC2016
  on "$1" sh -c 'd=/run/lab/disk
    mkdir -p $d/local-bin $d/local-bin-work
    mount -t overlay overlay \
      -o lowerdir=/usr/local/bin,upperdir=$d/local-bin,workdir=$d/local-bin-work /usr/local/bin ||
      mount --bind $d/local-bin /usr/local/bin'
}

make_k3s_mesh() {
  local host
  say 'three servers and an agent become a mesh'
  switch_on
  for host in "${HOSTS[@]}"; do k3s_host_on "$host"; done
  for host in "${HOSTS[@]}"; do
    start_daemon "$host"
    case $host in
      "$FOUNDER") on "$host" shoal init --name bench >/dev/null ;;
      "$OBSERVER") join "$host" agent ;;
      *) join "$host" server ;;
    esac
  done
  all_see_the_mesh
  # What happens in clusters, with the time at which the observer was told.
  start_on "$OBSERVER" events \
    bash -c 'shoal events --follow --json --kind-prefix system.k3s. | api-watch stamp'
}

# provision HOST ROLE CLUSTER
provision() {
  local founds=()
  # The one that every machine can carry.
  [ "$2" != server ] || cluster_is_there "$3" || founds=(--cni flannel ${VIP_PROFILE:+"$VIP_PROFILE"})
  observer k3s provision "$1" --role "$2" --cluster "$3" --k3s-binary "$HOST_K3S" "${founds[@]}" >/dev/null
}
# rows: each object of the JSON on standard input in a line of its own, without blanks.
rows() { tr -d ' \n' | grep -o '{[^{}]*}'; }
cluster_is_there() { observer cluster ls --json | rows | grep -q "\"name\":\"$1\""; }
is_gone() { ! cluster_is_there "$1"; }
# is_active HOST CLUSTER
is_active() {
  observer cluster nodes "$2" --json 2>/dev/null | rows | grep "\"node\":\"$1\"" |
    grep -q '"status":"active"'
}

# told HOST KIND: when the observer was told, if it was.
told() {
  [ -e "$LAB/$OBSERVER/events.log" ] || return 1
  awk -v n="\"node\":\"$1\"" -v k="\"kind\":\"system.k3s.$2\"" '
    {line = $0; gsub(/": "/, "\":\"", line)}
    index(line, n) && index(line, k) {at = $1}
    END {if (at == "") exit 1; print at}' "$LAB/$OBSERVER/events.log"
}
# was_told HOST KIND: fails for good where K3s failed.
was_told() {
  told "$1" "$2" >/dev/null && return 0
  ! told "$1" failed >/dev/null || fail "K3s failed on $1: $(grep "\"$1\"" "$LAB/$OBSERVER/events.log" | tail -1)"
  return 1
}

# watch_ready HOST ROLE: the watch says when K3s's process and then its node was there.
watch_ready() {
  rm -f "$LAB/$1/ready.log"
  # shellcheck disable=SC2046
  start_on "$1" ready api-watch ready --node "$1" $(of_role "$2")
}
# of_role ROLE: whom the watch asks, as shoal does.
of_role() {
  case $1 in
    server) echo --server --kubeconfig /etc/rancher/k3s/k3s.yaml ;;
    agent) echo --kubeconfig /var/lib/rancher/k3s/agent/kubelet.kubeconfig ;;
  esac
}
# seen HOST WHAT: when the watch saw it.
seen() { awk -v w="$2" '$1 == w {at = $2} END {if (at == "") exit 1; print at}' "$LAB/$1/ready.log"; }
was_seen() { [ -e "$LAB/$1/ready.log" ] && seen "$1" "$2" >/dev/null; }

# Everything is ended, and what it logged kept if so wished.
ended() {
  if [ -n "${K3S_LOGS:-}" ] && [ -e "$LAB" ]; then
    local kept
    kept=$K3S_LOGS/$(date +%H%M%S)
    mkdir -p "$kept"
    (cd "$LAB" && cp --parents ./*/*.log ./*/tmp/*.watch ./*/var-lib/shoal/k3s/*.log "$kept" 2>/dev/null) || true
  fi
  all_off
  rm -rf "$PEERS/k3s"
}

# --- Report -----------------------------------------------------------------------------------

# figures_of FIELD...: of the lines that begin with these, the next field, in ms.
figures_of() {
  local key
  key=$(printf '%s\t' "$@")
  awk -F'\t' -v k="$key" -v n="$(($# + 1))" 'index($0, k) == 1 {printf "%.0f\n", $n / 1000}' "$FIGURES"
}

report() {
  {
    echo "$(date +%F), $(nproc) cores, Linux $(uname -r), K3s: $WHICH_K3S${K3S_PROFILE:+, profile $K3S_PROFILE}, load at the end $(cut -d' ' -f1-3 /proc/loadavg)"
    provision_tables
    outage_table
  } >"$TABLE"
  cat "$TABLE"
}

if [ "${1:-}" = report ]; then
  report
  exit
fi
[ "$(id -u)" = 0 ] || fail 'hosts out of namespaces need root: sudo make bench-k3s'
for program in api-watch shoald shoal shoal-wireguard-device; do
  [ -x "$BIN/$program" ] || fail "$BIN/$program is missing: make bench-k3s builds it"
done
[ -x "$K3S" ] || fail "$K3S is no program: K3S=/path/to/k3s"
[ ! -e "$LAB" ] || fail "$LAB is there: a measurement runs already, or was killed; then remove it"
mkdir -p "$RESULTS" "$PEERS/k3s"
# In a directory that all hosts have, wherever it came from.
cp "$K3S" "$PEERS/k3s/k3s"
[ -n "${K3S_KEEP:-}" ] || rm -f "$FIGURES"
touch "$FIGURES"
trap ended EXIT
trap 'exit 130' INT TERM
make_k3s_mesh
[[ " $KINDS " != *' provision '* ]] || measure_provision
[[ " $KINDS " != *' outage '* ]] || measure_outage
report
