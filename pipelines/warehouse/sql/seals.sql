-- The questions of pipelines/warehouse/seals.py. {schema} is PG_SCHEMA. `lineage`: which numbers count of each incarnation.

-- [beyond]
-- Parameters: incarnation, number and digest of the newest seal in the lake. A seal that was there, and is not any more.
SELECT number, path FROM {schema}.audit_seals
WHERE incarnation = $1 AND line = 0 AND (number > $2 OR (number = $2 AND digest <> $3)) ORDER BY number DESC LIMIT 1;

-- [lacking]
-- Parameters: lineage, the first number that is looked at.
SELECT n AS number FROM jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
CROSS JOIN LATERAL generate_series(greatest(l.first, $2::bigint), l.before - 1) AS n
WHERE NOT EXISTS (SELECT FROM {schema}.audit_seals AS s WHERE s.incarnation = l.id AND s.number = n AND s.line = 0)
ORDER BY 1;

-- [insert]
INSERT INTO {schema}.audit_seals SELECT * FROM jsonb_populate_recordset(NULL::{schema}.audit_seals, $1::jsonb)
ON CONFLICT DO NOTHING;

-- [last hour]
-- Parameters: lineage, account.
SELECT s.hour FROM {schema}.audit_seals AS s
WHERE s.account_id = $2 AND s.kind = 'hour' AND EXISTS (
    SELECT FROM jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
    WHERE s.incarnation = l.id AND s.number >= l.first AND s.number < l.before)
ORDER BY s.hour DESC LIMIT 1;

-- [objects]
-- Parameters: lineage, account. The object of each sealed hour, as it was sealed last.
SELECT DISTINCT ON (s.hour) s.hour, s.object_bytes, s.object_version FROM {schema}.audit_seals AS s
JOIN jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
    ON s.incarnation = l.id AND s.number >= l.first AND s.number < l.before
WHERE s.account_id = $2 AND s.kind = 'hour'
ORDER BY s.hour, s.number DESC, s.line DESC;

-- [seals of hours]
-- Parameters: lineage, account, hours.
SELECT DISTINCT of.path, of.number FROM {schema}.audit_seals AS s
JOIN jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
    ON s.incarnation = l.id AND s.number >= l.first AND s.number < l.before
JOIN {schema}.audit_seals AS of ON of.incarnation = s.incarnation AND of.number = s.number AND of.line = 0
WHERE s.account_id = $2 AND s.kind IN ('hour', 'amendment') AND s.hour = ANY (string_to_array($3, ',')::timestamptz[])
ORDER BY of.number;

-- [path]
-- Parameters: lineage, number.
SELECT s.path FROM jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
JOIN {schema}.audit_seals AS s ON s.incarnation = l.id AND s.number = $2 AND s.line = 0
WHERE $2 >= l.first AND $2 < l.before;

-- [new checks]
-- Parameters: lineage, account, since, checked before. Of the hours since a time, those compared since they were sealed.
SELECT c.* FROM {schema}.audit_completeness AS c
WHERE c.account_id = $2 AND c.hour >= $3 AND c.checked_at < $4 AND c.checked_at > coalesce((
    SELECT max(s.checked_at) FROM {schema}.audit_seals AS s
    JOIN jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
        ON s.incarnation = l.id AND s.number >= l.first AND s.number < l.before
    WHERE s.account_id = $2 AND s.kind = 'compared'), '-infinity')
ORDER BY c.api_version, c.hour, c.checked_at;
