-- The deletion of cloudflare-audit rehydrate --drop. {schema} is PG_SCHEMA. Parameters: account, since, before.

-- [delete some events]
WITH deleted AS (
    DELETE FROM {schema}.audit_logs_rehydrated WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.audit_logs_rehydrated
        WHERE account_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3 LIMIT 10000
    )) RETURNING 1
)
SELECT count(*) AS events FROM deleted;
