-- The steps after a load: indexes, views, TimescaleDB. Each section is a step, run in one transaction by
-- pipelines/warehouse/upkeep.py when it is due; "before 2.x" is the form for an older TimescaleDB. {schema} is PG_SCHEMA,
-- {reader} PG_USER, {columns} ours, {definition} a digest of the section; the other names are numbers of the settings.

-- [found]
SELECT
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS extension,
    (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb') AS extension_schema,
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS is_available,
    -- Null where the library was not loaded at the server's start.
    current_setting('timescaledb.license', true) AS license,
    current_setting('server_version_num')::int >= 180000 AS has_skip_scan,
    (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE relname = 'audit_logs' AND relnamespace = to_regnamespace('{schema}')) AS is_owner,
    -- Without those of actors and resources that were B-trees, once.
    ARRAY(SELECT relname::text FROM pg_class AS i JOIN pg_am AS a ON a.oid = i.relam
          WHERE relnamespace = to_regnamespace('{schema}') AND relkind IN ('i', 'I')
              AND NOT (amname = 'btree' AND relname ~ '^audit_logs_(rehydrated_)?(actor|resource)$')) AS indexes,
    ARRAY(SELECT concat(relname, ' ', obj_description(oid)) FROM pg_class WHERE relnamespace = to_regnamespace('{schema}') AND relkind = 'v') AS views,
    (SELECT count(*) = 5 FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid WHERE c.relname = 'audit_logs'
        AND c.relnamespace = to_regnamespace('{schema}') AND tgname LIKE 'audit\_count\_%' AND tgenabled IN ('O', 'A')) AS is_counting,
    (SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE relname = 'audit_hourly_counts'
        AND relnamespace = to_regnamespace('{schema}')) AS counted_from;

-- [found in timescaledb]
-- Another's policy may be by creation time, or there may be two: -1 differs from every setting, so that ours replaces it.
SELECT
    (SELECT max(extract(epoch FROM time_interval))::float8 / 86400 FROM timescaledb_information.dimensions
     WHERE hypertable_schema = '{schema}' AND hypertable_name = 'audit_logs' AND column_name = 'timestamp') AS chunk_days,
    EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_schema = '{schema}'
            AND hypertable_name = 'audit_logs' AND compression_enabled) AS is_columnar,
    (SELECT max(coalesce(extract(epoch FROM (config ->> 'compress_after')::interval)::float8 / 86400, -1))
     FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'
        AND hypertable_schema = '{schema}' AND hypertable_name = 'audit_logs') AS compress_after_days,
    (SELECT max(coalesce(extract(epoch FROM (config ->> 'drop_after')::interval)::float8 / 86400, -1))
     FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'
        AND hypertable_schema = '{schema}' AND hypertable_name = 'audit_logs') AS retention_days,
    EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
            WHERE view_schema = '{schema}' AND view_name = 'audit_activity_hourly') AS is_continuous,
    EXISTS (SELECT FROM timescaledb_information.jobs AS j JOIN timescaledb_information.continuous_aggregates AS a
            ON (j.hypertable_schema, j.hypertable_name) IN (
                (a.view_schema, a.view_name), (a.materialization_hypertable_schema, a.materialization_hypertable_name))
            WHERE j.proc_name = 'policy_refresh_continuous_aggregate'
                AND a.view_schema = '{schema}' AND a.view_name = 'audit_activity_hourly') AS is_refreshed;

-- [index timestamp]
CREATE INDEX IF NOT EXISTS audit_logs_timestamp ON {schema}.audit_logs ("timestamp" DESC);
CREATE INDEX IF NOT EXISTS audit_logs_rehydrated_timestamp ON {schema}.audit_logs_rehydrated ("timestamp" DESC);

-- [index actor]
-- SP-GiST takes a text of any length, and many equal ones; a B-tree refuses 2,704 bytes, a hash index gets slow with equal
-- ones (400,000: 96 ms for 1,000 more). TimescaleDB gives compressed batches a bloom filter for each column that has a
-- B-tree, even one without entries.
DROP INDEX IF EXISTS {schema}.audit_logs_actor, {schema}.audit_logs_rehydrated_actor;
CREATE INDEX audit_logs_actor ON {schema}.audit_logs USING spgist (actor_email);
CREATE INDEX audit_logs_rehydrated_actor ON {schema}.audit_logs_rehydrated USING spgist (actor_email);
CREATE INDEX IF NOT EXISTS audit_logs_actor_bloom ON {schema}.audit_logs (actor_email) WHERE false;

-- [index resource]
DROP INDEX IF EXISTS {schema}.audit_logs_resource, {schema}.audit_logs_rehydrated_resource;
CREATE INDEX audit_logs_resource ON {schema}.audit_logs USING spgist (resource_id);
CREATE INDEX audit_logs_rehydrated_resource ON {schema}.audit_logs_rehydrated USING spgist (resource_id);
CREATE INDEX IF NOT EXISTS audit_logs_resource_bloom ON {schema}.audit_logs (resource_id) WHERE false;

-- [index failure]
CREATE INDEX IF NOT EXISTS audit_logs_failure ON {schema}.audit_logs ("timestamp" DESC) WHERE action_result = 'failure';
CREATE INDEX IF NOT EXISTS audit_logs_rehydrated_failure ON {schema}.audit_logs_rehydrated ("timestamp" DESC) WHERE action_result = 'failure';

-- [index event_id]
CREATE INDEX IF NOT EXISTS audit_logs_event_id ON {schema}.audit_logs (event_id);
CREATE INDEX IF NOT EXISTS audit_logs_rehydrated_event_id ON {schema}.audit_logs_rehydrated (event_id);
DROP INDEX IF EXISTS {schema}.audit_logs_month_event_id, {schema}.audit_logs_rehydrated_month_event_id;

-- [index month_event_id]
-- Ids are random: by month, new ones stay together. A search by id looks at each month once (skip scan, PostgreSQL 18).
CREATE INDEX IF NOT EXISTS audit_logs_month_event_id ON {schema}.audit_logs (date_trunc('month', "timestamp" AT TIME ZONE 'UTC'), event_id);
CREATE INDEX IF NOT EXISTS audit_logs_rehydrated_month_event_id
    ON {schema}.audit_logs_rehydrated (date_trunc('month', "timestamp" AT TIME ZONE 'UTC'), event_id);
DROP INDEX IF EXISTS {schema}.audit_logs_event_id, {schema}.audit_logs_rehydrated_event_id;

-- [index quarantine]
-- For events that PostgreSQL refused: they alone have a time, and each comparison looks them up by it.
CREATE INDEX IF NOT EXISTS audit_logs_quarantine_timestamp ON {schema}.audit_logs_quarantine (account_id, api_version, "timestamp") WHERE "timestamp" IS NOT NULL;

-- [view audit_logs_all]
-- Each event once. An event younger than the oldest of audit_logs is looked up there by the key, in the one chunk of its
-- time: OFFSET 0 keeps the planner from reading all of audit_logs for a join.
CREATE OR REPLACE VIEW {schema}.audit_logs_all AS
    SELECT {columns} FROM {schema}.audit_logs
    UNION ALL
    SELECT {columns} FROM {schema}.audit_logs_rehydrated AS r
    WHERE r."timestamp" < (SELECT min("timestamp") FROM {schema}.audit_logs)
        OR NOT EXISTS (
            SELECT FROM {schema}.audit_logs AS a
            WHERE (a.account_id, a."timestamp", a.event_id, a.api_version)
                = (r.account_id, r."timestamp", r.event_id, r.api_version)
            OFFSET 0
        );
COMMENT ON VIEW {schema}.audit_logs_all IS '{definition}';
GRANT SELECT ON {schema}.audit_logs_all TO {reader};

-- [view audit_seen_hourly]
CREATE OR REPLACE VIEW {schema}.audit_seen_hourly AS
    SELECT date_trunc('hour', "timestamp", 'UTC') AS hour, account_id, api_version,
        coalesce(nullif(actor_email, ''), nullif(actor_id, ''), nullif(actor_type, '')) AS actor,
        nullif(ip_address, '') AS ip_address, count(*) AS events
    FROM {schema}.audit_logs
    GROUP BY 1, 2, 3, 4, 5;
COMMENT ON VIEW {schema}.audit_seen_hourly IS '{definition}';
GRANT SELECT ON {schema}.audit_seen_hourly TO {reader};

-- [view audit_activity_hourly]
CREATE OR REPLACE VIEW {schema}.audit_activity_hourly AS
    SELECT date_trunc('hour', "timestamp", 'UTC') AS hour,
        account_id, api_version, action_type, action_result, resource_type, count(*) AS events
    FROM {schema}.audit_logs
    GROUP BY 1, 2, 3, 4, 5, 6;
COMMENT ON VIEW {schema}.audit_activity_hourly IS '{definition}';
GRANT SELECT ON {schema}.audit_activity_hourly TO {reader};

-- [extension]
CREATE EXTENSION IF NOT EXISTS timescaledb;

-- [hypertable]
SELECT count(*) FROM create_hypertable('{schema}.audit_logs', by_range('timestamp', INTERVAL '{chunk_days} days'),
    create_default_indexes => false, migrate_data => true);

-- [hypertable, before 2.13]
SELECT count(*) FROM create_hypertable('{schema}.audit_logs', 'timestamp', chunk_time_interval => INTERVAL '{chunk_days} days',
    create_default_indexes => false, migrate_data => true);

-- [chunk interval]
SELECT count(*) FROM set_chunk_time_interval('{schema}.audit_logs', INTERVAL '{chunk_days} days');

-- [columnstore]
-- TimescaleDB's own choice is to segment by event_id, which makes the table 2.2 times bigger. event_id is not in the order
-- either: then its index gives compressed batches a bloom filter that finds one event by its id.
ALTER TABLE {schema}.audit_logs SET (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'account_id, api_version',
    timescaledb.orderby = '"timestamp" DESC');

-- [columnstore policy]
CALL remove_columnstore_policy('{schema}.audit_logs', if_exists => true);
CALL add_columnstore_policy('{schema}.audit_logs', after => INTERVAL '{compress_after_days} days');

-- [no columnstore policy]
CALL remove_columnstore_policy('{schema}.audit_logs', if_exists => true);

-- [retention policy]
SELECT count(*) FROM remove_retention_policy('{schema}.audit_logs', if_exists => true);
SELECT count(*) FROM add_retention_policy('{schema}.audit_logs', drop_after => INTERVAL '{retention_days} days');

-- [no retention policy]
SELECT count(*) FROM remove_retention_policy('{schema}.audit_logs', if_exists => true);

-- [no view audit_activity_hourly]
DROP VIEW {schema}.audit_activity_hourly;

-- [hourly aggregate]
-- In place of the plain view, with its name and columns. Hours not materialised yet are counted by each query.
CREATE MATERIALIZED VIEW {schema}.audit_activity_hourly
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
        account_id, api_version, action_type, action_result, resource_type, count(*) AS events
    FROM {schema}.audit_logs
    GROUP BY 1, 2, 3, 4, 5, 6
    WITH NO DATA;
GRANT SELECT ON {schema}.audit_activity_hourly TO {reader};

-- [refresh policy]
-- Without a start: a narrower window leaves out older hours that were never materialised, and erases hours after a
-- retention was raised. Only hours that changed are counted again. Oldest first: the view asks the table for hours after
-- the last materialised one, so it is whole even during the first refresh; newest first showed 23,138 of 100,032 events.
SELECT count(*) FROM add_continuous_aggregate_policy('{schema}.audit_activity_hourly',
    start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes',
    refresh_newest_first => false);

-- [refresh policy, before 2.20]
SELECT count(*) FROM add_continuous_aggregate_policy('{schema}.audit_activity_hourly',
    start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes');
