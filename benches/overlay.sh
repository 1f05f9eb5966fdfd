#!/usr/bin/env bash
# Measures what an overlay costs when its packets are carried by a process, and prints the table of
# docs/benchmarks.md: our device, wireguard-go, boringtun, gotatun, and no tunnel at all.
#
#   benches/overlay.sh [report]         report: only prints the figures that are there
#
#   OVERLAY_ROUNDS=5      every system once in each, in an order that moves on
#   OVERLAY_SECONDS=3     of every load
#   OVERLAY_SYSTEMS='…'   which, of: shoal wireguard-go boringtun gotatun veth
#   OVERLAY_WIRE=         1: nothing larger than 1500 bytes passes the cable, as with a card that cannot
#                         cut and join packets; else it passes up to 64 KiB in one piece
#   OVERLAY_KEEP=         1: adds to the figures of an earlier run
#   SHOAL_DEVICE=         of shoal, another command than /run/lab/bin/shoal-wireguard-device, as in a host;
#                         e.g. `/run/lab/bin/shoald wireguard-device`
#
# Two hosts out of namespaces, a veth pair between them and nothing else; a round starts two devices
# of one system, measures, and kills them. Needs root and, once, the network.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

ROUNDS=${OVERLAY_ROUNDS:-5}
LOAD_SECONDS=${OVERLAY_SECONDS:-3}
SYSTEMS=${OVERLAY_SYSTEMS:-shoal wireguard-go boringtun gotatun veth}
BIN=$PWD/target/${PROFILE:-release}
PEERS=${SHOAL_BENCH_PEERS:-$PWD/target/bench/peers}
DEVICE=${SHOAL_DEVICE:-/run/lab/bin/shoal-wireguard-device}
TABLE=$PWD/target/bench/overlay${OVERLAY_WIRE:+-wire}.md
FIGURES=$PWD/target/bench/overlay${OVERLAY_WIRE:+-wire}.tsv
DEADLINE_SECONDS=20
BORINGTUN_VERSION=0.7.1
GOTATUN_VERSION=0.10.2
# What WireGuard leaves of Ethernet's 1500 bytes with IPv6 below.
MTU=1420
# Questions of one round trip measurement, and what lies between them.
PINGS=1000
PING_INTERVAL=0.002
# Payload of a small datagram: about a DNS answer or a frame of speech.
DATAGRAM_BYTES=200

source benches/hosts.sh
source benches/figures.sh
source benches/peers.sh

pair_on() {
  local host
  switch_on
  for host in left right; do
    host_on "$host"
  done
  ip link add cable netns "${INIT[left]}" mtu 1500 type veth peer name cable netns "${INIT[right]}"
  for host in left right; do
    on "$host" sh -c "ip addr add $(cable "$host")/30 dev cable && ip link set cable mtu 1500 up"
    [ -z "${OVERLAY_WIRE:-}" ] || on "$host" ip link set cable gso_max_segs 1
    mkdir -p "$LAB/$host/tmp/keys"
    on "$host" sh -c 'umask 077 && wg genkey >/tmp/keys/own && wg pubkey </tmp/keys/own >/tmp/keys/public'
  done
  start_peer right iperf iperf3 -s
  until_true 'iperf3 listens' listens
}
listens() { on right ss -Hltn 'sport = :5201' | grep -q LISTEN; }
cable() { [ "$1" = left ] && echo 192.0.2.1 || echo 192.0.2.2; }
inside() { [ "$1" = left ] && echo 10.91.0.1 || echo 10.91.0.2; }
other() { [ "$1" = left ] && echo right || echo left; }

# Ours asks for its place before ordinary processes by itself (overlay/wireguard/src/device.rs), in a session
# of its own; the others get the same.
# shellcheck disable=SC2016
PRECEDENCE='echo -10 >/proc/self/autogroup; exec nice -n -10 "$@"'
# tunnel_on SYSTEM: devices on both hosts, up and with a session. Sets PIDS and TARGET.
tunnel_on() {
  local system=$1 host
  PIDS=()
  TARGET=$(cable right)
  [ "$system" != veth ] || return 0
  for host in left right; do
    case $system in
      # shellcheck disable=SC2086 # a command and its first argument
      shoal) start_on "$host" device $DEVICE --interface wg0 --pidfile /run/wg0.pid ;;
      wireguard-go) first_peer "$host" wireguard-go -f wg0 ;;
      boringtun) first_peer "$host" boringtun-cli --foreground --disable-drop-privileges wg0 ;;
      gotatun) first_peer "$host" gotatun --foreground --disable-drop-privileges wg0 ;;
    esac
  done
  for host in left right; do
    until_true "$system listens on $host" device_listens "$host"
    on "$host" wg set wg0 private-key /tmp/keys/own listen-port 51820 \
      peer "$(cat "$LAB/$(other "$host")/tmp/keys/public")" \
      endpoint "$(cable "$(other "$host")"):51820" allowed-ips "$(inside "$(other "$host")")/32"
    on "$host" sh -c "ip addr add $(inside "$host")/24 dev wg0 && ip link set wg0 mtu $MTU up"
    PIDS+=("$(processes_of "$host" "$(command_of "$system")")")
  done
  TARGET=$(inside right)
  until_true "$system carries packets" on left ping -n -q -c 1 -W 1 "$TARGET"
  # gotatun looks at the MTU every three seconds.
  sleep 3.5
}
first_peer() { start_peer "$1" device setsid -w sh -c "$PRECEDENCE" sh "${@:2}"; }
device_listens() { on "$1" wg show wg0 >/dev/null 2>&1; }
command_of() {
  case $1 in
    shoal) echo 'wireguard-device --interface' ;;
    wireguard-go) echo '^wireguard-go' ;;
    boringtun) echo '^boringtun-cli' ;;
    gotatun) echo '^gotatun' ;;
  esac
}
tunnel_off() {
  local pid
  for pid in "${PIDS[@]}"; do
    end "$pid"
  done
  PIDS=()
}

# figure SYSTEM MEASURE VALUE
figure() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$FIGURES"; }

ticks() {
  local pid sum=0
  for pid in "${PIDS[@]}"; do
    sum=$((sum + $(awk '{print $14 + $15}' "/proc/$pid/stat")))
  done
  echo "$sum"
}

# tcp SYSTEM MEASURE STREAMS
tcp() {
  local before after rate
  before=$(ticks)
  rate=$(peer left iperf3 -c "$TARGET" -t "$LOAD_SECONDS" -P "$3" -f m |
    awk -v sum="$3" '/receiver/ && (sum == 1 || /SUM/) {for (i = 1; i < NF; i++) if ($(i+1) == "Mbits/sec") print $i}')
  after=$(ticks)
  figure "$1" "$2" "$rate"
  # Both devices' processor time, in milliseconds for each gigabyte that arrived.
  [ "${#PIDS[@]}" = 0 ] || figure "$1" "$2-cpu" "$(awk -v t="$((after - before))" -v hz="$(getconf CLK_TCK)" \
    -v rate="$rate" -v s="$LOAD_SECONDS" 'BEGIN {printf "%.0f", t / hz * 1000 / (rate / 8000 * s)}')"
}

# Small datagrams as fast as they go: what arrives.
datagrams() {
  local line
  line=$(peer left iperf3 -u -c "$TARGET" -t "$LOAD_SECONDS" -b 0 -l "$DATAGRAM_BYTES" -f k | grep receiver)
  figure "$1" datagrams "$(awk -v s="$LOAD_SECONDS" '{for (i = 1; i <= NF; i++) if ($i ~ /^[0-9]+\/[0-9]+$/) {split($i, n, "/"); printf "%.0f", (n[2] - n[1]) / s}}' <<<"$line")"
}

round_trips() {
  local times
  times=$(on left ping -n -c "$PINGS" -i "$PING_INTERVAL" "$TARGET" |
    sed -n 's/.*time=\([0-9.]*\) ms/\1/p' | sort -g)
  figure "$1" rtt "$(at_rank 50 <<<"$times")"
  figure "$1" rtt99 "$(at_rank 99 <<<"$times")"
}
at_rank() { awk -v p="$1" '{v[NR] = $1} END {i = int((NR * p + 99) / 100); printf "%.0f", v[i < 1 ? 1 : i] * 1000}'; }

# resident SYSTEM MEASURE: the larger of the two devices, KiB.
resident() {
  local pid
  for pid in "${PIDS[@]}"; do
    memory "$pid" | tr '\n' ' '
    awk '/^VmHWM:/ {print $2}' "/proc/$pid/status"
  done | sort -n | tail -1 | {
    read -r rss _ anonymous _ most
    figure "$1" "$2" "$rss"
    figure "$1" "$2-anonymous" "$anonymous"
    figure "$1" "$2-most" "$most"
  }
}

measure() {
  local system=$1
  tunnel_on "$system"
  [ "$system" = veth ] || resident "$system" idle
  round_trips "$system"
  tcp "$system" tcp1 1
  tcp "$system" tcp8 8
  datagrams "$system"
  [ "$system" = veth ] || resident "$system" loaded
  tunnel_off
  say "$system: $(tail -n 12 "$FIGURES" | awk -F'\t' -v s="$system" '$1 == s {printf "%s %s  ", $2, $3}')"
}

# of SYSTEM MEASURE: all its figures.
of() { awk -F'\t' -v s="$1" -v m="$2" '$1 == s && $2 == m {print $3}' "$FIGURES"; }

# cell SYSTEM MEASURE [UNIT]: the median and, in brackets, least and most.
cell() {
  local all
  mapfile -t all < <(of "$1" "$2")
  if [ ${#all[@]} = 0 ]; then printf '| '; return; fi
  printf '| %s (%s–%s) ' "$(median "${all[@]}")" "$(least "${all[@]}")" "$(most "${all[@]}")"
}
# megabytes_cell SYSTEM MEASURE
megabytes_cell() {
  local all
  mapfile -t all < <(of "$1" "$2")
  if [ ${#all[@]} = 0 ]; then printf '| '; return; fi
  printf '| %s ' "$(megabytes "$(median "${all[@]}")")"
}

report() {
  local system measure
  {
    echo '| through | one TCP stream, Mbit/s | 8 streams, Mbit/s | datagrams of 200 bytes, /s | round trip p50, µs | p99, µs |'
    echo '|---|---|---|---|---|---|'
    for system in $SYSTEMS; do
      printf '| %s ' "$system"
      for measure in tcp1 tcp8 datagrams rtt rtt99; do
        cell "$system" "$measure"
      done
      echo '|'
    done
    echo
    echo '| device | CPU of both devices per GB: one stream, ms | 8 streams, ms | RSS idle, MB | of its own | RSS after load, MB | of its own | highest RSS |'
    echo '|---|---|---|---|---|---|---|---|'
    for system in $SYSTEMS; do
      [ "$system" != veth ] || continue
      printf '| %s ' "$system"
      for measure in tcp1-cpu tcp8-cpu; do
        cell "$system" "$measure"
      done
      for measure in idle idle-anonymous loaded loaded-anonymous loaded-most; do
        megabytes_cell "$system" "$measure"
      done
      echo '|'
    done
  } >"$TABLE"
  cat "$TABLE"
}

if [ "${1:-}" = report ]; then
  report
  exit
fi
[ "$(id -u)" = 0 ] || fail 'hosts out of namespaces need root: sudo make bench-overlay'
[ -n "${SHOAL_DEVICE:-}" ] || [ -x "$BIN/shoal-wireguard-device" ] || fail "$BIN/shoal-wireguard-device is missing: make bench-overlay builds it"
[ ! -e "$LAB" ] || fail "$LAB is there: a measurement runs already, or was killed; then remove it"
mkdir -p "$PEERS" "$(dirname "$TABLE")"
fetch_packages wireguard-go:wireguard-go iperf3:iperf3 wireguard-tools:wg
fetch_crate boringtun-cli "$BORINGTUN_VERSION" boringtun-cli
fetch_crate gotatun-cli "$GOTATUN_VERSION" gotatun
PIDS=()
trap all_off EXIT
trap 'exit 130' INT TERM
[ -n "${OVERLAY_KEEP:-}" ] || rm -f "$FIGURES"
pair_on
read -ra order <<<"$SYSTEMS"
for ((round = 1; round <= ROUNDS; round++)); do
  for system in "${order[@]}"; do
    measure "$system"
  done
  order=("${order[@]:1}" "${order[0]}")
done
report
