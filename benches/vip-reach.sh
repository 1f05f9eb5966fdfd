# How long a move of a virtual IP takes to reach every peer of a network: sourced by vip.sh.
#
# From the moment at which the move was agreed, as the mesh remembers it, until a daemon last changed
# its WireGuard device for it, as its log says. Nothing else changes a mesh at rest. Once it is over,
# every device is asked, and must send the address to the new holder. One machine's clock is
# everybody's.

# All nodes of the mesh: the candidates and agents.
REACH_PEERS=${VIP_REACH_PEERS:-50}
REACH_RUNS=${VIP_REACH_RUNS:-20}
REACH_PROFILE=${VIP_REACH_PROFILE:-lan}
# Longer than any move takes to reach everybody: only then the devices are asked, for fifty programs
# that start would be what is measured.
REACH_SETTLES_SECONDS=3
# Agents join one after the other, and the last ones are told of all the others.
REACH_DEADLINE_SECONDS=300
# What a daemon logs when it changes its device.
REACH_LINE='adjusting the overlay interface'

# One kernel keeps the neighbours of all hosts in one table, and fifty hosts that all know each other
# are more than the 1024 that it has room for by default: ARP would fail. As it was before, afterwards.
NEIGHBOURS=(net.ipv4.neigh.default.gc_thresh3 net.ipv6.neigh.default.gc_thresh3)
NEIGHBOURS_BEFORE=()
room_for_neighbours() {
  local setting
  for setting in "${NEIGHBOURS[@]}"; do
    NEIGHBOURS_BEFORE+=("$setting=$(sysctl -n "$setting")")
    sysctl -qw "$setting=$((REACH_PEERS * REACH_PEERS * 4))"
  done
}
neighbours_as_before() {
  [ ${#NEIGHBOURS_BEFORE[@]} = 0 ] || sysctl -qw "${NEIGHBOURS_BEFORE[@]}"
  NEIGHBOURS_BEFORE=()
}

measure_reach() {
  local run host
  room_for_neighbours
  FIGURES_OF_REACH=$RESULTS/vip-reach.tsv
  : >"$FIGURES_OF_REACH"
  DEADLINE_SECONDS=$REACH_DEADLINE_SECONDS
  DAEMON_LOG=info,openraft=warn,libp2p_swarm=warn,libp2p_quic=warn,shoald::mesh::overlay=debug
  HOSTS=("${CANDIDATES[@]}")
  for ((run = ${#CANDIDATES[@]} + 1; run <= REACH_PEERS; run++)); do HOSTS+=("p$run"); done
  say "$REACH_PEERS nodes become a mesh"
  switch_on
  for host in "${HOSTS[@]}"; do host_on "$host"; done
  make_vip_mesh
  create_vip "$VIP" "$REACH_PROFILE"
  ADDRESS=$(on "$FOUNDER" shoal vip show "$VIP" --json | field address)
  until_true 'everybody sends to the holder' all_send_to_the_holder
  for ((run = 1; run <= REACH_RUNS; run++)); do reach_once "$run"; done
  reach_table
}

# reach_once RUN: a line for every node of the mesh.
reach_once() {
  local before after host
  before=$(reach_epoch)
  # At no particular moment of what daemons do by the clock.
  sleep "$(random_part_of "$(shoal_period)")"
  # With fifty daemons on two cores it may be open there only after the order is over.
  on "$FOUNDER" shoal vip failover "$VIP" >/dev/null || say "run $1: the order was over before the move"
  sleep "$REACH_SETTLES_SECONDS"
  until_true 'everybody sends to the new holder' all_send_to_the_holder
  after=$(reach_epoch)
  [ "$after" = $((before + 1)) ] || { say "run $1: epoch $before -> $after, not one move: not counted"; return 0; }
  for host in "${HOSTS[@]}"; do
    echo "$1	$host	$(reached_ms "$host" "$(moved_at_ms "$after")")" >>"$FIGURES_OF_REACH"
  done
}
reach_epoch() { on "$FOUNDER" shoal vip show "$VIP" --json | field epoch; }

# moved_at_ms EPOCH: when that move was agreed, in milliseconds since 1970.
moved_at_ms() {
  on "$FOUNDER" shoal vip show "$VIP" --json | tr -d ' \n' | grep -o '"moves":\[.*' |
    grep -o '{[^{}]*}' | grep "\"epoch\":$1[,}]" | field at_ms
}

# reached_ms HOST SINCE: from then until the last change that its daemon has made since.
reached_ms() {
  local last
  last=$(grep -F "$REACH_LINE" "$LAB/$1/shoald.log" | tail -1 | cut -d' ' -f1)
  [ -n "$last" ] || fail "$1 has changed nothing: its log is another one than this knows"
  echo $(($(date -d "$last" +%s%3N) - $2))
}

# all_send_to_the_holder: every device but the holder's has the address with the holder's key.
all_send_to_the_holder() {
  local holder key host
  holder=$(on "$FOUNDER" shoal vip show "$VIP" --json | field holder)
  [ -n "$holder" ] && [ "$holder" != null ] || return 1
  key=$(on "$holder" wg show all public-key | awk '{print $2}')
  for host in "${HOSTS[@]}"; do
    [ "$host" != "$holder" ] || continue
    on "$host" wg show all allowed-ips | awk -v k="$key" -v a="$ADDRESS/" '
      index($0, " " a) || index($0, "\t" a) {found++; if ($2 == k) right++}
      END {exit !(found == 1 && right == 1)}' || return 1
  done
}

# Of every run, when half of the nodes were reached and when the last one was.
reach_table() {
  local half=() last=() run
  for ((run = 1; run <= REACH_RUNS; run++)); do
    mapfile -t all < <(awk -F'\t' -v r="$run" '$1 == r {print $3}' "$FIGURES_OF_REACH")
    [ ${#all[@]} != 0 ] || continue
    half+=("$(median "${all[@]}")") last+=("$(most "${all[@]}")")
  done
  [ ${#last[@]} != 0 ] || fail 'no move was counted'
  {
    echo "| a move agreed → WireGuard sends to the new holder, $REACH_PEERS nodes | median | p99 | least | most | runs |"
    echo '|---|---|---|---|---|---|'
    reach_row 'on half of the nodes' "${half[@]}"
    reach_row 'on the last node' "${last[@]}"
  } >"$RESULTS/vip-reach.md"
  cat "$RESULTS/vip-reach.md"
}
# reach_row WHAT FIGURE...
reach_row() {
  local what=$1
  shift
  printf '| %s | %s ms | %s ms | %s | %s | %s |\n' "$what" \
    "$(median "$@")" "$(p99 "$@")" "$(least "$@")" "$(most "$@")" "$#"
}
