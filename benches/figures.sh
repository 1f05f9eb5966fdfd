# Numbers and the table made of them: sourced by run, overlay.sh, vip.sh,
# vip-gate.sh and k3s.sh.

# Microseconds since the epoch, without starting a process.
now_us() { echo "${EPOCHREALTIME/[.,]/}"; }

# since US: milliseconds since then.
since() { echo $((($(now_us) - $1) / 1000)); }

# median FIGURE...: and of an even number the mean of the two in the middle.
median() {
  printf '%s\n' "$@" | sort -g |
    awk '{v[NR]=$1} END {m=(NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2; printf "%.0f", m}'
}
least() { printf '%s\n' "$@" | sort -g | head -1; }
most() { printf '%s\n' "$@" | sort -g | tail -1; }
# p99 FIGURE...: of less than a hundred the most.
p99() { printf '%s\n' "$@" | sort -g | awk '{v[NR] = $1} END {print v[int((NR * 99 + 99) / 100)]}'; }

# random_part_of SECONDS
random_part_of() { awk -v p="$1" -v r="$RANDOM" 'BEGIN {print p * r / 32768}'; }

# row WHAT GOAL UNIT FIGURE...
row() {
  local what=$1 goal=$2 unit=$3
  shift 3
  printf '| %s | %s | %s %s | %s | %s | %s |\n' \
    "$what" "$goal" "$(median "$@")" "$unit" "$(least "$@")" "$(most "$@")" "$#" >>"$TABLE"
}

# memory PID: KiB resident, proportional, of its own, and of files.
memory() {
  awk '/^Rss:/ {r=$2} /^Pss:/ {p=$2} END {printf "%d %d ", r, p}' "/proc/$1/smaps_rollup"
  awk '/^RssAnon:/ {a=$2} /^RssFile:/ {f=$2} END {printf "%d %d\n", a, f}' "/proc/$1/status"
}

# memory_row WHAT GOAL PID...: medians over the processes, in MB of 10^6 bytes.
memory_row() {
  local what=$1 goal=$2 pid rss pss anon file
  local -a all_rss=() all_pss=() all_anon=() all_file=()
  shift 2
  for pid in "$@"; do
    read -r rss pss anon file < <(memory "$pid")
    all_rss+=("$rss") all_pss+=("$pss") all_anon+=("$anon") all_file+=("$file")
  done
  printf '| %s | %s | %s | %s | %s | %s | %s | %s |\n' "$what" "$goal" \
    "$(megabytes "$(median "${all_rss[@]}")")" "$(megabytes "$(most "${all_rss[@]}")")" \
    "$(megabytes "$(median "${all_pss[@]}")")" "$(megabytes "$(median "${all_anon[@]}")")" \
    "$(megabytes "$(median "${all_file[@]}")")" "$#" >>"$TABLE"
}

megabytes() { awk -v k="$1" 'BEGIN {printf "%.1f", k * 1024 / 1e6}'; }

# field KEY: its first value in the JSON on standard input.
field() { tr -d ' \n' | grep -o "\"$1\":\(\"[^\"]*\"\|[^,}]*\)" | head -1 | cut -d: -f2- | tr -d '"'; }
