-- The loading role's rights where PG_OWNER_USER owns the tables (roles.sql makes both), each statement safe to repeat.
-- {schema} is PG_SCHEMA, {ingest} is PG_USER. No UPDATE, DELETE, TRUNCATE or DROP on events: what is loaded, stays.

-- CREATE is for dlt's own tables, _dlt_…, which are that role's.
GRANT USAGE, CREATE ON SCHEMA {schema} TO {ingest};

GRANT SELECT, INSERT ON {schema}.audit_logs, {schema}.audit_logs_quarantine, {schema}.audit_logs_rehydrated,
    {schema}.audit_completeness, {schema}.audit_seals TO {ingest};
