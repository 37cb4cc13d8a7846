-- {events} events in {schema}.audit_logs, in the 90 days before {before}: ten accounts, 2,000 actors, 60 actions and as many
-- addresses as actors, a few of each with most events, as in an audit log. Half of the actors come in the course of time,
-- and one event in fifty comes from elsewhere. Small payloads: the questions do not read them.
INSERT INTO {schema}.audit_logs (event_id, "timestamp", account_id, api_version, action_type, action_result, actor_email,
    actor_type, ip_address, resource_type, raw_event, ingestion_time)
SELECT to_char(i, 'FM0000000000'), "timestamp", 'account' || account, 'v1', 'action' || action,
    CASE WHEN i % 50 = 0 THEN 'failure' ELSE 'success' END, 'user' || actor || '@example.com', 'user',
    '198.51.' || (actor + CASE WHEN i % 50 = 7 THEN i % 500 ELSE 0 END) / 250 || '.' || actor % 250,
    'resource' || action % 12, jsonb_build_object('id', i), '{before}'
FROM (
    SELECT i, '{before}'::timestamptz - (({events} - i) * interval '90 days' / {events}) AS "timestamp",
        floor(10 * power(random(), 3))::int AS account, floor(60 * power(random(), 3))::int AS action,
        floor((1000 + 1000.0 * i / {events}) * power(random(), 4))::int AS actor
    FROM generate_series(1::bigint, {events}) AS i
) AS event;
