-- Makes the two roles for PG_OWNER_USER and PG_USER; a superuser runs it once, on the database of PG_DATABASE:
--   psql -d <database> -v schema=audit -v owner=audit_owner -v ingest=audit_ingest -f pipelines/warehouse/sql/roles.sql
-- Then \password audit_owner and \password audit_ingest. The owner grants the rest at the start of a run (grants.sql).

\set ON_ERROR_STOP on
CREATE ROLE :"owner" LOGIN;
CREATE ROLE :"ingest" LOGIN;
CREATE SCHEMA IF NOT EXISTS :"schema" AUTHORIZATION :"owner";
SELECT current_database() AS database \gset
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO :"owner", :"ingest";
REVOKE CREATE ON DATABASE :"database" FROM :"ingest";
