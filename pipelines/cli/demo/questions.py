"""The questions of the demo, as an investigator would write them."""

_STRANGERS = """\
WITH strangers AS (  -- addresses that were never seen before, and failed to sign in again and again
  SELECT ip_address, min(timestamp) AS came FROM audit_logs GROUP BY ip_address
  HAVING min(timestamp) > now() - INTERVAL '3 days'
    AND count(*) FILTER (WHERE metadata->>'description' = 'LOGIN' AND action_result = 'failure') >= 5
), taken AS (  -- the tokens that they made
  SELECT resource_id AS token_id FROM audit_logs JOIN strangers USING (ip_address) WHERE resource_type = 'token'
), theirs AS (  -- everything that they or their tokens did
  SELECT * FROM audit_logs
  WHERE ip_address IN (SELECT ip_address FROM strangers) OR metadata->>'token_id' IN (SELECT token_id FROM taken)
)
"""

INCIDENT_SQL = f"""\
{_STRANGERS}\
SELECT to_char(timestamp AT TIME ZONE 'UTC', 'Dy HH24:MI:SS') AS "when (UTC)", split_part(actor_email, '@', 1) AS who,
  left(coalesce(metadata->>'description', action_type), 26) AS "did what",
  left(coalesce(asked->>'name', asked->>'email', asked->>'description', asked->>'notes', resource_id), 20) AS "to what",
  ip_address AS "from", metadata->>'token_name' AS token, action_result AS result
FROM audit_logs AS event, LATERAL (SELECT raw_event->'resource'->'request' AS asked) AS request
WHERE timestamp >= (SELECT min(came) FROM strangers)
  AND (api_version = 'v2' OR action_type IN ('API_key_view', 'rotate_API_key'))  -- these two are in v1 alone
  AND EXISTS (SELECT FROM theirs WHERE theirs.event_id = event.event_id OR theirs.resource_id = event.resource_id)
ORDER BY timestamp;
"""  # noqa: S608  # constants

CHANGES_SQL = f"""\
{_STRANGERS}\
SELECT to_char(timestamp AT TIME ZONE 'UTC', 'Dy HH24:MI:SS') AS "when (UTC)", action_type AS "did what",
  coalesce(raw_event->'oldValueJson'->>'name', metadata->>'name') AS "to what",
  coalesce(nullif(raw_event->>'oldValue', ''), raw_event->'oldValueJson'->>'content',
    'enabled ' || (raw_event->'oldValueJson'->>'enabled')) AS "from",
  coalesce(nullif(raw_event->>'newValue', ''), raw_event->'newValueJson'->>'content',
    'enabled ' || (raw_event->'newValueJson'->>'enabled')) AS "to"
FROM audit_logs WHERE api_version = 'v1' AND ip_address IN (SELECT ip_address FROM theirs)
  AND (raw_event->>'oldValue' <> '' OR raw_event->'oldValueJson' ?| ARRAY['content', 'enabled'])
ORDER BY timestamp;
"""  # noqa: S608  # constants

PEOPLE_SQL = (
    "SELECT actor_email, action_type, count(*) AS events FROM audit_logs() GROUP BY ALL ORDER BY events DESC LIMIT 10"
)
