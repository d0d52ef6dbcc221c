-- What the roles may do in the service's database. Run it there as the database's owner or a superuser, after
-- the roles exist and before the first migration. To run it again does no harm.

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
-- tables takes it away, as migrations/versions/0001_ledger.py does.
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT USAGE ON SEQUENCES TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE migrator IN SCHEMA public GRANT EXECUTE ON ROUTINES TO app;
