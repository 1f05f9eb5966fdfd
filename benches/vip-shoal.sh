# shoal as vip.sh wants its systems: shoal-PROFILE, the profile of the lease. The candidates are the
# servers of a mesh, and everybody else is its agent.

VIP=web
FOUNDER=c1
# And a bit: Linux waits a second for the answer to its first packet.
TCP_TRIES_AGAIN_SECONDS=1.5

shoal_title() { echo "shoal, profile ${1#shoal-}"; }
shoal_kinds() { echo 'cut vanished leader planned drain'; }

shoal_set_up() {
  local host
  make_vip_mesh
  create_vip "$VIP" "${1#shoal-}"
  ADDRESS=$(on "$FOUNDER" shoal vip show "$VIP" --json | field address)
  for host in "${HOSTS[@]}"; do
    programs_on "$1" "$host"
  done
  shoal_recover "$1" begin
}
make_vip_mesh() {
  local host role
  for host in "${HOSTS[@]}"; do
    role=agent
    [[ " ${CANDIDATES[*]} " != *" $host "* ]] || role=server
    start_daemon "$host"
    if [ "$host" = "$FOUNDER" ]; then
      on "$host" shoal init --name bench >/dev/null
    else
      join "$host" "$role"
    fi
  done
  all_see_the_mesh
}
# create_vip NAME PROFILE
create_vip() {
  local candidates
  candidates=$(IFS=,; echo "${CANDIDATES[*]}")
  on "$FOUNDER" shoal vip create "$1" --network default --candidates "$candidates" \
    --profile "$2" >/dev/null
}

# The daemon runs already when its mesh has just been made.
shoal_start() { [ -n "$(daemon_of "$2")" ] || start_daemon "$2"; }

shoal_forget() { forgets "$2" /run/shoal; }

# Clients reach it as before: their packets are the overlay's.
shoal_cut() {
  local ports
  ports=$(on "$2" wg show all listen-port | awk '{print $2}' | paste -sd, -)
  on "$2" nft "add table inet cut
    add chain inet cut out { type filter hook output priority 0; }
    add rule inet cut out oifname eth0 udp sport { $ports } accept
    add rule inet cut out oifname eth0 meta l4proto { tcp, udp } drop"
}

# shoal_victim SYSTEM KIND: for `leader` the holder is made the leader, for `vanished` another one.
shoal_victim() {
  local holder leader to
  holder=$(served_by)
  leader=$(on "$OBSERVER" shoal status --json | field leader)
  to=$holder
  case $2 in
    leader) to=$leader ;;
    vanished)
      if [ "$holder" = "$leader" ]; then
        for to in "${CANDIDATES[@]}"; do [ "$to" = "$leader" ] || break; done
      fi
      ;;
  esac
  if [ "$to" != "$holder" ]; then
    move_to "$to"
    shoal_recover "$1" moved
    sleep "$CALM_SECONDS"
  fi
  echo "$to"
}
# move_to NODE: it answers when the address is open there. Who has just come back is suspected for a
# moment now and then by those who had it for dead, and may not have it meanwhile.
move_to() {
  until_true "$1 is to serve" on "$OBSERVER" shoal vip failover "$VIP" --to "$1" >/dev/null
  until_true "$1 serves" serves "$1"
}
serves() { [ "$(served_by)" = "$1" ]; }

# Beyond what the profiles say of themselves: 0.4, 1.2 and 3.5 s.
shoal_patience() {
  case $1 in
    shoal-lan) echo 1 ;;
    shoal-safe) echo 2 ;;
    shoal-wan) echo 5 ;;
  esac
}
# The slowest thing that its daemons do by the clock, membership's probes, they do every second.
shoal_period() { echo 1; }

# Every candidate may hold the address, everybody sees everybody, and somebody serves.
shoal_recover() {
  all_see_the_mesh
  until_true 'every candidate is fit' all_are_fit
  until_true 'somebody serves' is_served
}
all_are_fit() {
  local shown
  shown=$(on "$OBSERVER" shoal vip show "$VIP" --json | tr -d ' \n')
  [ "$(grep -o '"fit":true' <<<"$shown" | wc -l)" = "${#CANDIDATES[@]}" ] &&
    [[ $shown == *'"state":"held"'* ]]
}

# --- Planned moves ----------------------------------------------------------------------------

# measure_planned SYSTEM SPANS: on request, under connections made one after the other.
measure_planned() {
  local run holder from client
  start_on "$OBSERVER" connect vip-watch connect --address "$ADDRESS" --port "$PORT" \
    --out /tmp/connections
  for ((run = 1; run <= PLANNED; run++)); do
    holder=$(served_by)
    sleep "$(random_part_of "$(shoal_period)")"
    from=$(now)
    on "$OBSERVER" shoal vip failover "$VIP" >/dev/null
    until_true "another one serves than $holder" serves_another "$holder"
    sleep "$CALM_SECONDS"
    echo "planned-$run $from $(now)" >>"$2"
    shoal_recover "$1" moved
    # A connection that begins in a move is tried again after a second, and must not meet the next.
    sleep "$TCP_TRIES_AGAIN_SECONDS"
  done
  client=$(processes_of "$OBSERVER" '^vip-watch connect ')
  kill "$client"
  awk -v s="$1" '{how = $3 ~ /^c[0-9]/ ? "made" : $3
      all[how]++
      if ($2 - $1 > longest) longest = $2 - $1}
    END {for (how in all) print s "\tconnections\t" how "\t" all[how]
      print s "\tconnections\tlongest\t" longest}' "$LAB/$OBSERVER/tmp/connections" >>"$FIGURES"
}

# measure_drains SYSTEM SPANS: the holder is emptied, and works again afterwards.
measure_drains() {
  local run holder from
  for ((run = 1; run <= DRAINS; run++)); do
    holder=$(served_by)
    sleep "$(random_part_of "$(shoal_period)")"
    from=$(now)
    on "$OBSERVER" shoal node drain "$holder" --no-wait >/dev/null
    until_true "another one serves than $holder" serves_another "$holder"
    sleep "$CALM_SECONDS"
    echo "drain-$run $from $(now)" >>"$2"
    on "$OBSERVER" shoal node uncordon "$holder" >/dev/null
    shoal_recover "$1" moved
  done
}

# --- Nothing is wrong, but busy ---------------------------------------------------------------

# measure_busy: for BUSY_MINUTES the machine has little time and its disk none. Three virtual IPs in
# one mesh; none may move.
measure_busy() {
  local profile before after cpu_before cpu_after row end
  switch_on
  for host in "${HOSTS[@]}"; do host_on "$host"; done
  make_vip_mesh
  for profile in $BUSY_PROFILES; do create_vip "$profile" "$profile"; done
  VIP=${BUSY_PROFILES%% *}
  ADDRESS=$(on "$FOUNDER" shoal vip show "$VIP" --json | field address)
  for host in "${HOSTS[@]}"; do programs_on shoal "$host"; done
  shoal_recover shoal begin
  sleep "$CALM_SECONDS"
  before=$(epochs)
  echo "busy $(now) " >"$LAB/spans"
  load_on
  cpu_before=$(processor)
  end=$((SECONDS + BUSY_MINUTES * 60))
  after=$before
  while [ "$SECONDS" -lt "$end" ]; do
    sleep 5
    row=$(epochs) || continue
    [ "$row" = "$after" ] || say "moved: $after -> $row"
    after=$row
  done
  cpu_after=$(processor)
  load_off
  after=$(epochs)
  sed -i "s/ \$/ $(now)/" "$LAB/spans"
  sleep "$CALM_SECONDS"
  {
    echo "| $BUSY_MINUTES minutes, processors busy for $(busy_percent "$cpu_before" "$cpu_after") %, disk for all of it | goal | moves |"
    echo '|---|---|---|'
    for profile in $BUSY_PROFILES; do
      echo "| shoal, profile $profile | 0 | $(($(epoch_in "$after" "$profile") - $(epoch_in "$before" "$profile"))) |"
    done
    echo
    "$BIN/vip-watch" report --spans "$LAB/spans" "$LAB"/*/tmp/*.watch | awk -F'\t' -v v="$VIP" '
      $1 == "outage" {if ($5 - $6 > longest) longest = $5 - $6}
      $1 == "overlap" {held = $3}
      END {printf "Profile %s: the longest time without an answer that any observer was awake for was %.0f ms; held twice: %d times.\n", v, longest / 1000, held}'
  } >"$BUSY_TABLE"
  cat "$BUSY_TABLE"
}
# epochs: PROFILE=EPOCH of each.
epochs() {
  local profile shown
  for profile in $BUSY_PROFILES; do
    shown=$(on "$OBSERVER" timeout 60 shoal --stale vip show "$profile" --json) || return 1
    printf '%s=%s ' "$profile" "$(field epoch <<<"$shown")"
  done
}
epoch_in() { tr ' ' '\n' <<<"$1" | sed -n "s/^$2=//p"; }

# Ticks: all, and idle ones, to which waiting for the disk belongs.
processor() { awk '$1 == "cpu" {for (i = 2; i <= 9; i++) all += $i; print all, $5 + $6}' /proc/stat; }
busy_percent() {
  awk -v b="$1" -v a="$2" 'BEGIN {split(b, x); split(a, y)
    printf "%.0f", 100 - 100 * (y[2] - x[2]) / (y[1] - x[1])}'
}

LOAD=()
# A process for each processor that computes for nine tenths of the time, and one that writes and
# syncs. They die with this shell.
load_on() {
  local processor
  for ((processor = 0; processor < $(nproc); processor++)); do
    # shellcheck disable=SC2016
    setpriv --pdeathsig KILL bash -c '
      while :; do :; done &
      trap "kill -9 $!" EXIT
      trap exit TERM
      while :; do
        kill -CONT $!; sleep 0.09
        kill -STOP $!; sleep 0.01
      done' &
    LOAD+=($!)
    disown
  done
  setpriv --pdeathsig KILL bash -c "
    while :; do dd if=/dev/zero of='$LAB/load' bs=1M count=256 conv=fsync status=none; done" &
  LOAD+=($!)
  disown
}
load_off() {
  [ ${#LOAD[@]} = 0 ] || kill "${LOAD[@]}" 2>/dev/null || true
  LOAD=()
}
