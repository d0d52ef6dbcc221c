# A copy of this checkout to try something in, sourced by the drills beside it. It goes when the drill ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck disable=SC2034 # the drills use it
checkout=$PWD

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files --cached --others --exclude-standard -z |
  while IFS= read -r -d '' path; do [ -e "$path" ] && printf '%s\0' "$path"; done |
  tar --create --null --files-from=- | tar --extract --directory="$copy"
cd "$copy"
