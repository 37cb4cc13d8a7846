-- {events} events in {schema}.audit_logs, evenly over the {seconds} seconds before {before}, of 3 accounts, 500 actors and
-- 20,000 resources; 1 in 50 failed. raw_event has 1.2 KB, much of it random, as ids and digests are.
INSERT INTO {schema}.audit_logs (
    event_id, "timestamp", account_id, api_version, action_type, action_result, actor_id, actor_email, actor_type,
    actor_context, ip_address, resource_type, resource_id, resource_product, zone_id, zone_name, metadata, raw_event,
    ingestion_time)
SELECT
    id, "timestamp", account, 'v1', action, result, md5('actor' || actor), email, 'user', 'dash', ip, 'dns.record',
    resource, 'dns', md5('zone' || zone), 'example' || zone || '.com',
    jsonb_build_object('name', md5(id || 'name'), 'zone_name', 'example' || zone || '.com'),
    jsonb_build_object(
        'id', id, 'when', "timestamp", 'interface', 'UI', 'owner', jsonb_build_object('id', account),
        'action', jsonb_build_object('type', action, 'result', result = 'success'),
        'actor', jsonb_build_object('id', md5('actor' || actor), 'email', email, 'ip', ip, 'type', 'user'),
        'resource', jsonb_build_object('id', resource, 'type', 'dns.record'),
        'oldValue', md5(id || 'o1') || md5(id || 'o2') || ' content=198.51.100.7 proxied=true ttl=300 comment=none',
        'newValue', md5(id || 'n1') || md5(id || 'n2') || ' content=198.51.100.8 proxied=true ttl=300 comment=none',
        'newValueJson', jsonb_build_object(
            'etag', md5(id || 'e') || md5(id || 'f'), 'modified_on', "timestamp", 'tags', '[]'::jsonb, 'ttl', 300,
            'settings', '{"ipv4_only": false, "ipv6_only": false, "flatten_cname": false}'::jsonb),
        'metadata', jsonb_build_object(
            'ray', md5(id || 'ray'), 'name', md5(id || 'name'), 'zone_name', 'example' || zone || '.com',
            'user_agent', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36')),
    '{before}'::timestamptz
FROM (
    SELECT
        md5('{before}' || i) AS id,
        '{before}'::timestamptz - i * (interval '{seconds} seconds' / {events}) AS "timestamp",
        md5('account' || (i % 3)) AS account,
        (ARRAY['rec_add', 'rec_del', 'rec_set', 'token_roll', 'add_member'])[1 + i % 5] AS action,
        CASE WHEN i % 50 = 0 THEN 'failure' ELSE 'success' END AS result,
        'user' || (i * 7919 % 500) || '@example.com' AS email,
        i * 7919 % 500 AS actor, i % 40 AS zone, '198.51.100.' || (i % 250) AS ip,
        md5('resource' || (i * 104729 % 20000)) AS resource
    FROM generate_series(1::bigint, {events}) AS i
    ORDER BY i DESC
) AS event;
