#!/usr/bin/env bash
# Measures how long an address is not served when its holder vanishes, and whether two hosts serve
# it at once, and prints the table of docs/benchmarks.md.
#
#   benches/vip.sh [report | busy | reach]
#                       report: only prints the figures that are there
#                       busy: counts moves of addresses while nothing is wrong
#                       reach: until when a move has reached every peer of a large network
#
#   VIP_SYSTEMS='…'     which, of: keepalived-1 keepalived-0.1 keepalived-0.01 (seconds between
#                       adverts), shoal-lan shoal-safe shoal-wan (profiles of the lease)
#   VIP_KINDS='…'       which, of: cut vanished leader planned drain; the last three are shoal's alone
#   VIP_RUNS=…          holders that vanish, for each; else 30, and 300 for shoal-lan
#   VIP_LEADER_RUNS=30  holders that vanish and lead
#   VIP_PLANNED=30      moves on request
#   VIP_DRAINS=30       holders that are emptied
#   VIP_CUTS=5          cuts in one direction, for each
#   VIP_CUT_SECONDS=1   beyond the time after which the others take over
#   VIP_KEEP=           1: adds to the figures of an earlier run
#   VIP_LOGS=           a directory where the hosts' logs are kept
#   VIP_BUSY_MINUTES=60, VIP_BUSY_PROFILES='lan safe wan'     of busy
#   VIP_REACH_PEERS=50, VIP_REACH_RUNS=20, VIP_REACH_PROFILE=lan           of reach
#   RAFT_TIMERS=safe    the profile of the daemons
#   PROFILE=release     whose programs are measured; they must have been built
#   SHOAL_BENCH_BIN=    or those in this directory
#
# Three candidates and an observer on one switch, hosts out of namespaces. On every one of them
# vip-watch asks the address each millisecond, on every candidate vip-responder says its name; one
# report judges what all of them saw. Needs root and, for keepalived and once, the network.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL=C.UTF-8

SYSTEMS=${VIP_SYSTEMS:-keepalived-1 keepalived-0.1 keepalived-0.01 shoal-lan shoal-safe shoal-wan}
KINDS=${VIP_KINDS:-cut vanished leader planned drain}
LEADER_RUNS=${VIP_LEADER_RUNS:-30}
PLANNED=${VIP_PLANNED:-30}
DRAINS=${VIP_DRAINS:-30}
CUTS=${VIP_CUTS:-5}
CUT_SECONDS=${VIP_CUT_SECONDS:-1}
BUSY_MINUTES=${VIP_BUSY_MINUTES:-60}
BUSY_PROFILES=${VIP_BUSY_PROFILES:-lan safe wan}
RAFT_TIMERS=${RAFT_TIMERS:-safe}
BIN=${SHOAL_BENCH_BIN:-$PWD/target/${PROFILE:-release}}
PEERS=${SHOAL_BENCH_PEERS:-$PWD/target/bench/peers}
RESULTS=${SHOAL_BENCH_RESULTS:-$PWD/target/bench}
TABLE=$RESULTS/vip.md
BUSY_TABLE=$RESULTS/vip-busy.md
FIGURES=$RESULTS/vip.tsv
DEADLINE_SECONDS=60
CANDIDATES=(c1 c2 c3)
OBSERVER=o1
# Of responders: none that a daemon or an overlay network has.
PORT=7540
HOSTS=("${CANDIDATES[@]}" "$OBSERVER")
# After a move, before the span that is judged ends and the next holder may vanish: longer than what
# the slowest system needs to tell its state to a candidate that comes back.
CALM_SECONDS=0.5
# A log is written out every 50 ms.
JUST_NOW_US=200000

source benches/hosts.sh
source benches/figures.sh
source benches/peers.sh
source benches/mesh.sh
source benches/vip-keepalived.sh
source benches/vip-shoal.sh
source benches/vip-reach.sh

now() { "$BIN/vip-watch" now; }

# --- What differs from system to system -------------------------------------------------------

# its FUNCTION SYSTEM ARGUMENT...: keepalived_FUNCTION or shoal_FUNCTION, which are
#   title              its row's name
#   kinds              what of KINDS is measured of it
#   set_up             from hosts that are on to an address, ADDRESS, that is served and watched
#   start HOST         starts what of it runs on a host
#   forget HOST        what a machine has lost when it starts again
#   victim KIND        who serves, and is to be hit
#   cut HOST           what tells the others that the holder lives gets out no more; all else does
#   patience           seconds after which the others take over, rounded up
#   period             seconds after which the holder has done all that it does by the clock: it
#                      vanishes at no particular moment of it
#   recover KIND       waits until the next holder may be hit
its() {
  local function=$1 system=$2
  shift 2
  "${system%%-*}_$function" "$system" "$@"
}
uncut() { on "$1" nft delete table inet cut; }

# --- Hosts ------------------------------------------------------------------------------------

declare -A STARTS
# programs_on SYSTEM HOST: everything that a host runs.
programs_on() {
  local system=$1 host=$2
  STARTS[$host]=$((${STARTS[$host]:-0} + 1))
  if [ "$host" != "$OBSERVER" ]; then
    start_on "$host" responder vip-responder --name "$host" --address "$ADDRESS" --port "$PORT"
  fi
  its start "$system" "$host"
  start_on "$host" watch vip-watch probe --observer "$host" --address "$ADDRESS" \
    --port "$PORT" --out "/tmp/${STARTS[$host]}.watch"
  until_true "$host watches" test -s "$LAB/$host/tmp/${STARTS[$host]}.watch"
  [ "$host" = "$OBSERVER" ] || until_true "$host can answer" can_answer "$host"
}
can_answer() { on "$1" ss -Hlun "sport = :$PORT" | grep -q .; }

# revive SYSTEM HOST
revive() {
  its forget "$1" "$2"
  in_switch "ip link set port${NUMBER[$2]} up"
  programs_on "$1" "$2"
}

# served_by: who answered the observer last; the log's last line may still be in the making.
served_by() {
  tail -n 5 "$LAB/$OBSERVER/tmp/${STARTS[$OBSERVER]}.watch" | head -n -1 |
    awk '$1 == "answer" {by = $5} END {print by}'
}
# is_served: somebody answered the observer just now.
is_served() {
  local last
  last=$(tail -n 5 "$LAB/$OBSERVER/tmp/${STARTS[$OBSERVER]}.watch" | head -n -1 |
    awk '$1 == "answer" {at = $3} END {print at}')
  [ $(($(now) - ${last:-0})) -lt "$JUST_NOW_US" ]
}
serves_another() { local by; by=$(served_by); [ -n "$by" ] && [ "$by" != "$1" ]; }

# --- Measuring --------------------------------------------------------------------------------

# measure_vanishing SYSTEM SPANS KIND RUNS
measure_vanishing() {
  local run victim from pids
  for ((run = 1; run <= $4; run++)); do
    until_true 'somebody serves' serves_another ''
    victim=$(its victim "$1" "$3")
    # Before the moment is chosen: what this costs must not be what the system suffers from.
    mapfile -t pids < <(everything_on "$victim")
    sleep "$(random_part_of "$(its period "$1")")"
    from=$(now)
    vanish "$victim" "${pids[@]}"
    until_true "another one serves than $victim" serves_another "$victim"
    # Or one served for a moment, and then none.
    sleep "$CALM_SECONDS"
    until_true 'it is still served' is_served
    echo "$3-$run $from $(now)" >>"$2"
    revive "$1" "$victim"
    # A candidate that has just started must know of the holder before that one vanishes.
    sleep "$CALM_SECONDS"
    its recover "$1" "$3"
  done
}

# measure_cuts SYSTEM SPANS
measure_cuts() {
  local run victim from
  for ((run = 1; run <= CUTS; run++)); do
    until_true 'somebody serves' serves_another ''
    victim=$(its victim "$1" cut)
    from=$(now)
    its cut "$1" "$victim"
    sleep "$(its patience "$1")"
    sleep "$CUT_SECONDS"
    echo "cut-$run $from $(now)" >>"$2"
    uncut "$victim"
    its recover "$1" cut
    sleep "$CALM_SECONDS"
  done
}

runs_of() { case $1 in shoal-lan) echo "${VIP_RUNS:-300}" ;; *) echo "${VIP_RUNS:-30}" ;; esac; }

measure() {
  local system=$1 host kind spans=$LAB/spans
  say "$(its title "$system")"
  switch_on
  : >"$spans"
  for host in "${HOSTS[@]}"; do
    host_on "$host"
  done
  its set_up "$system"
  sleep "$CALM_SECONDS"
  for kind in $(its kinds "$system"); do
    [[ " $KINDS " == *" $kind "* ]] || continue
    say "$(its title "$system"): $kind"
    case $kind in
      cut) measure_cuts "$system" "$spans" ;;
      vanished) measure_vanishing "$system" "$spans" "$kind" "$(runs_of "$system")" ;;
      leader) measure_vanishing "$system" "$spans" "$kind" "$LEADER_RUNS" ;;
      planned) measure_planned "$system" "$spans" ;;
      drain) measure_drains "$system" "$spans" ;;
    esac
  done
  # The logs must have been written beyond the last span.
  sleep "$CALM_SECONDS"
  "$BIN/vip-watch" report --spans "$spans" "$LAB"/*/tmp/*.watch |
    awk -v s="$system" '{print s "\t" $0}' >>"$FIGURES"
  ended
}

# Everything is ended, and what it logged kept if so wished.
ended() {
  load_off
  if [ -n "${VIP_LOGS:-}" ] && [ -e "$LAB" ]; then
    local kept
    kept=$VIP_LOGS/$(date +%H%M%S)
    mkdir -p "$kept"
    (cd "$LAB" && cp --parents spans */*.log */tmp/*.watch */tmp/connections "$kept" 2>/dev/null) || true
  fi
  all_off
  neighbours_as_before
}

# --- Report -----------------------------------------------------------------------------------

# outages_of SYSTEM KIND: of each, the longest that anybody saw who watched from begin to end, in ms.
# Nobody else would be fair: who takes over sees so before the network does.
outages_of() {
  awk -F'\t' -v s="$1" -v k="$2" '$1 == s && $2 == "outage" && index($3, k "-") == 1 {
      if (!($3 in worst) || $6 > worst[$3]) worst[$3] = $6}
    END {for (run in worst) printf "%.0f\n", worst[run] / 1000}' "$FIGURES"
}
# overlaps_of SYSTEM KIND: spans, those with an overlap, and the total in ms.
overlaps_of() {
  awk -F'\t' -v s="$1" -v k="$2" '$1 == s && $2 == "overlap" && index($3, k "-") == 1 {
      n++; if ($4 > 0) {with++; total += $5}}
    END {printf "%d %d %.0f\n", n, with, total / 1000}' "$FIGURES"
}
# connections_of SYSTEM WHAT
connections_of() {
  awk -F'\t' -v s="$1" -v w="$2" '$1 == s && $2 == "connections" && $3 == w {n += $4} END {print n + 0}' "$FIGURES"
}

# vanished_row SYSTEM KIND WHAT
vanished_row() {
  local all number with total cuts=('' '' '')
  mapfile -t all < <(outages_of "$1" "$2")
  [ ${#all[@]} != 0 ] || return 0
  read -r number with total < <(overlaps_of "$1" "$2")
  [ "$2" != vanished ] || read -r -a cuts < <(overlaps_of "$1" cut)
  printf '| %s | %s ms | %s ms | %s | %s | %s | %s | %s | %s |\n' "$3" \
    "$(median "${all[@]}")" "$(p99 "${all[@]}")" "$(least "${all[@]}")" "$(most "${all[@]}")" \
    "$number" "$with" "${cuts[0]:+${cuts[1]} of ${cuts[0]}}" "${cuts[0]:+${cuts[2]} ms}"
}

# planned_row SYSTEM
planned_row() {
  local all number with total
  mapfile -t all < <(outages_of "$1" planned)
  [ ${#all[@]} != 0 ] || return 0
  read -r number with total < <(overlaps_of "$1" planned)
  printf '| %s | %s ms | %s ms | %s | %s | %s | %s | %s | %s | %s | %s ms |\n' "$(its title "$1")" \
    "$(median "${all[@]}")" "$(p99 "${all[@]}")" "$(least "${all[@]}")" "$(most "${all[@]}")" \
    "$number" "$with" "$(connections_of "$1" made)" "$(connections_of "$1" refused)" \
    "$(($(connections_of "$1" unreachable) + $(connections_of "$1" timeout) + $(connections_of "$1" cut)))" \
    "$(($(connections_of "$1" longest) / 1000))"
}

# drained_row SYSTEM
drained_row() {
  local all number with total
  mapfile -t all < <(outages_of "$1" drain)
  [ ${#all[@]} != 0 ] || return 0
  read -r number with total < <(overlaps_of "$1" drain)
  printf '| %s, its holder drained | %s ms | %s ms | %s | %s | %s | %s | | | | |\n' "$(its title "$1")" \
    "$(median "${all[@]}")" "$(p99 "${all[@]}")" "$(least "${all[@]}")" "$(most "${all[@]}")" \
    "$number" "$with"
}

report() {
  local system
  {
    echo '| | holder vanished → served by another: median | p99 | least | most | runs | held twice | of one-way cuts, held twice | for, in all |'
    echo '|---|---|---|---|---|---|---|---|---|'
    for system in $SYSTEMS; do
      vanished_row "$system" vanished "$(its title "$system")"
      vanished_row "$system" leader "$(its title "$system"), it led too"
    done
    echo
    echo '| moved on request | not served: median | p99 | least | most | runs | held twice | connections made | refused | failed otherwise | the slowest |'
    echo '|---|---|---|---|---|---|---|---|---|---|---|'
    for system in $SYSTEMS; do
      planned_row "$system"
      drained_row "$system"
    done
  } >"$TABLE"
  cat "$TABLE"
}

if [ "${1:-}" = report ]; then
  report
  exit
fi
[ "$(id -u)" = 0 ] || fail 'hosts out of namespaces need root: sudo make bench-vip'
for program in vip-watch vip-responder shoald shoal shoal-wireguard-device; do
  [ -x "$BIN/$program" ] || fail "$BIN/$program is missing: make bench-vip builds it"
done
[ ! -e "$LAB" ] || fail "$LAB is there: a measurement runs already, or was killed; then remove it"
mkdir -p "$PEERS" "$RESULTS"
trap ended EXIT
trap 'exit 130' INT TERM
case ${1:-} in
  busy | reach)
    "measure_$1"
    exit
    ;;
esac
[[ $SYSTEMS != *keepalived* ]] || fetch_packages keepalived:keepalived
[ -n "${VIP_KEEP:-}" ] || rm -f "$FIGURES"
for system in $SYSTEMS; do
  measure "$system"
done
report
