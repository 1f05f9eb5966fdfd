#!/usr/bin/env bash
# Measures both kinds of kernel gate of virtual IPs side by side, and prints the table of
# docs/benchmarks.md: what one refresh costs, and how long a holder that stands still goes on answering.
#
#   benches/vip-gate.sh
#
#   GATE_KINDS='…'        which, of: nftables ebpf
#   GATE_REFRESHES=10000  refreshes, for each
#   GATE_RUNS=20          holders that are stopped (SIGSTOP), for each
#   GATE_LEASE_MS=400, GATE_LIFE_MS=140, GATE_MARGIN_MS=25      L, T and delta: profile `lan`
#   PROFILE=release       whose gate-host is measured; it must have been built
#
# A holder and a peer, two network namespaces with one cable. `gate-host` (overlay/gate/examples) is the
# holder's gate, whose lease is renewed every tenth of it, and the peer's observer, which asks the address
# every millisecond. No daemon and no mesh: what is measured is the gate alone. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

KINDS=${GATE_KINDS:-nftables ebpf}
REFRESHES=${GATE_REFRESHES:-10000}
RUNS=${GATE_RUNS:-20}
LEASE_MS=${GATE_LEASE_MS:-400}
LEASE="$LEASE_MS ${GATE_LIFE_MS:-140} ${GATE_MARGIN_MS:-25}"
GATE_HOST=$PWD/target/${PROFILE:-release}/examples/gate-host
RESULTS=${SHOAL_BENCH_RESULTS:-$PWD/target/bench}
TABLE=$RESULTS/vip-gate.md
ADDRESS=fd5a::f:1
CABLE=shoal-g
# Every namespace has a bpf file system of its own there.
FOLDER=/mnt/gate
# An answer comes within a fraction of this.
SILENCE_US=300000
# Nothing that is waited for takes as long.
DEADLINE_SECONDS=20

source benches/hosts.sh
source benches/figures.sh

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }
fail() { echo "$*" >&2; exit 1; }

declare -A IN OUT PID

# in_host HOST SCRIPT: runs it there, to its end.
in_host() { nsenter --target "${INIT[$1]}" --net --mount sh -c "$2" </dev/null; }

pair_on() {
  local host
  mkdir -p "$LAB"
  for host in holder peer; do
    hold "$host" '
ip link set lo up
mount -t bpf none /mnt'
    INIT[$host]=$HELD
  done
  ip link add "$CABLE" netns "${INIT[holder]}" type veth peer name "$CABLE" netns "${INIT[peer]}"
  in_host holder "ip addr add fd5a::1/64 dev $CABLE nodad && ip link set $CABLE up"
  in_host peer "ip addr add fd5a::2/64 dev $CABLE nodad && ip link set $CABLE up
    ip -6 route add $ADDRESS/128 via fd5a::1 dev $CABLE"
}

# gate_host NAME HOST: starts one that is asked by its name.
gate_host() {
  local pipe=$LAB/$1.pipe asks says
  rm -f "$pipe".in "$pipe".out
  mkfifo "$pipe".in "$pipe".out
  # Without a fork: its id is the program's own.
  nsenter --target "${INIT[$2]}" --net --mount "$GATE_HOST" <"$pipe".in >"$pipe".out &
  PID[$1]=$!
  disown
  exec {asks}>"$pipe".in
  exec {says}<"$pipe".out
  IN[$1]=$asks
  OUT[$1]=$says
}

# done_with NAME
done_with() {
  [ -n "${PID[$1]:-}" ] || return 0
  local asks=${IN[$1]} says=${OUT[$1]}
  kill -9 "${PID[$1]}" 2>/dev/null || true
  exec {asks}>&- {says}<&-
  unset "PID[$1]" "IN[$1]" "OUT[$1]"
}

# ask NAME LINE: sets ANSWER.
ask() {
  printf '%s\n' "$2" >&"${IN[$1]}"
  read -r -t "$DEADLINE_SECONDS" ANSWER <&"${OUT[$1]}" || fail "$1 does not answer: $2"
  [[ $ANSWER == ok* ]] || fail "$1: $2: $ANSWER"
  ANSWER=${ANSWER#ok}
  ANSWER=${ANSWER# }
}

# Sets LAST and ASKED: when the last request was sent that was answered, and the last one.
look() {
  ask observer seen
  read -r _ _ LAST ASKED <<<"$ANSWER"
}

# Waits until the address answers requests sent from now on.
until_it_answers() {
  local from deadline=$((SECONDS + DEADLINE_SECONDS))
  ask observer now
  from=$ANSWER
  until look; [ "$LAST" -gt "$from" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "in $DEADLINE_SECONDS s the address did not answer"
    sleep 0.01
  done
}

# until_silent US: waits until nothing sent after that was answered for a while.
until_silent() {
  local from deadline=$((SECONDS + DEADLINE_SECONDS))
  until look; from=$(($1 > LAST ? $1 : LAST)); [ "$ASKED" -gt $((from + SILENCE_US)) ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "in $DEADLINE_SECONDS s the address did not fall silent"
    sleep 0.01
  done
}

# words_of KIND: how gate-host is asked for it. Sets COSTS, START, WORD (what it says that it is) and
# UNINSTALL.
words_of() {
  case $1 in
    nftables)
      COSTS="costs nftables $REFRESHES" START=owned WORD=Nftables UNINSTALL=shoal_gate
      ;;
    ebpf)
      COSTS="costs ebpf $REFRESHES $FOLDER" START="ebpf $FOLDER" WORD=Ebpf UNINSTALL=$FOLDER
      ;;
    *) fail "$1 is no kind of gate" ;;
  esac
}

# measure KIND: a row of the table.
measure() {
  local kind=$1 run stopped cost p99 silent=()
  words_of "$kind"
  say "$kind: refreshes"
  gate_host holder holder
  ask holder "$COSTS"
  read -r cost p99 _ <<<"$ANSWER"
  say "$kind: $RUNS holders are stopped"
  gate_host observer peer
  ask observer "observe $ADDRESS"
  ask holder "start $START"
  [ "${ANSWER%% *}" = "$WORD" ] || fail "this kernel offers no such gate: $ANSWER"
  ask holder "renew $ADDRESS $CABLE 1 $LEASE"
  for ((run = 1; run <= RUNS; run++)); do
    until_it_answers
    # At no particular moment between two renewals.
    sleep "$(random_part_of 0.3)"
    kill -STOP "${PID[holder]}"
    # No lease was taken after this.
    ask observer now
    stopped=$ANSWER
    until_silent $((stopped + LEASE_MS * 1000))
    silent+=($((LAST > stopped ? (LAST - stopped) / 1000 : 0)))
    kill -CONT "${PID[holder]}"
  done
  done_with observer
  # Before, the renewals would keep the gate that is to stop.
  ask holder halt
  ask holder stop
  ask holder "uninstall $UNINSTALL"
  done_with holder
  printf '| %s | %s µs | %s µs | %s ms | %s ms |\n' "$kind" \
    "$(micros "$cost")" "$(micros "$p99")" "$(median "${silent[@]}")" "$(most "${silent[@]}")" >>"$TABLE"
}
micros() { awk -v n="$1" 'BEGIN {printf "%.1f", n / 1000}'; }

ended() {
  done_with holder
  done_with observer
  all_off
}

[ "$(id -u)" = 0 ] || fail 'hosts out of namespaces need root: sudo scripts/bench gate'
[ -x "$GATE_HOST" ] || fail "$GATE_HOST is missing: scripts/bench gate builds it"
[ ! -e "$LAB" ] || fail "$LAB is there: a measurement runs already, or was killed; then remove it"
mkdir -p "$RESULTS"
trap ended EXIT
trap 'exit 130' INT TERM
{
  echo "$(date +%F), $(nproc) cores, Linux $(uname -r), L, T, delta: $LEASE ms, $RUNS stops, $REFRESHES refreshes each"
  echo
  echo '| gate | refresh median | p99 | SIGSTOP → silent median | most |'
  echo '|---|---|---|---|---|'
} >"$TABLE"
pair_on
for kind in $KINDS; do
  measure "$kind"
done
cat "$TABLE"
