CREATE TABLE tenants (
    name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,30}$')
);

CREATE SCHEMA tenant_ada;
CREATE TABLE tenant_ada.notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL);
CREATE SCHEMA tenant_grace;
CREATE TABLE tenant_grace.notes (LIKE tenant_ada.notes INCLUDING ALL);
INSERT INTO tenants VALUES ('ada'), ('grace');
