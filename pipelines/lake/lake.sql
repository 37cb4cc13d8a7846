-- The lake as DuckDB sees it: `.read pipelines/lake/lake.sql` in its shell, after
--     SET VARIABLE lake = 'data/lake/cloudflare';            -- a folder
--     SET VARIABLE lake = 's3://bucket/prefix/cloudflare';   -- a bucket, with a secret of type s3
-- or `cloudflare-audit ask "SELECT …"`, which does both, and reads the copies of whole days. Times are shown in UTC.

SET VARIABLE fits = CASE WHEN split_part(ltrim(version(), 'v'), '.', 1)::INTEGER < 2
    THEN error('lake.sql needs DuckDB 2.0 or newer, and this is ' || version()) ELSE true END;

SET TimeZone = 'UTC';

-- A column that an object of an older release lacks is null: the schema says so, without a look into other objects.
SET VARIABLE event_schema = MAP {
    'event_id': {name: 'event_id', type: 'VARCHAR', default_value: NULL},
    'timestamp': {name: 'timestamp', type: 'TIMESTAMPTZ', default_value: NULL},
    'account_id': {name: 'account_id', type: 'VARCHAR', default_value: NULL},
    'api_version': {name: 'api_version', type: 'VARCHAR', default_value: NULL},
    'action_type': {name: 'action_type', type: 'VARCHAR', default_value: NULL},
    'action_result': {name: 'action_result', type: 'VARCHAR', default_value: NULL},
    'actor_id': {name: 'actor_id', type: 'VARCHAR', default_value: NULL},
    'actor_email': {name: 'actor_email', type: 'VARCHAR', default_value: NULL},
    'actor_type': {name: 'actor_type', type: 'VARCHAR', default_value: NULL},
    'actor_context': {name: 'actor_context', type: 'VARCHAR', default_value: NULL},
    'ip_address': {name: 'ip_address', type: 'VARCHAR', default_value: NULL},
    'resource_type': {name: 'resource_type', type: 'VARCHAR', default_value: NULL},
    'resource_id': {name: 'resource_id', type: 'VARCHAR', default_value: NULL},
    'resource_product': {name: 'resource_product', type: 'VARCHAR', default_value: NULL},
    'zone_id': {name: 'zone_id', type: 'VARCHAR', default_value: NULL},
    'zone_name': {name: 'zone_name', type: 'VARCHAR', default_value: NULL},
    'metadata': {name: 'metadata', type: 'VARCHAR', default_value: NULL},
    'raw_event': {name: 'raw_event', type: 'VARCHAR', default_value: NULL},
    'ingestion_time': {name: 'ingestion_time', type: 'TIMESTAMPTZ', default_value: NULL}};

-- The events of objects. Where none is, the answer is empty: DuckDB has one column then, `empty`, beside which ours are
-- named.
CREATE OR REPLACE MACRO events_of(paths, types) AS TABLE
    SELECT COLUMNS(lambda name: name <> 'empty')
    FROM (
        SELECT
            NULL::VARCHAR AS event_id, NULL::TIMESTAMPTZ AS "timestamp", NULL::VARCHAR AS account_id,
            NULL::VARCHAR AS api_version, NULL::VARCHAR AS action_type, NULL::VARCHAR AS action_result,
            NULL::VARCHAR AS actor_id, NULL::VARCHAR AS actor_email, NULL::VARCHAR AS actor_type,
            NULL::VARCHAR AS actor_context, NULL::VARCHAR AS ip_address, NULL::VARCHAR AS resource_type,
            NULL::VARCHAR AS resource_id, NULL::VARCHAR AS resource_product, NULL::VARCHAR AS zone_id,
            NULL::VARCHAR AS zone_name, NULL::VARCHAR AS metadata, NULL::VARCHAR AS raw_event,
            NULL::TIMESTAMPTZ AS ingestion_time, NULL::VARCHAR AS account, NULL::DATE AS date, NULL::TINYINT AS hour
        WHERE false
        UNION ALL BY NAME
        FROM read_parquet(paths, schema = getvariable('event_schema'), hive_partitioning = true, hive_types = types,
            allow_empty = true));

-- Those of hours' objects and of copies of days. Besides the columns of the events: account, date and hour.
CREATE OR REPLACE MACRO events_in(hours, copies) AS TABLE
    FROM events_of(hours, {'account': VARCHAR, 'date': DATE, 'hour': TINYINT})
    UNION ALL BY NAME
    SELECT * REPLACE (hour("timestamp")::TINYINT AS hour)
    FROM events_of(copies, {'account': VARCHAR, 'date': DATE});

-- The events. What is not named is not read: FROM audit_logs() lists and reads all of the lake,
-- audit_logs('<account>') one account, audit_logs('<account>', '2026-11-20') one folder, and a day may be a pattern,
-- '2026-11-*'.
CREATE OR REPLACE MACRO audit_logs(account_id := '*', day := '*') AS TABLE
    FROM events_in(
        getvariable('lake') || '/audit_logs/account=' || account_id || '/date=' || day || '/hour=*/events.parquet',
        CASE WHEN getvariable('lake') = 'lake:/'
            THEN ['lake://audit_logs_days/account=' || account_id || '/date=' || day || '/*.parquet']
            ELSE []::VARCHAR[] END);

-- What could not be placed: no readable time, or no event. An object a day of reception, and one beside the days' that a
-- release before them wrote; each event once.
CREATE OR REPLACE MACRO audit_logs_quarantine(account_id := '*') AS TABLE
    SELECT COLUMNS(lambda name: name <> 'empty'), quarantined.account_id AS account FROM (
        SELECT NULL::VARCHAR AS digest, NULL::VARCHAR AS account_id, NULL::VARCHAR AS api_version,
            NULL::TIMESTAMPTZ AS received_at, NULL::VARCHAR AS reason, NULL::VARCHAR AS event_id,
            NULL::TIMESTAMPTZ AS "timestamp", NULL::VARCHAR AS raw_event
        WHERE false
        UNION ALL BY NAME
        FROM read_parquet(
            getvariable('lake') || '/audit_logs_quarantine/account=' || account_id || '/**/events.parquet',
            schema = MAP {
                'digest': {name: 'digest', type: 'VARCHAR', default_value: NULL},
                'account_id': {name: 'account_id', type: 'VARCHAR', default_value: NULL},
                'api_version': {name: 'api_version', type: 'VARCHAR', default_value: NULL},
                'received_at': {name: 'received_at', type: 'TIMESTAMPTZ', default_value: NULL},
                'reason': {name: 'reason', type: 'VARCHAR', default_value: NULL},
                'event_id': {name: 'event_id', type: 'VARCHAR', default_value: NULL},
                'timestamp': {name: 'timestamp', type: 'TIMESTAMPTZ', default_value: NULL},
                'raw_event': {name: 'raw_event', type: 'VARCHAR', default_value: NULL}},
            hive_partitioning = false, allow_empty = true)) AS quarantined
    QUALIFY row_number() OVER (
        PARTITION BY quarantined.account_id, api_version, digest ORDER BY received_at) = 1;
