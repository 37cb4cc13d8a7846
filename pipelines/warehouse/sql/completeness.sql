-- The questions of pipelines/warehouse/reads.py. {schema} is PG_SCHEMA. Parameters: account, version, since, before.
-- Events that PostgreSQL refused lie in the quarantine; with {is_nowhere_else}, each counts once.

-- [tallies]
-- The sum is that of pipelines/lake/key_tallies.py. By the key's index alone: no event is read.
SELECT floor(extract(epoch FROM "timestamp") / 3600)::bigint AS hour, count(*) AS events, sum(('x0' || left(
    md5(event_id || ' ' || (extract(epoch FROM "timestamp") * 1000000)::bigint), 15))::bit(64)::bigint)::text AS digest
FROM (
    SELECT event_id, "timestamp" FROM {schema}.audit_logs
    WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= $3 AND "timestamp" < $4
    UNION ALL
    SELECT event_id, "timestamp" FROM {schema}.audit_logs_quarantine AS q
    WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= $3 AND "timestamp" < $4 AND {is_nowhere_else}
) AS keys
GROUP BY 1;

-- [days]
-- Parameters: account, since, before. The days (UTC) with an event of any version, or with one when they were last found
-- complete. One look into the key's index for each day that has events, not one for each event.
WITH RECURSIVE found AS (
    SELECT (SELECT min("timestamp") FROM {schema}.audit_logs
            WHERE account_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3) AS at
    UNION ALL
    SELECT (SELECT min("timestamp") FROM {schema}.audit_logs
            WHERE account_id = $1 AND "timestamp" >= date_trunc('day', at, 'UTC') + INTERVAL '24 hours' AND "timestamp" < $3)
    FROM found WHERE at IS NOT NULL
)
SELECT date_trunc('day', at, 'UTC') AS day FROM found WHERE at IS NOT NULL
UNION
SELECT date_trunc('day', "timestamp", 'UTC') FROM {schema}.audit_logs_quarantine
WHERE account_id = $1 AND "timestamp" >= $2 AND "timestamp" < $3
UNION
SELECT date_trunc('day', hour, 'UTC') FROM {schema}.audit_completeness
WHERE account_id = $1 AND hour >= $2 AND hour < $3 AND status = 'complete'
    AND greatest(api_events, warehouse_events, lake_events) > 0;

-- [keys]
SELECT event_id, "timestamp" FROM {schema}.audit_logs
WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= $3 AND "timestamp" < $4
UNION ALL
SELECT event_id, "timestamp" FROM {schema}.audit_logs_quarantine AS q
WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= $3 AND "timestamp" < $4 AND {is_nowhere_else};

-- [events]
SELECT {columns} FROM {schema}.audit_logs
WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= $3 AND "timestamp" < $4;

-- [quarantined digests]
-- Without those that PostgreSQL alone refused: they have a time.
SELECT digest FROM {schema}.audit_logs_quarantine
WHERE account_id = $1 AND api_version = $2 AND "timestamp" IS NULL;

-- [quarantined]
SELECT {quarantined} FROM {schema}.audit_logs_quarantine
WHERE account_id = $1 AND api_version = $2 AND digest = ANY (string_to_array($3, ','));

-- [known events]
SELECT DISTINCT ON (hour) hour, greatest(api_events, warehouse_events, lake_events) AS events
FROM {schema}.audit_completeness
WHERE account_id = $1 AND api_version = $2 AND hour >= $3 AND hour < $4 AND status = 'complete'
ORDER BY hour, checked_at DESC;

-- [latest checks]
SELECT DISTINCT ON (hour) hour, checked_at, status, api_events, api_digest FROM {schema}.audit_completeness
WHERE account_id = $1 AND api_version = $2 AND hour >= $3 AND hour < $4
ORDER BY hour, checked_at DESC;
