# Programs to compare with, and waiting for conditions: sourced by overlay.sh and vip.sh.
#
# Debian's packages are fetched once, with what they need that this machine lacks, and unpacked
# beside the build; nothing is installed. Programs of crates.io are built there.

# Unpacked packages, here and as hosts see them.
UNPACKED=$PEERS/root
HOST_UNPACKED=/run/lab/peers/root
# Where Debian keeps libraries.
TRIPLET=$(uname -m)-linux-gnu

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }
fail() { echo "$*" >&2; exit 1; }

# until_true WHAT COMMAND...: for conditions that are not measured.
until_true() {
  local what=$1 deadline=$((SECONDS + DEADLINE_SECONDS))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || fail "in $DEADLINE_SECONDS s it did not come to this: $what"
    sleep 0.02
  done
}

# fetch_packages PACKAGE:PROGRAM...: Debian's, each known by a program of it.
fetch_packages() {
  local pair into missing=()
  for pair in "$@"; do
    [ -x "$UNPACKED/usr/bin/${pair#*:}" ] || [ -x "$UNPACKED/usr/sbin/${pair#*:}" ] ||
      command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
  done
  [ ${#missing[@]} != 0 ] || return 0
  say "fetching ${missing[*]}"
  into=$(mktemp -d)
  mkdir -p "$into/partial" "$UNPACKED"
  # Not installed, so that apt would not fetch what is there already.
  download() {
    apt-get install -qq -y --no-install-recommends --download-only \
      -o Dir::Cache::archives="$into" -o APT::Sandbox::User=root "${missing[@]}" </dev/null >&2
  }
  download || { apt-get update -qq && download; }
  for package in "$into"/*.deb; do
    dpkg-deb -x "$package" "$UNPACKED"
  done
  rm -rf "$into"
}

# fetch_crate CRATE VERSION PROGRAM: of crates.io, with the versions of dependencies that its
# authors locked.
fetch_crate() {
  [ ! -x "$PEERS/bin/$3" ] || return 0
  say "building $1 $2"
  cargo install --quiet --locked --root "$PEERS" --version "=$2" "$1" >&2
}

# peer HOST PROGRAM...: runs an unpacked program in the host, to its end.
peer() {
  local host=$1
  shift
  on "$host" env PATH="$HOST_UNPACKED/usr/sbin:$HOST_UNPACKED/usr/bin:/run/lab/peers/bin:$HOST_PATH" \
    LD_LIBRARY_PATH="$HOST_UNPACKED/usr/lib/$TRIPLET:$HOST_UNPACKED/lib/$TRIPLET" "$@"
}

# start_peer HOST LOG PROGRAM...: the same in the background.
start_peer() {
  local host=$1 log=$LAB/$1/$2.log
  shift 2
  peer "$host" "$@" >>"$log" 2>&1 &
  disown
}
