-- The deletions of cloudflare-audit retention. {schema} is PG_SCHEMA, {oldest} the time before which events are deleted.

-- [count events]
SELECT count(*) FROM {schema}.audit_logs WHERE "timestamp" < '{oldest}';

-- [delete some events]
-- By way of the index on the time, so that each turn costs the same however large the table is.
WITH deleted AS (
    DELETE FROM {schema}.audit_logs WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.audit_logs WHERE "timestamp" < '{oldest}' ORDER BY "timestamp" LIMIT 10000
    )) RETURNING 1
)
SELECT count(*) FROM deleted;

-- [count chunks]
SELECT count(*) FROM show_chunks('{schema}.audit_logs', older_than => '{oldest}'::timestamptz);

-- [drop chunks]
SELECT count(*) FROM drop_chunks('{schema}.audit_logs', older_than => '{oldest}'::timestamptz);
