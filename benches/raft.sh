# Agreement against etcd's: sourced by run.
#
# Every round measures the disk, etcd, our Raft layer and our operator API, each time in another
# order, each alone: what is not measured does not run. Groups are new in every round; daemons keep
# their mesh and are started for their turn. All data is on the file system that $LAB is on.

RAFT_ROUNDS=${RAFT_ROUNDS:-5}
RAFT_SECONDS=${RAFT_SECONDS:-4}
RAFT_CLIENTS=${RAFT_CLIENTS:-1,16,64,256}
RAFT_SYSTEMS=${RAFT_SYSTEMS:-etcd etcd-tls raft shoald}
RAFT_SYNC_WRITES=${RAFT_SYNC_WRITES:-300}
RAFT_FAILOVERS=${RAFT_FAILOVERS:-50}
# Where a daemon listens, in its host.
OPERATOR_SOCKET=/run/shoal/shoald.sock
FIGURES=$PWD/target/bench/raft.tsv

# raft_bench ROUND TASK...
raft_bench() {
  local round=$1
  shift
  "$BIN/raft-bench" --results "$FIGURES" --round "$round" "$@" >&2
}

# target SYSTEM: sets TARGET, the arguments that name it; its directory is new.
target() {
  TARGET=(--system "$1" --dir "$LAB/raft")
  case $1 in
    etcd | etcd-tls) TARGET+=(--program "$PEERS/etcd") ;;
    raft) TARGET+=(--program "$BIN/raft-member") ;;
    shoald)
      local node pids=() devices=()
      for node in s1 s2 s3; do
        pids+=("$(daemon_of "$node")")
        # Where the kernel has WireGuard there is none.
        mapfile -t -O "${#devices[@]}" devices < <(device_of "$node")
      done
      until_true 'a leader is known' find_leading_server
      TARGET+=(--socket "/proc/${INIT[$LEADER]}/root$OPERATOR_SOCKET" --node s1
        --pids "$(IFS=,; echo "${pids[*]}")")
      [ "${#devices[@]}" = 0 ] || TARGET+=(--beside-pids "$(IFS=,; echo "${devices[*]}")")
      ;;
  esac
}
find_leading_server() { LEADER=$(on s1 shoal status --json 2>/dev/null | field leader); [[ $LEADER == s? ]]; }

# turn SYSTEM ROUND TASK ARGUMENT...: one system's turn, alone.
turn() {
  local system=$1 round=$2 task=$3
  shift 3
  [ "$system" != shoald ] || start_servers
  target "$system"
  raft_bench "$round" "$task" "${TARGET[@]}" "$@"
  rm -rf "${LAB:?}/raft"
  [ "$system" != shoald ] || stop_servers
}

start_servers() {
  local node
  for node in s1 s2 s3; do
    start_daemon "$node"
  done
  for node in s1 s2 s3; do
    until_true "$node sees the servers" servers_settled "$node"
  done
  # Certificates, reports and the like of a fresh start are not what is measured.
  sleep 2
}
stop_servers() {
  local node pids=()
  for node in s1 s2 s3; do
    pids+=("$(daemon_of "$node")")
  done
  kill "${pids[@]}"
  until_true 'the daemons have stopped' gone "${pids[@]}"
}
gone() {
  local pid
  for pid in "$@"; do
    [ ! -e "/proc/$pid" ] || return 1
  done
}
servers_settled() {
  local status
  status=$(on "$1" shoal status --json 2>/dev/null) || return 1
  [ "$(field reachable <<<"$status")" = 3 ] && [ "$(field leader <<<"$status")" != null ]
}

measure_raft() {
  local round system order
  rm -f "$FIGURES"
  if [[ $RAFT_SYSTEMS == *shoald* ]]; then
    # Agents follow every change; etcd has no such followers here.
    host_off a1
    on s1 shoal node remove a1 --yes >/dev/null
    stop_servers
  fi
  read -ra order <<<"$RAFT_SYSTEMS"
  for ((round = 1; round <= RAFT_ROUNDS; round++)); do
    say "round $round of $RAFT_ROUNDS, load $(cut -d' ' -f1-3 /proc/loadavg)"
    raft_bench "$round" disk --dir "$LAB/raft"
    for system in "${order[@]}"; do
      turn "$system" "$round" load --clients "$RAFT_CLIENTS" --seconds "$RAFT_SECONDS"
    done
    order=("${order[@]:1}" "${order[0]}")
  done
  for system in "${order[@]}"; do
    turn "$system" 0 syncs --writes "$RAFT_SYNC_WRITES"
  done
  for system in "${order[@]}"; do
    # Daemons are killed by the section failover.
    [[ $system == shoald || $system == etcd-tls ]] || turn "$system" 0 failover --repetitions "$RAFT_FAILOVERS" --lan
    [ "$system" != etcd ] || turn etcd 0 failover --repetitions "$RAFT_FAILOVERS"
  done
  "$BIN/raft-bench" --results "$FIGURES" report >>"$TABLE"
}
