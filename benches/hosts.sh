# Machines for a measurement, out of namespaces: sourced by run, overlay.sh, vip.sh,
# vip-gate.sh and k3s.sh.
#
# Each has its own network, mounts, process ids and disk, and a cable to one switch. A host's first
# process holds it; ending that one ends, in the kernel, everything that runs there. So nothing is
# ever searched for to be killed, and nothing of another mesh on this machine can be hit.

# Where hosts and results are. On a real file system: dockerd's overlay2 needs one.
LAB=${SHOAL_BENCH_DIR:-$PWD/target/bench/lab}
# Hosts find the programs under measurement here, whatever is mounted over the build directory.
HOST_PATH=/run/lab/bin:/run/lab/peers:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Mounting takes milliseconds; this many tenths of a second only a machine out of something.
BOOT_TENTHS=100

declare -A INIT NUMBER
SWITCH=
LAST_NUMBER=0

# hold NAME SCRIPT: makes namespaces, runs the script in them and keeps them; HELD is the first
# process. It dies with this shell, however this shell dies.
hold() {
  local ready=$LAB/$1.ready tenth parent
  rm -f "$ready"
  setpriv --pdeathsig KILL unshare --net --mount --pid --uts --fork --kill-child \
    --propagation=private bash -c "set -eu
$2
touch '$ready'
while :; do sleep 86400 & wait \$!; done" </dev/null >"$LAB/$1.boot.log" 2>&1 &
  parent=$!
  disown
  for ((tenth = 0; tenth < BOOT_TENTHS; tenth++)); do
    # The overlay hides the file from us only if the lab lay in /etc.
    [ ! -e "$ready" ] || break
    sleep 0.1
  done
  [ -e "$ready" ] || { echo "the host $1 does not start: $(cat "$LAB/$1.boot.log")" >&2; return 1; }
  HELD=$(tr -d ' ' <"/proc/$parent/task/$parent/children")
}

switch_on() {
  mkdir -p "$LAB"
  hold switch '
ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
for f in /proc/sys/net/bridge/bridge-nf-call-*; do if [ -e $f ]; then echo 0 > $f; fi; done
ip link set br0 up'
  SWITCH=$HELD
}

# host_on NAME: a fresh machine with the address 10.78.0.NUMBER.
host_on() {
  local name=$1 dir=$LAB/$1 number
  number=$((LAST_NUMBER += 1))
  mkdir -p "$dir"/{etc,etc-work,var-lib/dpkg,var-log,tmp}
  hold "$name" "
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab/{bin,peers,disk} /run/lock
mount --bind '$BIN' /run/lab/bin
mount --bind '$PEERS' /run/lab/peers
mount --bind '$dir' /run/lab/disk
d=/run/lab/disk
mount -t overlay overlay -o lowerdir=/etc,upperdir=\$d/etc,workdir=\$d/etc-work /etc || {
  cp -a /etc/. \$d/etc/
  mount --bind \$d/etc /etc
}
mount --bind /var/lib/dpkg \$d/var-lib/dpkg
mount --rbind \$d/var-lib /var/lib
mount --bind \$d/var-log /var/log
mount --bind \$d/tmp /tmp
echo $name > /etc/hostname
echo '127.0.0.1 localhost $name' > /etc/hosts
hostname $name
echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
if [ ! -e /dev/net/tun ]; then mkdir -p /dev/net; mknod /dev/net/tun c 10 200; fi"
  INIT[$name]=$HELD
  NUMBER[$name]=$number
  ip link add eth0 netns "$HELD" type veth peer name "port$number" netns "$SWITCH"
  in_switch "ip link set port$number master br0 && ip link set port$number up"
  nsenter --net="/proc/$HELD/ns/net" \
    bash -c "ip addr add $(underlay "$name")/24 dev eth0 && ip link set eth0 up"
}

underlay() { echo "10.78.0.${NUMBER[$1]}"; }

in_switch() { nsenter --net="/proc/$SWITCH/ns/net" bash -c "$1"; }

# on HOST COMMAND...: runs in the host, to its end.
on() {
  local init=${INIT[$1]}
  shift
  nsenter --target "$init" --net --mount --pid --uts --wd=/ \
    env -i PATH="$HOST_PATH" HOME=/tmp LANG=C.UTF-8 "$@" </dev/null
}

# start_on HOST LOG COMMAND...: the same in the background.
start_on() {
  local host=$1 log=$LAB/$1/$2.log
  shift 2
  on "$host" "$@" >>"$log" 2>&1 &
  disown
}

# processes_of HOST PATTERN: pids, as seen from here, of the host's processes whose command line
# matches.
processes_of() {
  local entry words line
  # Without starting any process for it: there may be hundreds, and a measurement runs.
  for entry in /proc/[0-9]*; do
    [ "$entry/ns/pid" -ef "/proc/${INIT[$1]}/ns/pid" ] || continue
    { mapfile -d '' -t words <"$entry/cmdline"; } 2>/dev/null || continue
    [ ${#words[@]} != 0 ] || continue
    line="${words[*]} "
    [[ ! $line =~ $2 ]] || echo "${entry#/proc/}"
  done
}

# everything_on HOST: all processes but those that hold the namespaces, which are the first one and
# what it waits for.
everything_on() {
  local pid holding
  holding=" ${INIT[$1]} $(cat "/proc/${INIT[$1]}/task/${INIT[$1]}/children") "
  for pid in $(processes_of "$1" .); do
    [[ $holding == *" $pid "* ]] || echo "$pid"
  done
}

# vanish HOST PID...: its cable is out, and nothing of it runs any more.
vanish() {
  in_switch "ip link set port${NUMBER[$1]} down"
  shift
  kill -9 "$@" 2>/dev/null || true
}

# forgets HOST DIRECTORY...: what a machine has lost when it starts again: interfaces, rules and
# what is in these directories of /run. The disk stays.
forgets() {
  local host=$1
  shift
  # shellcheck disable=SC2016
  on "$host" sh -c '
    nft flush ruleset
    for name in $(ls /sys/class/net); do
      case $name in lo | eth0) ;; *) ip link del "$name" 2>/dev/null ;; esac
    done
    rm -rf "$@"' sh "$@"
}

# host_off NAME: the power is gone, and so is the disk.
host_off() {
  local init=${INIT[$1]:-}
  [ -n "$init" ] || return 0
  unset "INIT[$1]"
  end "$init"
  rm -rf "${LAB:?}/$1"
}

end() {
  local tenth
  kill -9 "$1" 2>/dev/null || true
  for ((tenth = 0; tenth < BOOT_TENTHS; tenth++)); do
    [ -e "/proc/$1" ] || return 0
    sleep 0.1
  done
}

all_off() {
  local name
  for name in "${!INIT[@]}"; do
    host_off "$name"
  done
  [ -z "$SWITCH" ] || end "$SWITCH"
  SWITCH=
  rm -rf "${LAB:?}"
}
