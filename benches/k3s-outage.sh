# How long the API of a cluster of three servers is away when the host that holds its virtual IP
# vanishes: sourced by k3s.sh.
#
# An observer asks the API through the virtual IP all the time: a probe each few milliseconds, with a
# connection and a TLS handshake of its own, and kubectl, one after the other. An outage is the time
# from the begin of the last request that was answered to the begin of the next one that was.

CLUSTER=api
VIP=k3s-$CLUSTER
# After a move, and after a server is back: what follows from it must be over.
CALM_SECONDS=2
# The slowest thing that daemons do by the clock they do every second: the holder vanishes at no
# particular moment of it.
PERIOD_SECONDS=1

# measure_outage: a line KIND WATCH OUTAGE STEADY-AFTER FAILED UNASKED for each run and watch, in
# microseconds.
measure_outage() {
  local run host
  say 'three servers become a cluster'
  for host in "${SERVERS[@]}"; do
    provision "$host" server "$CLUSTER"
    until_true "$host is active" is_active "$host" "$CLUSTER"
  done
  until_true 'the kubeconfig is given' keeps_kubeconfig
  start_watches
  for ((run = 1; run <= VANISHED; run++)); do vanish_once vanished "$run"; done
  for ((run = 1; run <= LEADERS; run++)); do vanish_once leader "$run"; done
}
keeps_kubeconfig() {
  rm -f "$LAB/$OBSERVER/tmp/kubeconfig"
  observer cluster kubeconfig "$CLUSTER" --out /tmp/kubeconfig >/dev/null 2>&1
}

start_watches() {
  local watch kubectl=(kubectl)
  on "$OBSERVER" which kubectl >/dev/null || kubectl=("$HOST_K3S" kubectl)
  for watch in $WATCHES; do
    case $watch in
      probe)
        start_on "$OBSERVER" probe api-watch probe --kubeconfig /tmp/kubeconfig \
          --out /tmp/probe.watch --interval-ms "$PROBE_MS" --timeout-ms "$TIMEOUT_MS"
        ;;
      kubectl)
        start_on "$OBSERVER" kubectl api-watch loop --out /tmp/kubectl.watch -- "${kubectl[@]}" \
          --kubeconfig /tmp/kubeconfig --request-timeout "${TIMEOUT_MS}ms" get --raw /readyz
        ;;
      *) fail "K3S_WATCHES: $watch is neither probe nor kubectl" ;;
    esac
  done
}
# all_were_served SINCE: every watch had an answer to a request that it began after that.
all_were_served() {
  local watch
  for watch in $WATCHES; do
    [ -e "$LAB/$OBSERVER/tmp/$watch.watch" ] || return 1
    tail -n 200 "$LAB/$OBSERVER/tmp/$watch.watch" | awk -v s="$1" '
      $1 >= s && $3 == "ok" {found = 1} END {exit !found}' || return 1
  done
}

# vanish_once KIND RUN
vanish_once() {
  local victim from until pids
  victim=$(victim_of "$1")
  # Before the moment is chosen: what this costs must not be what the cluster suffers from.
  mapfile -t pids < <(everything_on "$victim")
  sleep "$(random_part_of "$PERIOD_SECONDS")"
  from=$(now)
  vanish "$victim" "${pids[@]}"
  # Nothing that was begun after that is answered by who vanished.
  until_seen 'the API is served again' all_were_served "$from"
  # Or one served for a moment, and then none.
  sleep "$CALM_SECONDS"
  until=$(now)
  until_seen 'the API is still served' all_were_served "$until"
  [ "$(holder)" != "$victim" ] || fail "$victim vanished, and holds the address"
  echo "$1 $from $until" >"$LAB/spans"
  judge "$2" "$victim"
  returns "$victim"
}
# victim_of KIND: for `leader` the leader is made the holder, for `vanished` another one. Who takes
# over from a leader mostly leads next.
victim_of() {
  local leader to
  until_true 'all is well' all_is_well
  leader=$(observer status --json | field leader)
  to=$(holder)
  if [ "$1" = leader ]; then
    to=$leader
  elif [ "$to" = "$leader" ]; then
    to=$(printf '%s\n' "${SERVERS[@]}" | grep -vx "$leader" | shuf -n 1)
  fi
  [ "$to" = "$(holder)" ] || observer vip failover "$VIP" --to "$to" >/dev/null
  until_true 'all is well' all_is_well
  sleep "$CALM_SECONDS"
  echo "$to"
}
holder() { observer vip show "$VIP" --json | field holder; }
# judge RUN VICTIM
judge() {
  local watch logs=()
  for watch in $WATCHES; do logs+=("$LAB/$OBSERVER/tmp/$watch.watch"); done
  "$BIN/api-watch" outages --spans "$LAB/spans" "${logs[@]}" >"$LAB/judged"
  sed 's/^/outage\t/' "$LAB/judged" >>"$FIGURES"
  say "$2 vanished ($1, $(cut -d' ' -f1 "$LAB/spans")): $(awk '{printf "%s %.0f ms  ", $2, $3 / 1000}' "$LAB/judged")"
}

# returns HOST: its machine starts again.
returns() {
  local pids
  # What was just being started when it vanished.
  mapfile -t pids < <(everything_on "$1")
  [ ${#pids[@]} = 0 ] || kill -9 "${pids[@]}" 2>/dev/null || true
  # With what lay below it, a mount may be gone already.
  # shellcheck disable=SC2016
  on "$1" sh -c 'awk "{print \$2}" /proc/mounts |
    grep -E "^(/run/(k3s|flannel|netns)|/var/lib/kubelet)" | sort -r |
    while read -r at; do umount -l "$at" 2>/dev/null || true; done'
  forgets "$1" /run/shoal /run/k3s /run/flannel /run/netns
  in_switch "ip link set port${NUMBER[$1]} up"
  start_daemon "$1"
}

# all_is_well: the mesh is whole, every server's API is ready and its node too, every server may hold
# the address, somebody does, and it is served.
all_is_well() {
  local host shown
  for host in "${HOSTS[@]}"; do settled "$host" || return 1; done
  for host in "${SERVERS[@]}"; do
    is_active "$host" "$CLUSTER" || return 1
    # shellcheck disable=SC2046
    on "$host" timeout 5 api-watch ready --node "$host" $(of_role server) >/dev/null || return 1
  done
  shown=$(observer vip show "$VIP" --json | tr -d ' \n')
  [ "$(grep -o '"fit":true' <<<"$shown" | wc -l)" = "${#SERVERS[@]}" ] &&
    [[ $shown == *'"state":"held"'* ]] && all_were_served "$(($(now) - CALM_SECONDS * 1000000))"
}

# --- Table ------------------------------------------------------------------------------------

outage_table() {
  local watch
  grep -q '^outage' "$FIGURES" || return 0
  echo
  echo '| the holder of the API'"'"'s address vanished → answered again, as seen by | goal, p99 | median | p99 | least | most | runs | until all were answered: median | most |'
  echo '|---|---|---|---|---|---|---|---|---|'
  for watch in kubectl probe; do
    outage_row "$watch" '' '1,000 ms'
    outage_row "$watch" vanished ''
    outage_row "$watch" leader ''
  done
}
# outage_row WATCH KIND GOAL: of all kinds unless there is one.
outage_row() {
  local all steady what
  mapfile -t all < <(outages "$1" "$2" 4)
  mapfile -t steady < <(outages "$1" "$2" 5)
  [ ${#all[@]} != 0 ] || return 0
  what=$(watch_title "$1")
  case $2 in
    leader) what+='; it led the mesh too' ;;
    vanished) what+='; another one led the mesh' ;;
  esac
  printf '| %s | %s | %s ms | %s ms | %s | %s | %s | %s ms | %s |\n' "$what" "$3" \
    "$(median "${all[@]}")" "$(p99 "${all[@]}")" "$(least "${all[@]}")" "$(most "${all[@]}")" "${#all[@]}" \
    "$(median "${steady[@]}")" "$(most "${steady[@]}")"
}
# outages WATCH KIND FIELD: in ms.
outages() {
  awk -F'\t' -v w="$1" -v k="$2" -v n="$3" '$1 == "outage" && $3 == w && (k == "" || $2 == k) {
    printf "%.0f\n", $n / 1000}' "$FIGURES"
}
# shellcheck disable=SC2016
watch_title() {
  case $1 in
    kubectl) echo '`kubectl get --raw /readyz` in a loop' ;;
    probe) echo "a probe each $PROBE_MS ms" ;;
  esac
}
