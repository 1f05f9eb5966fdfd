# Who notices that a node has died, and how fast: sourced by run.
#
# Ten daemons, then ten serf agents, on the same ten hosts; never both at once. One is killed with
# -9 and started again, and every other one says when it held it for dead. Then nobody is killed:
# packets are lost, or the processors are taken away, and every death that is told is false.

MEMBERSHIP_RUNS=${MEMBERSHIP_RUNS:-20}
MEMBERSHIP_IDLE_SECONDS=${MEMBERSHIP_IDLE_SECONDS:-60}
MEMBERSHIP_LOSS_PERCENT=${MEMBERSHIP_LOSS_PERCENT:-20}
# Processes that do nothing but compute, beside the ten.
MEMBERSHIP_BUSY=${MEMBERSHIP_BUSY:-16}
MEMBERSHIP_NODES=(s1 s2 s3 a1 a2 a3 a4 a5 a6 a7)
OTHERS=$((${#MEMBERSHIP_NODES[@]} - 1))

measure_membership() {
  local node
  say "ten daemons"
  for node in "${MEMBERSHIP_NODES[@]:4}"; do
    add_node "$node" agent
  done
  for node in "${MEMBERSHIP_NODES[@]}"; do
    until_true "$node sees ten" sees_ten "$node"
  done
  measure_members shoald 'shoald' '4,200 ms'
  for node in "${MEMBERSHIP_NODES[@]}"; do
    host_off "$node"
  done
  say "ten serf agents"
  for node in "${MEMBERSHIP_NODES[@]}"; do
    host_on "$node"
  done
  for node in "${MEMBERSHIP_NODES[@]}"; do
    start_member serf "$node"
  done
  until_true 'serf has ten members' serf_has_ten
  measure_members serf 'serf 0.9' ''
}
sees_ten() { [ "$(on "$1" shoal status --json --stale 2>/dev/null | field reachable)" = 10 ]; }
serf_has_ten() {
  local node
  for node in "${MEMBERSHIP_NODES[@]}"; do
    [ "$(on "$node" serf members 2>/dev/null | grep -c alive)" = 10 ] || return 1
  done
}

# measure_members SYSTEM TITLE GOAL
measure_members() {
  local system=$1 title=$2 goal=$3 run victim start all=() lost starved
  measure_idle_members "$system" "$title"
  for ((run = 1; run <= MEMBERSHIP_RUNS; run++)); do
    victim=${MEMBERSHIP_NODES[$((3 + run % 7))]}
    watch_members "$system" "$victim"
    start=$(now_us)
    kill -9 "$(member_of "$system" "$victim")"
    until_true "everybody knows that $victim is dead" everybody_knows "$victim"
    all+=($((($(deaths_of "$victim" | cut -d' ' -f1 | sort -n | tail -1) - start) / 1000)))
    say "$title, $victim killed ($run): the last of $OTHERS knew after ${all[-1]} ms"
    unwatch_members
    start_member "$system" "$victim"
    until_true "$victim is back" is_back "$system"
    # The next death must not meet a mesh that is still telling of this return.
    sleep 5
  done
  lost=$(false_deaths "$system" loses_packets)
  starved=$(false_deaths "$system" starves)
  times_table
  row "$title: one of ten killed with -9 → all nine others know" "$goal" ms "${all[@]}"
  row "$title: nodes held for dead in 60 s in which every host loses $MEMBERSHIP_LOSS_PERCENT % of its packets" 0 '' "$lost"
  row "$title: the same in 60 s with $MEMBERSHIP_BUSY busy processes on $(nproc) cores" 0 '' "$starved"
}

member_of() {
  case $1 in
    shoald) daemon_of "$2" ;;
    serf) processes_of "$2" '^serf ' ;;
  esac
}

start_member() {
  local node=$2
  case $1 in
    shoald) start_daemon "$node" ;;
    serf)
      cat >"$LAB/$node/tmp/told" <<HANDLER
#!/bin/bash
while read -r name rest; do echo "\${EPOCHREALTIME/[.,]/} $node silent \$name"; done >>/tmp/told.log
HANDLER
      chmod +x "$LAB/$node/tmp/told"
      start_on "$node" serf serf agent -node "$node" -bind "$(underlay "$node")" \
        -retry-join "$(underlay "$( [ "$node" = s1 ] && echo s2 || echo s1)")" \
        -event-handler member-failed=/tmp/told
      ;;
  esac
}

# is_back SYSTEM: everybody sees ten again.
is_back() {
  local node
  case $1 in
    serf) serf_has_ten ;;
    shoald)
      for node in "${MEMBERSHIP_NODES[@]}"; do
        sees_ten "$node" || return 1
      done
      ;;
  esac
}

# watch_members SYSTEM [EXCEPT]: from now on, deaths that anybody tells of are in $LAB/deaths.*.
watch_members() {
  local node daemons=()
  rm -f "$LAB"/deaths.*
  for node in "${MEMBERSHIP_NODES[@]}"; do
    [ "$node" != "${2:-}" ] || continue
    case $1 in
      serf)
        : >"$LAB/$node/tmp/told.log"
        ln -s "$LAB/$node/tmp/told.log" "$LAB/deaths.$node"
        ;;
      shoald) daemons+=(--daemon "$node=/proc/${INIT[$node]}/root$OPERATOR_SOCKET") ;;
    esac
  done
  WATCH=
  if [ "$1" = shoald ]; then
    "$BIN/membership-watch" "${daemons[@]}" >"$LAB/deaths.all" &
    WATCH=$!
    disown
  fi
}
unwatch_members() {
  [ -z "$WATCH" ] || kill "$WATCH" 2>/dev/null || true
  WATCH=
}
deaths_of() { cat "$LAB"/deaths.* | grep " silent $1\$" || true; }
everybody_knows() { [ "$(deaths_of "$1" | cut -d' ' -f2 | sort -u | wc -l)" = "$OTHERS" ]; }

# false_deaths SYSTEM TROUBLE: how many deaths are told of while nobody dies.
false_deaths() {
  local told
  watch_members "$1"
  "$2" 60
  unwatch_members
  told=$(cat "$LAB"/deaths.* | wc -l)
  say "$1, $2: $told deaths told of"
  until_true 'everybody sees everybody' is_back "$1"
  echo "$told"
}
# Every host drops that part of what reaches it, so a question and its answer get through less often.
loses_packets() {
  local node
  for node in "${MEMBERSHIP_NODES[@]}"; do
    on "$node" nft "add table inet loss
      add chain inet loss in { type filter hook input priority -300; }
      add rule inet loss in iifname eth0 numgen random mod 100 < $MEMBERSHIP_LOSS_PERCENT drop"
  done
  sleep "$1"
  for node in "${MEMBERSHIP_NODES[@]}"; do
    on "$node" nft delete table inet loss
  done
}
starves() {
  local busy pids=()
  for ((busy = 0; busy < MEMBERSHIP_BUSY; busy++)); do
    (while :; do :; done) &
    pids+=($!)
    disown
  done
  sleep "$1"
  kill "${pids[@]}"
}

# measure_idle_members SYSTEM TITLE: memory, processor and network of members with nothing to do.
measure_idle_members() {
  local node pid pids=() before=() was after cpu=() sent=() received=() rss=() index=0 ticks
  ticks=$(getconf CLK_TCK)
  for node in "${MEMBERSHIP_NODES[@]}"; do
    pids+=("$(member_of "$1" "$node")")
  done
  say "$2 idles for $MEMBERSHIP_IDLE_SECONDS s"
  for node in "${MEMBERSHIP_NODES[@]}"; do
    before+=("$(counters "$node" "${pids[$index]}")")
    index=$((index + 1))
  done
  sleep "$MEMBERSHIP_IDLE_SECONDS"
  index=0
  for node in "${MEMBERSHIP_NODES[@]}"; do
    read -r -a was <<<"${before[$index]}"
    read -r -a after <<<"$(counters "$node" "${pids[$index]}")"
    cpu+=($(((after[0] - was[0]) * 1000000 / ticks / MEMBERSHIP_IDLE_SECONDS)))
    received+=($(((after[1] - was[1]) / MEMBERSHIP_IDLE_SECONDS)))
    sent+=($(((after[2] - was[2]) / MEMBERSHIP_IDLE_SECONDS)))
    index=$((index + 1))
  done
  times_table
  row "$2, idle, one of ten: sent" '' B/s "${sent[@]}"
  row "$2, idle, one of ten: received" '' B/s "${received[@]}"
  row "$2, idle, one of ten: processor time per second" '' µs "${cpu[@]}"
  for pid in "${pids[@]}"; do
    rss+=("$(memory "$pid" | head -1 | cut -d' ' -f1)")
  done
  row "$2, idle, one of ten: RSS" '' KiB "${rss[@]}"
}
# counters HOST PID: the process's ticks, and what came in and went out by the host's cable.
counters() {
  local ticks
  ticks=$(awk '{print $14 + $15}' "/proc/$2/stat")
  echo "$ticks $(on "$1" awk '/eth0:/ {sub(/.*:/, ""); print $1, $9}' /proc/net/dev)"
}
