# From `shoal k3s provision` to a server or agent that is active, and the same K3s with the same
# settings started by hand: sourced by k3s.sh.
#
# Each round has four fresh hosts that are in the mesh: a server and an agent of a new cluster by
# shoal's hand; a server that founds a cluster of its own, and an agent that joins the first one,
# by ours. By hand the program is in place already and the settings are those that shoal wrote, with
# names and addresses of the other host. Who comes first changes from round to round.

# measure_provision: a line ROLE HAND STEP MICROSECONDS for each step, since the command.
measure_provision() {
  local run host
  for ((run = 1; run <= RUNS; run++)); do
    say "provision, round $run of $RUNS"
    ROUND_HOSTS=("srv$run" "agt$run" "hsrv$run" "hagt$run")
    HOSTS+=("${ROUND_HOSTS[@]}")
    for host in "${ROUND_HOSTS[@]}"; do
      k3s_host_on "$host"
      start_daemon "$host"
      join "$host" agent
    done
    all_see_the_mesh
    # The first round has to learn first what shoal writes.
    if ((run % 2)); then
      by_shoal "srv$run" server "b$run"
      by_hand "hsrv$run" server "b$run" "srv$run"
    else
      by_hand "hsrv$run" server "b$run" ''
      by_shoal "srv$run" server "b$run"
    fi
    # A cluster less beside which agents are measured.
    mapfile -t pids < <(everything_on "hsrv$run")
    vanish "hsrv$run" "${pids[@]}"
    until_true 'the API has its address' api_is_served "b$run"
    if ((run % 2)); then
      by_shoal "agt$run" agent "b$run"
      by_hand "hagt$run" agent "b$run" "srv$run"
    else
      by_hand "hagt$run" agent "b$run" "srv$run"
      by_shoal "agt$run" agent "b$run"
    fi
    end_round "b$run"
  done
}
# end_round CLUSTER
end_round() {
  local host removals=() removal
  observer cluster decommission "$1" --yes >/dev/null
  until_true "$1 is gone" is_gone "$1"
  HOSTS=("${SERVERS[@]}" "$OBSERVER")
  # At the same time, for each waits a while for a machine that is off.
  for host in "${ROUND_HOSTS[@]}"; do
    host_off "$host"
    on "$FOUNDER" shoal node remove "$host" --yes >"$LAB/$host.removed" 2>&1 &
    removals+=($!)
  done
  for removal in "${removals[@]}"; do
    wait "$removal" || fail "a host is not removed: $(cat "$LAB"/*.removed)"
  done
  rm -f "$LAB"/*.removed
  all_see_the_mesh
}
api_is_served() {
  [[ $(observer vip show "k3s-$1" --json | tr -d ' \n') == *'"state":"held"'* ]]
}

# step ROLE HAND STEP SINCE AT
step() { printf 'provision\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" $(($5 - $4)) >>"$FIGURES"; }

# by_shoal HOST ROLE CLUSTER
by_shoal() {
  local from answered active kind kinds at last=handshake.ready
  kinds=(module.assigned runtime.installing)
  case $2 in
    server) kinds+=(handshake.bootstrap handshake.ready cluster.bootstrapped) last=cluster.bootstrapped ;;
    agent) kinds+=(handshake.join_request handshake.join_token_issued handshake.ready) ;;
  esac
  watch_ready "$1" "$2"
  from=$(now)
  provision "$1" "$2" "$3"
  answered=$(now)
  until_seen "the observer is told of $last on $1" was_told "$1" "$last"
  until_seen "the watch saw $1 ready" was_seen "$1" ready
  until_true "$1 is active" is_active "$1" "$3"
  step "$2" shoal answered "$from" "$answered"
  for kind in "${kinds[@]}"; do
    at=$(told "$1" "$kind") || fail "nobody was told of $kind on $1"
    step "$2" shoal "$kind" "$from" "$at"
  done
  active=$(told "$1" "$last")
  step "$2" shoal process "$from" "$(seen "$1" process)"
  step "$2" shoal ready "$from" "$(seen "$1" ready)"
  step "$2" shoal active "$from" "$active"
  # What is shoal's alone: before K3s began, and after it was ready.
  step "$2" shoal before "$from" "$(seen "$1" process)"
  step "$2" shoal k3s "$(seen "$1" process)" "$(seen "$1" ready)"
  step "$2" shoal after "$(seen "$1" ready)" "$active"
  keep_settings "$1" "$2" "$3"
  say "$1, $2 by shoal: active after $(((active - from) / 1000)) ms"
}

# by_hand HOST ROLE CLUSTER SERVER: SERVER is one of the cluster that has its token.
by_hand() {
  local from ready
  settings_for "$1" "$2" "$3"
  [ "$2" != agent ] || on "$4" cat /var/lib/rancher/k3s/server/agent-token >"$LAB/$1/tmp/k3s/agent-token"
  # shellcheck disable=SC2016
  on "$1" sh -c 'set -e
    cp "$0" /usr/local/bin/k3s
    chmod 0600 /tmp/k3s/*
    mkdir -p /etc/rancher/k3s/config.yaml.d
    cp /tmp/k3s/50-shoal.yaml /etc/rancher/k3s/config.yaml.d/' "$HOST_K3S"
  watch_ready "$1" "$2"
  from=$(now)
  start_on "$1" k3s /usr/local/bin/k3s "$2"
  until_seen "the watch saw $1 ready" was_seen "$1" ready
  ready=$(seen "$1" ready)
  step "$2" hand process "$from" "$(seen "$1" process)"
  step "$2" hand ready "$from" "$ready"
  say "$1, $2 by hand: ready after $(((ready - from) / 1000)) ms"
}

# names_of HOST CLUSTER: a pattern of sed for each place in settings that differs from host to host
# and from cluster to cluster, and its name.
names_of() {
  local shown vip
  shown=$(observer node show "$1" --json)
  # By hand a server founds a cluster that has none.
  vip=$(observer vip show "k3s-$2" --json 2>/dev/null | field address) || vip=fd00::1
  echo "$1" @NAME@
  field overlay_ipv4 <<<"$shown" | sed 's/$/ @IPV4@/'
  field overlay_ipv6 <<<"$shown" | sed 's/$/ @IPV6@/'
  echo "$vip" @VIP@
}
# keep_settings HOST ROLE CLUSTER: as shoal wrote them; they must not differ from the last ones but
# in names.
keep_settings() {
  local script kept=$LAB/settings.$2
  script=$(names_of "$1" "$3" | while read -r text name; do
    printf 's|"%s"|"%s"|g\ns|\\[%s\\]|[%s]|g\n' "$text" "$name" "$text" "$name"
  done)
  on "$1" cat /etc/rancher/k3s/config.yaml.d/50-shoal.yaml |
    sed -e "$script" -e 's|/var/lib/shoal/k3s/|/tmp/k3s/|g' >"$kept.new"
  [ ! -e "$kept" ] || cmp -s "$kept" "$kept.new" ||
    fail "shoal wrote other settings for $1 than before: $(diff "$kept" "$kept.new")"
  mv "$kept.new" "$kept"
  [ "$2" != server ] || [ -e "$LAB/tokens" ] || {
    mkdir "$LAB/tokens"
    cp "$LAB/$1/var-lib/shoal/k3s/"{server,agent}-token "$LAB/tokens/"
  }
}
# settings_for HOST ROLE CLUSTER: below the host's /tmp/k3s, with tokens that name no cluster yet.
settings_for() {
  local script
  mkdir -p "$LAB/$1/tmp/k3s"
  cp "$LAB/tokens/"* "$LAB/$1/tmp/k3s/"
  script=$(names_of "$1" "$3" | while read -r text name; do printf 's|%s|%s|g\n' "$name" "$text"; done)
  sed -e "$script" "$LAB/settings.$2" >"$LAB/$1/tmp/k3s/50-shoal.yaml"
}

# --- Tables -----------------------------------------------------------------------------------

provision_tables() {
  local role all hand goal='' what
  [ -n "$(figures_of provision server shoal active)" ] || return 0
  echo
  echo '| time from … to … | goal | median | p99 | least | most | runs |'
  echo '|---|---|---|---|---|---|---|'
  for role in server agent; do
    mapfile -t all < <(figures_of provision "$role" shoal active)
    mapfile -t hand < <(figures_of provision "$role" hand ready)
    what='`k3s provision --role '$role'` → the node active'
    [ "$role" = agent ] || what+=', the cluster too'
    provision_row "$what" '' "${all[@]}"
    provision_row "the same K3s $role started by hand → ready" '' "${hand[@]}"
    printf '| %s | 1,500 ms | %s ms | | | | |\n' "on top of it, of the medians" \
      $(($(median "${all[@]}") - $(median "${hand[@]}")))
    for what in before k3s after; do
      mapfile -t all < <(figures_of provision "$role" shoal "$what")
      case $what in
        before) goal='of shoal'"'"'s: command → process of K3s' ;;
        k3s) goal='process of K3s → ready' ;;
        after) goal='ready → active, as the observer is told' ;;
      esac
      provision_row "$goal" '' "${all[@]}"
    done
  done
  echo
  # shellcheck disable=SC2016
  echo '| median time since `k3s provision` | server | agent |'
  echo '|---|---|---|'
  step_row 'the command is answered' answered answered
  step_row 'told: assigned' module.assigned module.assigned
  step_row 'told: installing' runtime.installing runtime.installing
  step_row 'told: asks for a token' '' handshake.join_request
  step_row 'told: has one' '' handshake.join_token_issued
  step_row 'a process of K3s' process process
  step_row 'told: bootstrap' handshake.bootstrap ''
  step_row 'its node is ready, by the watch' ready ready
  step_row 'told: ready' handshake.ready handshake.ready
  step_row 'told: the cluster is there' cluster.bootstrapped ''
}
# provision_row WHAT GOAL FIGURE...
provision_row() {
  local what=$1 goal=$2
  shift 2
  printf '| %s | %s | %s ms | %s ms | %s | %s | %s |\n' "$what" "$goal" \
    "$(median "$@")" "$(p99 "$@")" "$(least "$@")" "$(most "$@")" "$#"
}
# step_row WHAT SERVERS AGENTS: the step of each.
step_row() {
  printf '| %s | %s | %s |\n' "$1" "$(step_median server "$2")" "$(step_median agent "$3")"
}
step_median() {
  local all
  [ -n "$2" ] || return 0
  mapfile -t all < <(figures_of provision "$1" shoal "$2")
  echo "$(median "${all[@]}") ms"
}
