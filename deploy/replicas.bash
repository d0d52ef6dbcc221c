# shellcheck shell=bash disable=SC2154
# What runs: the replicas, and how one release of them takes the place of another. A part of release.bash, which
# has `compose`, `project` and `balancer`.

declare -a started=() # by this script
leaving=''            # the replica that drains

# replicas <release>: the containers of that release; of every other one with a `!` before it. Stopped ones too.
replicas() {
  local id release
  docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=app --filter label=com.docker.compose.oneoff=False |
    while read -r id; do
      release=$(docker inspect -f '{{index .Config.Labels "lifeguard.release"}}' "$id" 2>/dev/null) || continue
      case $1 in
        all) ;;
        '!'*) [ "$release" != "${1#!}" ] || continue ;;
        *) [ "$release" = "$1" ] || continue ;;
      esac
      say "$id"
    done
}

# variable_of <container or image> <name>
variable_of() {
  docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' "$1" | sed -n "s/^$2=//p" | tail -n 1
}

# bury_dead: a replica that has ended would be started again, in place of a successor.
bury_dead() {
  local id
  for id in $(replicas all); do
    case $(docker inspect -f '{{.State.Status}}' "$id" 2>/dev/null) in
      exited | dead | created) docker rm -f "$id" >/dev/null ;;
    esac
  done
}

# ask <replica>: the status of its /readyz and its version, asked inside: those routes need not be public.
ask() { docker exec -i "$1" python -I -S - <deploy/ask_replica.py 2>/dev/null 9>&-; }

# is_ready <replica>: is it, or again within some seconds? One answer may be late on a machine that is busy.
is_ready() {
  local attempt
  for attempt in 1 2 3 4 5; do
    [[ $(ask "$1" || true) != 200* ]] || return 0
    [ "$attempt" = 5 ] || sleep 1
  done
  return 1
}

# servers: address and status of what HAProxy sends requests to, a line each.
servers() {
  docker exec "$balancer" bash -c \
    'exec 3<>/dev/tcp/127.0.0.1/8406; printf "GET /;csv HTTP/1.0\r\n\r\n" >&3; cat <&3' 2>/dev/null 9>&- |
    tr -d '\r' | awk -F, '
      /^# pxname/ { for (i = 1; i <= NF; i++) column[$i] = i; addressed = "addr" in column; next }
      addressed && $1 == "service" && $2 != "BACKEND" { print $column["addr"], $column["status"] }'
}

# serves <replica>: does HAProxy send it requests?
serves() {
  local address all
  all=$(servers)
  for address in $(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$1"); do
    if grep -q "^$address:[0-9]* UP" <<<"$all"; then return 0; fi
  done
  return 1
}

# until_it_serves <replica>: wait. Says why not.
until_it_serves() {
  local give_up=$((SECONDS + PATIENCE)) wanted said=''
  wanted=$(variable_of "$1" SERVICE_VERSION)
  while :; do
    case $(docker inspect -f '{{.State.Status}} {{.RestartCount}}' "$1" 2>/dev/null) in
      'running 0') ;;
      *) say 'it ends'; return 1 ;;
    esac
    said=$(ask "$1") || said=''
    if [ "${said%% *}" = 200 ]; then
      [ "${said#* }" = "${wanted:-unknown}" ] || { say "it says that its version is ${said#* }, not $wanted"; return 1; }
      if serves "$1"; then return 0; fi
    fi
    if [ "$SECONDS" -ge "$give_up" ]; then
      say "after $PATIENCE s $([ "${said%% *}" = 200 ] && echo 'HAProxy does not send it requests' || echo 'it is not ready')"
      return 1
    fi
    sleep 0.3
  done
}

# create <file> ...: containers as a plain `up` of the file would make them. For Compose v2 what they depend on is a
# part of that, which its --no-deps leaves out; 1.29 has no such `create`.
create() {
  case $("${COMPOSE[@]}" version --short) in
    1.*) compose "$1" up -d --no-deps "${@:2}" ;;
    *) compose "$1" create "${@:2}" ;;
  esac
}

# start_one <file>: one more replica, which serves. It is taken away again if it does not.
start_one() {
  local known why said successor
  local -a new
  known=$(replicas all)
  said=$(create "$1" --no-recreate --scale "app=$(($(wc -w <<<"$known") + 1))" app 2>&1) || say "$said" >&2
  mapfile -t new < <(replicas all | grep -vxF "${known:-none}" || true)
  successor=${new[0]:-}
  started+=("${new[@]}")
  if [ -z "$successor" ] || ! docker start "${new[@]}" >/dev/null; then
    say 'no successor could be started' >&2
    return 1
  fi
  if ! why=$(until_it_serves "$successor"); then
    last_lines "$successor" >&2
    say "The successor ${successor:0:12} was taken away: $why. Its last lines are above." >&2
    docker rm -f "$successor" >/dev/null || true
    return 1
  fi
  say "${successor:0:12} serves, version $(variable_of "$successor" SERVICE_VERSION)"
}

# last_lines <replica>: of its log, without those of HAProxy's and Docker's checks, which come twice a second.
last_lines() { { docker logs --tail 400 "$1" 2>&1 || true; } | { grep -v '"path": "/readyz"' || true; } | tail -n 20; }

# stop_one <replica>: it drains first, and has the time that it says it takes.
stop_one() {
  local seconds
  leaving=$1
  seconds=$(grace "$(variable_of "$1" DRAIN_DELAY)" "$(variable_of "$1" DRAIN_TIMEOUT)")
  docker stop -t "$seconds" "$1" >/dev/null 2>&1 9>&- || true # it may be gone
  docker rm -f "$1" >/dev/null 2>&1 || true
  leaving=''
  say "${1:0:12} has drained and is gone"
}

# finish_stopping: somebody interrupted it.
finish_stopping() { [ -z "$leaving" ] || stop_one "$leaving"; }

# grace <DRAIN_DELAY> <DRAIN_TIMEOUT>: seconds between a replica's SIGTERM and its end, 5 to spare.
grace() { awk -v delay="${1:-5}" -v timeout="${2:-20}" 'BEGIN { s = delay + timeout + 5; print s == int(s) ? s : int(s) + 1 }'; }

# first_unready <replica>...: the one to stop: one that does not serve anyway, or else the first.
first_unready() {
  local id
  for id; do
    [[ $(ask "$id" || true) == 200* ]] || { say "$id"; return; }
  done
  say "$1"
}

# roll <file> <release> <count> [settle]: until so many replicas of the release serve and there are no others.
# `settle` is called when one of them serves, before another is stopped.
roll() {
  local file=$1 release=$2 count=$3 settle=${4:-:} total one
  local -a fresh stale
  while :; do
    bury_dead
    mapfile -t fresh < <(replicas "$release")
    mapfile -t stale < <(replicas "!$release")
    total=$((${#fresh[@]} + ${#stale[@]}))
    if [ "${#fresh[@]}" -lt "$count" ] && [ "$total" -lt "$(places)" ] &&
      { [ "$total" -le "$count" ] || [ "${#fresh[@]}" = 0 ]; }; then
      start_one "$file" || return 1
      continue
    fi
    for one in "${fresh[@]}"; do
      if [[ " ${started[*]} " == *" $one "* ]] && ! is_ready "$one"; then
        say "${one:0:12}, which is new, does not serve any more" >&2
        return 1
      fi
    done
    "$settle" || return 1
    if [ "${#stale[@]}" -gt 0 ]; then
      stop_one "$(first_unready "${stale[@]}")"
    elif [ "${#fresh[@]}" -gt "$count" ]; then
      stop_one "$(first_unready "${fresh[@]}")"
    else
      return 0
    fi
  done
}

# places: for how many replicas HAProxy has places.
places() { sed -n 's/^ *server-template app \([0-9]*\) .*/\1/p' deploy/haproxy/haproxy.cfg; }
