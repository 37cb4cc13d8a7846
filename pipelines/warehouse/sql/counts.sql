-- Counts of events by hour that a plain table's own transactions keep, for the views audit_activity_hourly and
-- audit_seen_hourly: sections and names as in after_load.sql. A hypertable has a continuous aggregate instead.

-- [counts of events]
-- Of each hour, for two views: `actor` and `ip_address` are null in the rows of one, what was done in those of the other.
SELECT CASE grouping(actor) WHEN 0 THEN 'seen' ELSE 'activity' END AS view, hour,
    md5(ROW(account_id, api_version, action_type, action_result, resource_type, actor, ip_address)::text)::uuid AS key,
    account_id, api_version, action_type, action_result, resource_type, actor, ip_address, count(*) AS events
FROM (
    SELECT date_trunc('hour', "timestamp", 'UTC') AS hour, account_id, api_version, action_type, action_result,
        resource_type, coalesce(nullif(actor_email, ''), nullif(actor_id, ''), nullif(actor_type, '')) AS actor,
        nullif(ip_address, '') AS ip_address
    FROM {source}
) AS event
GROUP BY hour, account_id, api_version, GROUPING SETS ((action_type, action_result, resource_type), (actor, ip_address));

-- [counts]
-- What the two views need of a plain table, kept by the transaction that changes it, whoever's it is. The comment says
-- from which hour on the rows are counted: all that change from now on, the others by "count some events".
CREATE TABLE IF NOT EXISTS {schema}.audit_hourly_counts (
    view          text        NOT NULL,
    hour          timestamptz NOT NULL,
    key           uuid        NOT NULL,  -- a digest of the texts, which may be longer than an index takes
    account_id    text        NOT NULL,
    api_version   text        NOT NULL,
    action_type   text,
    action_result text,
    resource_type text,
    actor         text,
    ip_address    text,
    events        bigint      NOT NULL   -- the sum counts: a key may have several rows, and some are negative
);
CREATE INDEX IF NOT EXISTS audit_hourly_counts_key ON {schema}.audit_hourly_counts (view, hour, key);
COMMENT ON TABLE {schema}.audit_hourly_counts IS 'infinity';

-- With those triggers that are still there.
DROP FUNCTION IF EXISTS {schema}.audit_count_events(), {schema}.audit_forget_counts() CASCADE;

-- Rows of the same keys are taken up, but none that another transaction has taken: so nobody waits for anybody. One event
-- alone is only added: where a batch has one that is refused, each comes by itself, and would look at all before it.
-- With the rights of its owner: who loads events needs none on the counts, and cannot change them otherwise.
CREATE FUNCTION {schema}.audit_count_events() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $body$
DECLARE
    sign CONSTANT integer := TG_ARGV[0];
    changes CONSTANT bigint := (SELECT count(*) FROM (SELECT FROM changed LIMIT 2) AS first_two);
    -- A stricter transaction would fail where another has just changed what it would take.
    may_take CONSTANT boolean := changes > 1 AND current_setting('transaction_isolation') = 'read committed';
BEGIN
    IF changes = 0 THEN
        RETURN NULL;
    END IF;
    WITH counted AS MATERIALIZED (
        {counts of the changed}
    ), held AS MATERIALIZED (
        SELECT place FROM counted AS n CROSS JOIN LATERAL (
            SELECT c.ctid AS place FROM {schema}.audit_hourly_counts AS c
            WHERE may_take AND c.view = n.view AND c.hour = n.hour AND c.key = n.key FOR UPDATE SKIP LOCKED
        ) AS c
    ), taken AS (
        DELETE FROM {schema}.audit_hourly_counts WHERE ctid = ANY (ARRAY(SELECT place FROM held)) RETURNING *
    )
    INSERT INTO {schema}.audit_hourly_counts
        SELECT view, hour, key, account_id, api_version, action_type, action_result, resource_type, actor, ip_address, sum(events)
        FROM (
            SELECT view, hour, key, account_id, api_version, action_type, action_result, resource_type, actor, ip_address,
                sign * events AS events FROM counted
            UNION ALL SELECT * FROM taken
        ) AS both_of_them
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 HAVING sum(events) <> 0;
    RETURN NULL;
END
$body$;
CREATE FUNCTION {schema}.audit_forget_counts() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    TRUNCATE {schema}.audit_hourly_counts;
    RETURN NULL;
END
$body$;
-- Or anyone could have them count a table of his own.
REVOKE ALL ON FUNCTION {schema}.audit_count_events(), {schema}.audit_forget_counts() FROM PUBLIC;
CREATE TRIGGER audit_count_inserted AFTER INSERT ON {schema}.audit_logs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_count_events('1');
CREATE TRIGGER audit_count_deleted AFTER DELETE ON {schema}.audit_logs
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_count_events('-1');
CREATE TRIGGER audit_count_replaced AFTER UPDATE ON {schema}.audit_logs
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_count_events('-1');
CREATE TRIGGER audit_count_replacing AFTER UPDATE ON {schema}.audit_logs
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_count_events('1');
CREATE TRIGGER audit_count_truncated AFTER TRUNCATE ON {schema}.audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.audit_forget_counts();

-- [hours to count]
-- So many hours before those that are counted that they have {piece} events; the last time, all.
LOCK TABLE {schema}.audit_hourly_counts IN SHARE UPDATE EXCLUSIVE MODE;
SELECT to_jsonb(coalesce(date_trunc('hour', (
        SELECT "timestamp" FROM {schema}.audit_logs WHERE "timestamp" < before ORDER BY "timestamp" DESC OFFSET {piece} LIMIT 1
    ), 'UTC'), '-infinity')) #>> ARRAY[]::text[] AS since, to_jsonb(before) #>> ARRAY[]::text[] AS before
FROM (SELECT obj_description('{schema}.audit_hourly_counts'::regclass, 'pg_class')::timestamptz AS before) AS counted;

-- [count some events]
-- What a snapshot has of events, less what it has of counts, is what was there before the triggers, or changed without
-- them: this is right whatever others write meanwhile, and however often it is done.
INSERT INTO {schema}.audit_hourly_counts
    SELECT view, hour, key, account_id, api_version, action_type, action_result, resource_type, actor, ip_address, sum(events)
    FROM (
        {counts of the events}
        UNION ALL
        SELECT view, hour, key, account_id, api_version, action_type, action_result, resource_type, actor, ip_address, -events
        FROM {schema}.audit_hourly_counts WHERE view IN ('activity', 'seen') AND hour >= '{since}' AND hour < '{before}'
    ) AS both_of_them
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 HAVING sum(events) <> 0;
COMMENT ON TABLE {schema}.audit_hourly_counts IS '{since}';

-- [no counts]
-- With the triggers.
DROP FUNCTION IF EXISTS {schema}.audit_count_events(), {schema}.audit_forget_counts() CASCADE;
DROP TABLE {schema}.audit_hourly_counts;

-- [view audit_activity_hourly, counted]
CREATE OR REPLACE VIEW {schema}.audit_activity_hourly AS
    SELECT hour, account_id, api_version, action_type, action_result, resource_type, sum(events)::bigint AS events
    FROM {schema}.audit_hourly_counts
    WHERE view = 'activity'
    GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(events) <> 0;
COMMENT ON VIEW {schema}.audit_activity_hourly IS '{definition}';
GRANT SELECT ON {schema}.audit_activity_hourly TO {reader};

-- [view audit_seen_hourly, counted]
CREATE OR REPLACE VIEW {schema}.audit_seen_hourly AS
    SELECT hour, account_id, api_version, actor, ip_address, sum(events)::bigint AS events
    FROM {schema}.audit_hourly_counts
    WHERE view = 'seen'
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(events) <> 0;
COMMENT ON VIEW {schema}.audit_seen_hourly IS '{definition}';
GRANT SELECT ON {schema}.audit_seen_hourly TO {reader};
