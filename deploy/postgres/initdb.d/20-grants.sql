-- What the roles may do in the service's database, and what their sessions are limited to: the one list of it, for
-- compose, both Kubernetes examples, and by hand. Run it there as a superuser, or as the owner of the database who
-- has made the roles; after them, and before the first migration. To run it again does no harm.
-- tests/deploy/test_privileges.py lists what is left to each role.

-- The service's defaults (lifeguard.settings), for whoever logs in by hand and behind poolers that drop what it says.
ALTER ROLE migrator SET lock_timeout = '3s';
ALTER ROLE app SET statement_timeout = '10s';
ALTER ROLE app SET lock_timeout = '3s';
ALTER ROLE app SET idle_in_transaction_session_timeout = '30s';

DO $$
DECLARE
    role name;
BEGIN
    -- On managed servers nobody is a superuser: only its members may speak for migrator below.
    IF NOT pg_has_role('migrator', 'USAGE') THEN
        GRANT migrator TO CURRENT_USER;
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ('migrator', 'app', 'monitor') LOOP
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
    END LOOP;
END $$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO migrator;
GRANT USAGE ON SCHEMA public TO app;

-- What migrator makes from now on, app can use: a revision needs no grants. A revision that wants less for its
-- tables takes it away (docs/security.md).
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT USAGE ON SEQUENCES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT EXECUTE ON ROUTINES TO app;

-- What only a superuser can take away.
DO $$
DECLARE
    role name;
    function regprocedure;
BEGIN
    IF NOT current_setting('is_superuser')::bool THEN
        RAISE NOTICE 'not a superuser: large objects, sleeping, session locks and temporary files stay as they are';
        RETURN;
    END IF;
    -- Everybody may execute these, and the service does not: large objects and messages in the WAL fill the disk,
    -- the others hold a session or its locks beyond a transaction, write files, or end sessions of the same role.
    -- Who needs one for a feature grants it here, to app.
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND (proname ~ '^lo_' OR proname IN (
            'loread', 'lowrite', 'pg_logical_emit_message', 'pg_export_snapshot',
            'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', 'pg_cancel_backend', 'pg_terminate_backend',
            'pg_advisory_lock', 'pg_advisory_lock_shared', 'pg_try_advisory_lock', 'pg_try_advisory_lock_shared',
            'pg_advisory_unlock', 'pg_advisory_unlock_shared'))
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', function);
    END LOOP;
    -- By which a transaction that only reads waits for the synchronous standby: confirm_reads().
    FOR function IN -- whose arguments differ between versions
        SELECT oid FROM pg_proc
        WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO app', function);
    END LOOP;
    -- By which migrations wait for each other.
    GRANT EXECUTE ON FUNCTION pg_try_advisory_lock(bigint), pg_advisory_unlock(bigint) TO migrator;
    -- A role may raise its own timeouts, but not this: what sorts and joins of one session may have on disk.
    FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ('app', 'monitor') LOOP
        EXECUTE format('ALTER ROLE %I SET temp_file_limit = %L', role, '256MB');
    END LOOP;
END $$;
