#!/bin/sh
# The login roles, each with the password that is in a file of its own. The postgres image runs this once,
# on a new cluster; docs/security.md says how to run it by hand, which is also how a password is changed.
#
#   migrator     owns the schema's objects; `python -m app migrate`
#   app          the service
#   replicator   streams to standbys       } only where its
#   monitor      reads statistics only     } file exists
( # a subshell, because the image sources what is not executable
set -eu
secrets=${SECRETS_DIR:-/run/secrets}
export PGHOST="${PGHOST:-/var/run/postgresql}" # where the image listens while it is set up

query() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 ${POSTGRES_USER:+--username "$POSTGRES_USER"} \
    --dbname "${POSTGRES_DB:-}" "$@"
}

# psql reads the file itself: in an argument the password would be seen in the list of processes.
role() {
  file=$secrets/$1_password
  [ -s "$file" ] || { echo "$file: the password of $1 is not there" >&2; exit 1; }
  PASSWORD_FILE=$file query --set role="$1" <<'SQL'
SELECT format('CREATE ROLE %I', :'role') WHERE to_regrole(:'role') IS NULL \gexec
SELECT current_setting('is_superuser') AS superuser \gset
\if :superuser
  SET log_statement = none;
  SET log_min_duration_statement = -1;
  SET log_min_error_statement = panic;
\endif
\set password `cat "$PASSWORD_FILE"`
ALTER ROLE :"role" LOGIN PASSWORD :'password';
SQL
}

role migrator
role app
query <<'SQL'
-- Each role has one database to connect to, which 20-grants.sql says.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
SQL
# A database that somebody makes later lets everybody in: these roles do not get that far. In the image; elsewhere
# that is said where the server is configured.
if [ -n "${PGDATA:-}" ] && ! grep -q '^host all +app,+migrator,monitor ' "$PGDATA/pg_hba.conf"; then
  before=$(cat "$PGDATA/pg_hba.conf")
  cat > "$PGDATA/pg_hba.conf" <<CONF
host "$POSTGRES_DB" +app,+migrator,monitor all scram-sha-256
host all +app,+migrator,monitor all reject
$before
CONF
fi

if [ -e "$secrets/monitor_password" ]; then
  role monitor
  query <<'SQL'
GRANT pg_monitor TO monitor;
ALTER ROLE monitor CONNECTION LIMIT 5;
ALTER ROLE monitor SET default_transaction_read_only = on;
ALTER ROLE monitor SET statement_timeout = '5s';
SQL
fi

if [ -e "$secrets/replicator_password" ]; then
  role replicator
  query --command 'ALTER ROLE replicator REPLICATION'
  # In the image; elsewhere that is said where the server is configured.
  if [ -n "${PGDATA:-}" ] && ! grep -q '^host replication replicator ' "$PGDATA/pg_hba.conf"; then
    echo 'host replication replicator all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  fi
fi
)
