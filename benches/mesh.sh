# Daemons and their mesh on hosts: sourced by run, vip.sh and k3s.sh, which set RAFT_TIMERS and
# FOUNDER, the node that makes the mesh; HOSTS, its nodes, where these are not four; and DAEMON_LOG,
# where daemons are to log more than they do by themselves.

start_daemon() {
  start_on "$1" shoald shoald run --name "$1" --listen "$(underlay "$1"):7440" \
    --raft-timers "$RAFT_TIMERS" ${DAEMON_LOG:+--log-level "$DAEMON_LOG"}
  until_true "shoald answers on $1" answers "$1"
}
# Not `shoal status`: that wants a mesh.
answers() {
  on "$1" curl --silent --max-time 2 --unix-socket /run/shoal/shoald.sock http://shoal/ >/dev/null
}

# add_node NAME ROLE
add_node() {
  host_on "$1"
  start_daemon "$1"
  join "$1" "$2"
}
# join NAME ROLE: one whose daemon runs.
join() {
  give_token "$1" "$2"
  on "$1" shoal join --token-file /tmp/token >/dev/null
}
# give_token NAME ROLE: so that it lies at /tmp/token of the host.
give_token() {
  rm -f "$LAB/$FOUNDER/tmp/$1.token"
  on "$FOUNDER" shoal token create --role "$2" --out "/tmp/$1.token" >/dev/null
  cp "$LAB/$FOUNDER/tmp/$1.token" "$LAB/$1/tmp/token"
  chmod 600 "$LAB/$1/tmp/token"
}

# settled NODE: it sees all nodes of the mesh, four unless there are HOSTS, and a leader.
settled() {
  local status
  status=$(on "$1" shoal status --json 2>/dev/null) || return 1
  [ "$(field reachable <<<"$status")" = "$(mesh_size)" ] && [ "$(field leader <<<"$status")" != null ]
}

# all_see_the_mesh: asked of all HOSTS at the same time, for one after the other takes longer than
# what is measured.
all_see_the_mesh() {
  local host asked=()
  for host in "${HOSTS[@]}"; do
    until_true "$host sees the mesh" settled "$host" &
    asked+=($!)
  done
  for host in "${asked[@]}"; do
    wait "$host" || fail 'not every host sees the mesh'
  done
}

mesh_size() { if [ -n "${HOSTS[*]:-}" ]; then echo ${#HOSTS[@]}; else echo 4; fi; }

daemon_of() { processes_of "$1" '(^|/)shoald run '; }
device_of() { processes_of "$1" 'wireguard-device'; }
