# keepalived as vip.sh wants its systems: keepalived-SECONDS, the time between two adverts.

KEEPALIVED_ADDRESS=10.78.0.250

keepalived_title() { echo "keepalived 2.2, advert ${1#keepalived-} s"; }
keepalived_kinds() { echo 'cut vanished'; }

# The first one serves: the others, whose priority is lower, give way to it after a cut.
keepalived_set_up() {
  local host
  ADDRESS=$KEEPALIVED_ADDRESS
  programs_on "$1" "$OBSERVER"
  programs_on "$1" "${CANDIDATES[0]}"
  until_true 'the first candidate serves' serves_another ''
  for host in "${CANDIDATES[@]:1}"; do
    programs_on "$1" "$host"
  done
  sleep "$(keepalived_patience "$1")"
}

keepalived_start() {
  [ "$2" != "$OBSERVER" ] || return 0
  # Those that come back do not take the address again. Priorities at the upper end: the lower
  # they are, the longer a backup waits. Decimals of a second are VRRP version 3.
  cat >"$LAB/$2/tmp/keepalived.conf" <<CONFIG
global_defs {
  router_id $2
  vrrp_version 3
}
vrrp_instance vip {
  state BACKUP
  nopreempt
  interface eth0
  virtual_router_id 50
  priority $((255 - ${2#c}))
  advert_int ${1#keepalived-}
  virtual_ipaddress {
    $ADDRESS/24 dev eth0
  }
}
CONFIG
  start_peer "$2" keepalived keepalived --dont-fork --log-console --vrrp \
    --use-file /tmp/keepalived.conf --pid /run/keepalived.pid --vrrp_pid /run/vrrp.pid
}

keepalived_forget() { on "$2" sh -c "ip addr del $ADDRESS/24 dev eth0 2>/dev/null || true"; }

keepalived_cut() {
  on "$2" nft 'add table inet cut
    add chain inet cut out { type filter hook output priority 0; }
    add rule inet cut out ip protocol 112 drop'
}

keepalived_victim() { served_by; }

# Four of its adverts; three and something is what backups wait.
keepalived_patience() { awk -v a="${1#keepalived-}" 'BEGIN {print 4 * a}'; }
keepalived_period() { echo "${1#keepalived-}"; }

# One that came back knows of the holder by the next advert, and after a cut the first one has the
# address again.
keepalived_recover() {
  case $2 in
    cut) sleep "$(keepalived_patience "$1")" ;;
    *) sleep "$(awk -v a="${1#keepalived-}" 'BEGIN {print 1.5 * a}')" ;;
  esac
}
