-- Makes the roles with the least rights. A superuser runs it once, on the database of PG_DATABASE:
--   psql -d <database> -v schema=audit -v owner=audit_owner -v ingest=audit_ingest -f pipelines/warehouse/sql/roles.sql
-- Then \password audit_owner and \password audit_ingest, which are PG_OWNER_USER and PG_USER. The owner grants the rest at
-- the start of a run (grants.sql).
--
-- With -v reader=audit_reader, makes a role for people and dashboards who only read, too; without -v ingest=… it makes
-- that role alone, also when the tables are there, and as often as you like. The owner is then the role that owns them:
-- PG_OWNER_USER, or PG_USER.

\set ON_ERROR_STOP on
SELECT current_database() AS database \gset
\if :{?ingest}
CREATE ROLE :"owner" LOGIN;
CREATE ROLE :"ingest" LOGIN;
CREATE SCHEMA IF NOT EXISTS :"schema" AUTHORIZATION :"owner";
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"owner", :"ingest";
REVOKE CREATE ON DATABASE :"database" FROM :"ingest";
\endif

\if :{?reader}
BEGIN;
SELECT format('CREATE ROLE %I LOGIN', :'reader')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'reader')
\gexec
GRANT CONNECT ON DATABASE :"database" TO :"reader";
CREATE SCHEMA IF NOT EXISTS :"schema" AUTHORIZATION :"owner";
GRANT USAGE ON SCHEMA :"schema" TO :"reader";
-- What the owner makes from now on: a later release's tables, and a view that is replaced.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA :"schema" GRANT SELECT ON TABLES TO :"reader";
-- What is there. dlt's own tables, _dlt_…, are not for readers, but if their owner makes them later, the line above
-- gives them, too: until the next time that this runs.
SELECT format('GRANT SELECT ON %s TO %I', c.oid::regclass, :'reader')
FROM pg_class AS c
WHERE c.relnamespace = quote_ident(:'schema')::regnamespace AND c.relowner = quote_ident(:'owner')::regrole
    AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname ~ '^audit_'
UNION ALL
SELECT format('REVOKE ALL ON %s FROM %I', c.oid::regclass, :'reader')
FROM pg_class AS c
WHERE c.relnamespace = quote_ident(:'schema')::regnamespace AND c.relowner = quote_ident(:'owner')::regrole
    AND c.relkind = 'r' AND c.relname ~ '^_dlt_'
\gexec
-- The rights alone keep it from writing. These spare the others: nothing is written by mistake, and a transaction that a
-- tool leaves open does not hold up an upgrade of the tables.
ALTER ROLE :"reader" SET default_transaction_read_only = on;
ALTER ROLE :"reader" SET idle_in_transaction_session_timeout = '5min';
ALTER ROLE :"reader" IN DATABASE :"database" SET search_path = :"schema";
COMMIT;
\endif
