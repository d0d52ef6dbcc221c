#!/bin/sh
# The second role that the service logs in as, where deploy/rotate has put it in place: app_b, a member of app with
# its settings. The postgres image runs this once, on a new cluster. deploy/rotate runs it with the role whose
# password is to change in ROLE, and the file that has it in PASSWORD_FILE.
( # a subshell, because the image sources what is not executable
set -eu
role=${ROLE:-app_b}
export PASSWORD_FILE="${PASSWORD_FILE:-${SECRETS_DIR:-/run/secrets}/${role}_password}"
export PGHOST="${PGHOST:-/var/run/postgresql}" # where the image listens while it is set up
if [ -z "${ROLE:-}" ] && [ ! -e "$PASSWORD_FILE" ]; then exit 0; fi
[ -s "$PASSWORD_FILE" ] || { echo "$PASSWORD_FILE: the password of $role is not there" >&2; exit 1; }

# psql reads the file itself: in an argument, and in the server's log, the password would be seen.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-}" \
  --set role="$role" <<'SQL'
SET log_statement = none;
SET log_min_duration_statement = -1;
SET log_min_error_statement = panic;
SELECT :'role' = 'app_b' AS second \gset
\if :second
  SELECT format('CREATE ROLE %I IN ROLE app', :'role') WHERE to_regrole(:'role') IS NULL \gexec
  SELECT format('ALTER ROLE %I CONNECTION LIMIT %s', :'role', rolconnlimit) FROM pg_roles WHERE rolname = 'app' \gexec
  SELECT format('ALTER ROLE %I %s SET %s TO %L', :'role', 'IN DATABASE ' || quote_ident(datname),
                split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1))
    FROM pg_db_role_setting LEFT JOIN pg_database ON pg_database.oid = setdatabase, unnest(setconfig) setting
   WHERE setrole = 'app'::regrole \gexec
\endif
\set password `head -n 1 "$PASSWORD_FILE"`
ALTER ROLE :"role" LOGIN PASSWORD :'password';
SQL
)
