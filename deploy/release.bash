# shellcheck shell=bash
# What rolling-update, rollback, set, scale and rotate have in common; they source it. They need Docker with
# compose, bash, and what every Linux has.
#
# What runs is docker-compose.released.yml: docker-compose.yml as it was at the last change, every LIFEGUARD_
# variable filled in. `.env` names it as COMPOSE_FILE, so that a plain `docker compose up -d` finds nothing to do,
# whatever the checkout, `.env` and the shell say by then. In its head are the values that it was made of.
#
# Every change is the same: such a file is written for what is wanted, and replicas are started from it and
# stopped, one after the other, until only those of its release are left. It becomes the released file as soon as
# the first of them serves. Where something fails, the same is done with the file before. Until then compose
# refuses to read it: with replicas of two releases, a plain `up -d` would recreate all of them at once.
set -Eeuo pipefail
trap 'echo "$0: failed at line $LINENO of ${BASH_SOURCE[0]}" >&2' ERR
cd "$(dirname "${BASH_SOURCE[0]}")/.."
umask 077
export LIFEGUARD_UNDER_WAY=yes # we may read it
export DOCKER_BUILDKIT="${DOCKER_BUILDKIT:-1}" COMPOSE_DOCKER_CLI_BUILD=1

PATIENCE=60 # seconds for a successor to serve
RELEASED=docker-compose.released.yml
STATE=deploy/state
BEFORE=$STATE/before.yml
NEXT=$STATE/next.yml
# In the place of the image, in the released file. After a `kill -9` it stays there.
# shellcheck disable=SC2016 # it is compose's
UNDER_WAY='${LIFEGUARD_UNDER_WAY:?a release is under way, or was broken off; run its script again}'
# Of docker-compose.yml's variables those that are not the scripts' own: where things are, and what is around.
mapfile -t SURROUNDINGS < <(grep -oE 'LIFEGUARD_[A-Z_0-9]+' docker-compose.yml | sort -u |
  grep -vxE 'LIFEGUARD_(IMAGE|VERSION|REVISION|REPLICAS|ROLE|RELEASE|GRACE|DATABASE_URL|REPLICA_URL)')

declare -A state=() # LIFEGUARD_ variables of docker-compose.yml, and variables of the service
project='' balancer=''
at_work='' settled='' adopted='' made_tag=''

if docker compose version >/dev/null 2>&1; then COMPOSE=(docker compose); else COMPOSE=(docker-compose); fi

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# shellcheck source=deploy/replicas.bash
. deploy/replicas.bash

# --- what is wanted: the file ------------------------------------------------------------------------------------

# dotenv <name>: what .env says.
dotenv() {
  [ ! -f .env ] || sed -n "s/^$1=//p" .env | tail -n 1 | sed "s/^\([\"']\)\(.*\)\1\$/\2/"
}

# compose <file> ...: compose, with that file in the place of docker-compose.yml.
compose() {
  local files one
  files=${COMPOSE_FILE:-$(dotenv COMPOSE_FILE)}
  if [ -z "$files" ]; then
    files=docker-compose.yml
    [ ! -f docker-compose.override.yml ] || files+=:docker-compose.override.yml
  fi
  files=${files//$RELEASED/docker-compose.yml}
  local -a list arguments=()
  IFS=: read -ra list <<<"${files//docker-compose.yml/$1}"
  for one in "${list[@]}"; do arguments+=(-f "$one"); done
  "${COMPOSE[@]}" --project-directory "$PWD" "${arguments[@]}" "${@:2}" 9>&-
}

# read_state <file>: the values that it was made of.
read_state() {
  local line
  state=()
  while IFS= read -r line; do
    [[ $line == '#: '* ]] || continue
    line=${line#'#: '}
    state[${line%%=*}]=${line#*=}
  done <"$1"
}

# write_state <file>: docker-compose.yml with those values. Nothing is left to be built: a plain `up --build` would
# replace every replica at once.
write_state() {
  local name
  (
    say '# What runs. Written by deploy/rolling-update, rollback, set, scale and rotate: not to be edited.'
    say '# It may hold a password, if a URL does. What is not in it goes back to the default at the next change.'
    for name in "${!state[@]}"; do
      printf '#: %s=%s\n' "$name" "${state[$name]}"
    done | sort
    for name in "${!state[@]}"; do
      if [[ $name == LIFEGUARD_* ]]; then printf -v "$name" %s "${state[$name]}"; export "${name?}"; fi
    done
    VARIABLES=$(variables) awk '
      function escaped(text) { gsub(/\$/, "$$", text); return text }
      function quoted(text) { gsub(/\047/, "\047\047", text); return "\047" escaped(text) "\047" }
      function filled(line,    out, inside, at, name, value) {
        while (match(line, /\$\{LIFEGUARD_[A-Z_0-9]+(:-[^}]*)?\}/)) {
          inside = substr(line, RSTART + 2, RLENGTH - 3)
          at = index(inside, ":-")
          name = at ? substr(inside, 1, at - 1) : inside
          value = ENVIRON[name] != "" ? ENVIRON[name] : at ? substr(inside, at + 2) : ""
          out = out substr(line, 1, RSTART - 1) escaped(value)
          line = substr(line, RSTART + RLENGTH)
        }
        return out line
      }
      # A replica logs in as the role that deploy/rotate has put in place.
      function as_role(url) { gsub(/\/\/app(_b)?@/, "//" ENVIRON["LIFEGUARD_ROLE"] "@", url); return url }
      BEGIN {
        while (split(ENVIRON["VARIABLES"], lines, "\n") > given) {
          line = lines[++given]; at = index(line, "=")
          if (at) { names[given] = substr(line, 1, at - 1); own[names[given]] = substr(line, at + 1) }
        }
      }
      { match($0, /^ */); indent = RLENGTH; trimmed = substr($0, indent + 1) }
      skipping && (trimmed == "" || indent > skipping) { next }
      { skipping = 0 }
      trimmed ~ /^build:/ { skipping = indent; next }
      indent <= 2 && trimmed ~ /^[a-z]/ { in_app = $0 ~ /^  app:/ }
      indent <= 4 && trimmed ~ /^[a-z]/ { in_environment = 0 }
      in_app && /^    environment:/ {
        in_environment = 1
        print
        for (n = 1; n <= given; n++) if (n in names) {
          value = own[names[n]]
          if (names[n] ~ /^DATABASE_(REPLICA_)?URL$/) value = as_role(value)
          print "      " names[n] ": " quoted(value)
        }
        next
      }
      {
        line = filled($0)
        if (match(trimmed, /^[A-Z_0-9]+:/)) {
          name = substr(trimmed, 1, RLENGTH - 1)
          if (in_environment && name in own) next
          # Quoted, because `off` would be no text, and nothing would be what compose itself has.
          if (trimmed ~ /: \$\{LIFEGUARD_[^}]*\}( +#.*)?$/) {
            match(trimmed, /\$\{[^}]*\}/)
            value = unescaped(filled(substr(trimmed, RSTART, RLENGTH)))
            line = substr($0, 1, indent) name ": " quoted(as_role(value))
          }
        }
        print line
      }
      function unescaped(text) { gsub(/\$\$/, "$", text); return text }
    ' docker-compose.yml
  ) >"$1"
  # awk stops at nothing: see that what is wanted is there.
  compose "$1" config --quiet || die "docker-compose.yml cannot be used"
}

# variables: those of the service that somebody has set, a line each.
variables() {
  local name
  for name in "${!state[@]}"; do
    if [[ $name != LIFEGUARD_* ]]; then printf '%s=%s\n' "$name" "${state[$name]}"; fi
  done | sort
}

# check_settings [NAME...]: would the wanted release start with its variables, and does it know these?
# shellcheck disable=SC2120 # most have no names
check_settings() {
  local said
  if ! said=$(compose "$NEXT" run --rm --no-deps -T --entrypoint python app -c "$(cat deploy/check_settings.py)" "$@" \
    2>&1 </dev/null); then
    say "$said" | grep -v '^Creating \|^ Container \|^[0-9]*$' >&2
    return 1
  fi
}

# --- a change ----------------------------------------------------------------------------------------------------

# lock: nobody else is at work.
lock() {
  mkdir -p "$STATE"
  exec 9>>"$STATE/lock"
  flock -n 9 || die "another of these scripts is at work, process $(cat "$STATE/lock")"
  echo $$ >"$STATE/lock"
}

# begin: nobody else is at work; what runs is known, in `state` and $BEFORE.
begin() {
  lock
  balancer=$(compose "$(now)" ps -q haproxy)
  if [ -z "$balancer" ] || [ "$(docker inspect -f '{{.State.Running}}' "$balancer")" != true ]; then
    is_over
    die 'HAProxy does not run; docker compose up starts everything'
  fi
  project=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$balancer")
  if [ -z "$(servers)" ]; then
    [ ! -f "$RELEASED" ] || die "HAProxy runs and does not answer; docker restart ${balancer:0:12}"
    die "HAProxy runs with a configuration from before these scripts: once, and with a gap, docker compose up -d --build"
  fi
  if [ -f "$RELEASED" ]; then
    read_state "$RELEASED"
    plain "$RELEASED" >"$BEFORE"
  else
    adopt
  fi
  look_around
  trap undo EXIT
  trap '' PIPE
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

# plain <file>: it, as anybody may use it.
plain() {
  local image
  image=$(sed -n 's/^#: LIFEGUARD_IMAGE=//p' "$1")
  sed "s|^  image: .*LIFEGUARD_UNDER_WAY.*|  image: $image|" "$1"
}

# is_over: nobody is served, so a release that was broken off is over, and compose may start what it put in place.
is_over() {
  [ -f "$RELEASED" ] || return 0
  plain "$RELEASED" >"$RELEASED.new" && mv -f "$RELEASED.new" "$RELEASED"
}

# now: what compose reads.
now() { if [ -f "$RELEASED" ]; then say "$RELEASED"; else say docker-compose.yml; fi; }

# adopt: what runs was started by compose alone. Its image gets a name that stays.
adopt() {
  local one image url
  local -a running
  adopted=yes
  mapfile -t running < <(replicas all)
  one=${running[0]:-}
  [ -n "$one" ] || die 'no replica runs; docker compose up starts everything'
  image=$(docker inspect -f '{{.Image}}' "$one")
  state[LIFEGUARD_IMAGE]=$(repository "$(docker inspect -f '{{.Config.Image}}' "$one")"):was-$(short "$image")
  docker tag "$image" "${state[LIFEGUARD_IMAGE]}"
  state[LIFEGUARD_REPLICAS]=${#running[@]}
  state[LIFEGUARD_ROLE]=app
  state[LIFEGUARD_RELEASE]=''
  for url in DATABASE_URL DATABASE_REPLICA_URL; do
    state[$url]=$(variable_of "$one" "$url")
    grep -qF ":-${state[$url]}}" docker-compose.yml && unset "state[$url]"
  done
  write_state "$BEFORE"
}

# look_around: what the environment says now, or .env, about where things are.
look_around() {
  local name value
  for name in "${SURROUNDINGS[@]}"; do
    value=${!name:-$(dotenv "$name")}
    [[ $value =~ ^[A-Za-z0-9_./:@~-]*$ ]] || die "$name=$value: only letters, digits and _./:@~- can be used"
    if [ -n "$value" ]; then state[$name]=$value; fi
  done
  accept DATABASE_URL LIFEGUARD_DATABASE_URL
  accept DATABASE_REPLICA_URL LIFEGUARD_REPLICA_URL
}

# accept <variable> <variable of compose>: the second is what `docker compose up` takes at the first start.
accept() {
  if [ -n "${!2+set}" ]; then
    set_variable "$1" "${!2}"
  elif [ -z "${state[$1]+set}" ] && [ -n "$(dotenv "$2")" ]; then
    set_variable "$1" "$(dotenv "$2")"
  fi
}

# set_variable <name> <value>: of the service; without a value its default again.
set_variable() {
  [[ $2 != *[[:cntrl:]]* ]] || die "$1: the value must be one line"
  if [ -n "$2" ]; then state[$1]=$2; else unset "state[$1]"; fi
}

repository() { case ${1##*/} in *:*) say "${1%:*}" ;; *) say "$1" ;; esac; }
short() { local id=${1#sha256:}; say "${id:0:12}"; }

# wanted: write $NEXT, for a release of its own.
wanted() {
  state[LIFEGUARD_RELEASE]=$(date -u +%Y%m%dT%H%M%SZ)-$$
  state[LIFEGUARD_GRACE]=$(grace "${state[DRAIN_DELAY]:-}" "${state[DRAIN_TIMEOUT]:-}")s
  write_state "$NEXT"
}

# release: put what $NEXT says in the place of what runs.
release() {
  [ "${state[LIFEGUARD_REPLICAS]}" -lt "$(places)" ] ||
    die "HAProxy has $(places) places, and one is for the successor: at most $(($(places) - 1)) replicas"
  at_work=yes
  put_under_way "$BEFORE"
  name_in_dotenv
  roll "$NEXT" "${state[LIFEGUARD_RELEASE]}" "${state[LIFEGUARD_REPLICAS]}" settle || exit 1
  put "$NEXT"
  at_work=''
  # The one-shot is of the release as well: Compose v2 would recreate it, and restart what depends on it, which is all.
  create "$RELEASED" migrate >/dev/null 2>&1 || say "'docker compose up -d' will restart everything" >&2
  report_others
}

# settle: from now on it is the release.
settle() {
  [ -z "$settled" ] || return 0
  settled=yes
  put_under_way "$NEXT"
}

# put <file>: make it the released one, at once.
put() { cp "$1" "$RELEASED.new" && mv -f "$RELEASED.new" "$RELEASED"; }

# put_under_way <file>: the same, but nobody else may use it yet.
put_under_way() {
  awk -v image="$UNDER_WAY" '/^  image: / && !done { $0 = "  image: " image; done = 1 } { print }' "$1" >"$1.under-way" &&
    mv -f "$1.under-way" "$RELEASED"
}

name_in_dotenv() {
  local files
  files=$(dotenv COMPOSE_FILE)
  case $files in
    *"$RELEASED"*) return 0 ;;
    '') files=$RELEASED; [ ! -f docker-compose.override.yml ] || files+=:docker-compose.override.yml ;;
    *) files=${files//docker-compose.yml/$RELEASED} ;;
  esac
  { { [ ! -f .env ] || sed '/^COMPOSE_FILE=/d' .env; } && say "COMPOSE_FILE=$files"; } >.env.new && mv -f .env.new .env
}

# undo: at the end. Where a change was broken off, everything is as before.
undo() {
  local code=$?
  trap '' INT TERM HUP PIPE
  set +e
  if [ -n "$at_work" ]; then
    [ "$code" != 0 ] || code=1
    say 'Everything goes back to what it was.' >&2 || exec >>"$STATE/log" 2>&1 # the terminal is gone
    finish_stopping >&2
    read_state "$BEFORE"
    if roll "$BEFORE" "${state[LIFEGUARD_RELEASE]}" "${state[LIFEGUARD_REPLICAS]}" >&2; then
      put_back || say "$RELEASED cannot be written: run a script again when that is mended." >&2
      say 'The version before goes on.' >&2
    else
      put_under_way "$BEFORE"
      say 'Not all replicas of the version before could be started: see above. Run a script again when that is mended.' >&2
    fi
    undo_more
  fi
  [ -z "$made_tag" ] || [ "$code" = 0 ] || docker rmi "$made_tag" >/dev/null 2>&1
  rm -f "$NEXT" "$BEFORE"
  exit "$code"
}

undo_more() { :; } # for the scripts

# put_back: the released file of before, or none.
put_back() {
  if [ -z "$adopted" ]; then
    put "$BEFORE"
  else
    rm -f "$RELEASED"
    sed -i "s/$RELEASED/docker-compose.yml/; /^COMPOSE_FILE=docker-compose.yml\$/d" .env
    [ -s .env ] || rm -f .env
  fi
}

# report_others: what the next plain `up` would recreate, because its definition is another now.
report_others() {
  local changed
  changed=$(diff <(compose "$BEFORE" config --hash '*' 2>/dev/null) <(compose "$RELEASED" config --hash '*' 2>/dev/null) |
    sed -n 's/^> \([a-z]*\).*/\1/p' | grep -vxE 'app|migrate|secrets' | tr '\n' ' ') || true
  [ -z "$changed" ] ||
    say "docker-compose.yml has changed these as well: $changed- 'docker compose up -d' will recreate them, with a gap"
}
