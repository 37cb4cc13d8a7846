-- The questions of pipelines/warehouse/status.py. {schema} is PG_SCHEMA, {pipelines} a regular expression of dlt's names
-- of the warehouse's pipelines. Each costs what lies in its window of time, however long the history is.

-- [tables]
-- By the catalog, which everyone may read: to_regclass asks for the right to use the schema.
SELECT count(*) FILTER (WHERE relname = 'audit_logs') > 0 AS events, count(*) FILTER (WHERE relname = '_dlt_loads') > 0 AS loads,
    count(*) FILTER (WHERE relname IN ('_dlt_loads', '_dlt_pipeline_state')) = 2 AS states
FROM pg_class WHERE relnamespace = to_regnamespace('{schema}');

-- [states]
-- Of each pipeline the newest one whose load is complete, as dlt takes it. pruning.sql keeps them few.
SELECT DISTINCT ON (s.pipeline_name) s.state FROM {schema}._dlt_pipeline_state AS s
JOIN {schema}._dlt_loads AS l ON l.load_id = s._dlt_load_id AND l.status = 0
WHERE s.pipeline_name ~ '{pipelines}' ORDER BY s.pipeline_name, l.load_id DESC;

-- [last load]
SELECT max(inserted_at) AS at FROM {schema}._dlt_loads WHERE status = 0;

-- [lag]
-- Parameters: account, version, the safety lag in seconds. The time that events took to come, of the newest 10,000 of the
-- last 7 days. `reached` is the newest event that was loaded a minute before: the cursor that an event found. The minute
-- is for windows that are read backwards (CLOUDFLARE_DIRECTION=desc). A catch-up, a first start and a backfill must not count:
--   no event counts that happened before the first load;
--   an event that the cursor had passed counts: it was looked for, and not there;
--   any other counts only if it came within 15 minutes: the loader may have been down;
--   a time beyond 15 minutes counts only if something was loaded in the 15 minutes before: else the loader was down.
SELECT count(delay) AS events,
    coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY delay), 0) AS median,
    coalesce(percentile_disc(0.999) WITHIN GROUP (ORDER BY delay), 0) AS nearly_all,
    count(*) FILTER (WHERE passed_by > $3) AS late
FROM (
    SELECT extract(epoch FROM reached - "timestamp")::float8 AS passed_by,
        CASE WHEN ran OR ingestion_time - "timestamp" <= INTERVAL '15 minutes'
            THEN extract(epoch FROM ingestion_time - "timestamp")::float8 END AS delay
    FROM (
        SELECT "timestamp", ingestion_time, min(ingestion_time) OVER () AS begun, max("timestamp") OVER (
            ORDER BY ingestion_time RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL '60 seconds' PRECEDING
        ) AS reached, count(*) OVER (
            ORDER BY ingestion_time RANGE BETWEEN INTERVAL '15 minutes' PRECEDING AND INTERVAL '60 seconds' PRECEDING
        ) > 0 AS ran
        FROM (
            SELECT "timestamp", ingestion_time FROM {schema}.audit_logs
            WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= now() - INTERVAL '7 days'
            ORDER BY "timestamp" DESC LIMIT 10000
        ) AS newest
    ) AS newest
    WHERE "timestamp" >= begun AND (reached > "timestamp" OR ingestion_time - "timestamp" <= INTERVAL '15 minutes')
) AS counted;

-- [today]
SELECT count(*) AS events FROM {schema}.audit_logs
WHERE account_id = $1 AND api_version = $2 AND "timestamp" >= date_trunc('day', now(), 'UTC');

-- [compared]
SELECT count(DISTINCT hour) AS hours FROM {schema}.audit_completeness
WHERE account_id = $1 AND api_version = $2 AND hour >= now() - INTERVAL '90 days';

-- [open gaps]
-- Reads the checks that found a gap by their own index, and of each such hour the newest check by the key.
SELECT account_id, api_version, hour, missing_in_warehouse, missing_in_lake, doubled_in_lake, coalesce(differing, 0) AS differing
FROM {schema}.audit_completeness AS gap
WHERE status = 'gap' AND checked_at = (
    SELECT max(newest.checked_at) FROM {schema}.audit_completeness AS newest
    WHERE newest.account_id = gap.account_id AND newest.api_version = gap.api_version AND newest.hour = gap.hour
)
ORDER BY hour DESC LIMIT 10000;

-- [quarantined]
SELECT count(*) AS events FROM (
    SELECT FROM {schema}.audit_logs_quarantine WHERE account_id = $1 AND api_version = $2 LIMIT 10000
) AS quarantined;

-- [size]
SELECT pg_total_relation_size('{schema}.audit_logs') AS bytes, greatest(reltuples, 0)::bigint AS estimated_events
FROM pg_class WHERE oid = '{schema}.audit_logs'::regclass;

-- [size, hypertable]
SELECT hypertable_size('{schema}.audit_logs') AS bytes, approximate_row_count('{schema}.audit_logs') AS estimated_events;

-- [rights]
-- The maker of tables needs the right to do so in the schema, or to make that; the loading role makes dlt's.
SELECT CASE WHEN n.oid IS NULL THEN has_database_privilege('{maker}', current_database(), 'CREATE')
        ELSE has_schema_privilege('{maker}', n.oid, 'CREATE') END AS may_make_tables,
    n.oid IS NULL OR has_schema_privilege(n.oid, 'CREATE') AS may_make_own
FROM (SELECT to_regnamespace('{schema}')::oid AS oid) AS n;
