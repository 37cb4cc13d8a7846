-- The lake as DuckDB sees it: `.read pipelines/sql/lake.sql` in its shell, after
--     SET VARIABLE lake = 'data/lake/cloudflare';            -- a folder
--     SET VARIABLE lake = 's3://bucket/prefix/cloudflare';   -- a bucket, with a secret of type s3
-- or `python pipelines/ask.py "SELECT …"`, which does both. Times are shown in UTC.

SET TimeZone = 'UTC';

-- The events. What is not named is not read: FROM audit_logs() lists and reads all of the lake,
-- audit_logs('<account>') one account, audit_logs('<account>', '2026-11-20') one folder, and a day may be a pattern,
-- '2026-11-*'. Besides the columns of the events: account, date and hour, those of the path.
-- Where nothing is, the answer is empty: DuckDB has one column then, `empty`, beside which ours are named.
CREATE OR REPLACE MACRO audit_logs(account_id := '*', day := '*') AS TABLE
    SELECT COLUMNS(lambda name: name <> 'empty') FROM (
        SELECT NULL::VARCHAR AS event_id, NULL::TIMESTAMPTZ AS "timestamp", NULL::VARCHAR AS account_id,
            NULL::VARCHAR AS api_version, NULL::VARCHAR AS action_type, NULL::VARCHAR AS action_result,
            NULL::VARCHAR AS actor_id, NULL::VARCHAR AS actor_email, NULL::VARCHAR AS actor_type,
            NULL::VARCHAR AS actor_context, NULL::VARCHAR AS ip_address, NULL::VARCHAR AS resource_type,
            NULL::VARCHAR AS resource_id, NULL::VARCHAR AS resource_product, NULL::VARCHAR AS zone_id,
            NULL::VARCHAR AS zone_name, NULL::VARCHAR AS metadata, NULL::VARCHAR AS raw_event,
            NULL::TIMESTAMPTZ AS ingestion_time, NULL::VARCHAR AS account, NULL::DATE AS date, NULL::TINYINT AS hour
        WHERE false
        UNION ALL BY NAME
        FROM read_parquet(
            getvariable('lake') || '/audit_logs/account=' || account_id || '/date=' || day || '/hour=*/events.parquet',
            hive_partitioning = true, hive_types = {'account': VARCHAR, 'date': DATE, 'hour': TINYINT},
            allow_empty = true));

-- What could not be placed: no readable time, or no event.
CREATE OR REPLACE MACRO audit_logs_quarantine(account_id := '*') AS TABLE
    SELECT COLUMNS(lambda name: name <> 'empty') FROM (
        SELECT NULL::VARCHAR AS digest, NULL::VARCHAR AS account_id, NULL::VARCHAR AS api_version,
            NULL::TIMESTAMPTZ AS received_at, NULL::VARCHAR AS reason, NULL::VARCHAR AS event_id,
            NULL::TIMESTAMPTZ AS "timestamp", NULL::VARCHAR AS raw_event, NULL::VARCHAR AS account
        WHERE false
        UNION ALL BY NAME
        FROM read_parquet(
            getvariable('lake') || '/audit_logs_quarantine/account=' || account_id || '/events.parquet',
            hive_partitioning = true, hive_types = {'account': VARCHAR}, allow_empty = true));
