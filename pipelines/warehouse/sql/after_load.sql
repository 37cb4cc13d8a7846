-- What comes after the load: indexes, views, and TimescaleDB where it is there. Each section is one step, run in one
-- transaction by pipelines/warehouse/upkeep.py when the warehouse is not as the settings say; "before 2.x" is the form that
-- an older TimescaleDB understands. {schema} is PG_SCHEMA, {reader} is PG_USER, {columns} ours in
-- the order of the tables, {definition} a digest of the section; the other names are numbers of the settings.

-- [found]
SELECT
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS extension,
    (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb') AS extension_schema,
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS is_available,
    -- Null where the extension is there but its library was not loaded at the server's start.
    current_setting('timescaledb.license', true) AS license,
    current_setting('server_version_num')::int >= 180000 AS has_skip_scan,
    (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class
     WHERE relname = 'audit_logs' AND relnamespace = to_regnamespace('{schema}')) AS is_owner,
    -- Without those of actors and resources that were B-trees, once.
    ARRAY(SELECT relname::text FROM pg_class AS i JOIN pg_am AS a ON a.oid = i.relam
          WHERE relnamespace = to_regnamespace('{schema}') AND relkind IN ('i', 'I')
              AND NOT (amname = 'btree' AND relname ~ '^audit_logs_(rehydrated_)?(actor|resource)$')) AS indexes,
    ARRAY(SELECT concat(relname, ' ', obj_description(oid)) FROM pg_class
          WHERE relnamespace = to_regnamespace('{schema}') AND relkind = 'v') AS views;

-- [found in timescaledb]
-- A policy may be there by creation time, or twice: -1 is told from every setting, so that it makes way for ours.
SELECT
    (SELECT max(extract(epoch FROM time_interval))::float8 / 86400 FROM timescaledb_information.dimensions
     WHERE hypertable_schema = '{schema}' AND hypertable_name = 'audit_logs' AND column_name = 'timestamp')
        AS chunk_days,
    EXISTS (SELECT FROM timescaledb_information.hypertables
            WHERE hypertable_schema = '{schema}' AND hypertable_name = 'audit_logs' AND compression_enabled)
        AS is_columnar,
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
-- ones (400,000: 96 ms for 1,000 more). By the actor alone: what is sorted by time afterwards is what one actor did.
-- TimescaleDB gives a compressed batch a bloom filter for each column that has a B-tree: those have no entries.
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
-- Ids are random: by month, new ones go where the last ones went, not all over the history. A search by id alone looks
-- at each month once (skip scan, PostgreSQL 18).
CREATE INDEX IF NOT EXISTS audit_logs_month_event_id
    ON {schema}.audit_logs (date_trunc('month', "timestamp" AT TIME ZONE 'UTC'), event_id);
CREATE INDEX IF NOT EXISTS audit_logs_rehydrated_month_event_id
    ON {schema}.audit_logs_rehydrated (date_trunc('month', "timestamp" AT TIME ZONE 'UTC'), event_id);
DROP INDEX IF EXISTS {schema}.audit_logs_event_id, {schema}.audit_logs_rehydrated_event_id;

-- [index quarantine]
-- Of what PostgreSQL refused: each hour that is asked for is looked up there, too, and most of a quarantine has no time.
CREATE INDEX IF NOT EXISTS audit_logs_quarantine_timestamp
    ON {schema}.audit_logs_quarantine (account_id, api_version, "timestamp") WHERE "timestamp" IS NOT NULL;

-- [view audit_logs_all]
-- Each event once. An event older than all of audit_logs needs no look there; each of the others asks the key's index,
-- of the one chunk that its time is in: OFFSET 0 keeps the planner from reading all of audit_logs for a join.
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
-- Left to itself, TimescaleDB segments by the key's event_id, which makes the table 2.2 times bigger. event_id is not
-- in the order either: then its index gives compressed batches a bloom filter that finds one event by its id.
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
-- In place of the plain view, same name and columns. What is not materialised yet is counted when it is asked for.
CREATE MATERIALIZED VIEW {schema}.audit_activity_hourly
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT time_bucket(INTERVAL '1 hour', "timestamp") AS hour,
        account_id, api_version, action_type, action_result, resource_type, count(*) AS events
    FROM {schema}.audit_logs
    GROUP BY 1, 2, 3, 4, 5, 6
    WITH NO DATA;
GRANT SELECT ON {schema}.audit_activity_hourly TO {reader};

-- [refresh policy]
-- All of it, so that it always counts what is in audit_logs: a narrower window leaves out what was never materialised
-- before it, and erases what it covers after a retention was raised. Only hours that changed are counted again.
-- Oldest first: of what is newer than the last hour that was materialised the view asks the table, so it is whole even
-- in the middle of the first refresh. Newest first (the default) showed 23,138 of 100,032 events for some seconds.
SELECT count(*) FROM add_continuous_aggregate_policy('{schema}.audit_activity_hourly',
    start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes',
    refresh_newest_first => false);

-- [refresh policy, before 2.20]
SELECT count(*) FROM add_continuous_aggregate_policy('{schema}.audit_activity_hourly',
    start_offset => NULL, end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes');
