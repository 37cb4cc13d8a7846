-- The questions of pipelines/warehouse/seals.py. {schema} is PG_SCHEMA. `lineage`: which numbers count of each incarnation.

-- [beyond]
-- Parameters: incarnation, number and digest of the newest seal in the lake. A seal that was there, and is not any more.
SELECT number, path, note FROM {schema}.audit_seals
WHERE incarnation = $1 AND line = 0 AND (number > $2 OR (number = $2 AND digest IS DISTINCT FROM $3)) ORDER BY number;

-- [lacking]
-- Parameters: lineage, the first number that is looked at.
SELECT n AS number FROM jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
CROSS JOIN LATERAL generate_series(greatest(l.first, $2::bigint), l.before - 1) AS n
WHERE NOT EXISTS (SELECT FROM {schema}.audit_seals AS s WHERE s.incarnation = l.id AND s.number = n AND s.line = 0
    AND s.events <= (SELECT count(*) FROM {schema}.audit_seals AS e
        WHERE e.incarnation = l.id AND e.number = n AND e.line > 0))
ORDER BY 1;

-- [insert]
INSERT INTO {schema}.audit_seals SELECT * FROM jsonb_populate_recordset(NULL::{schema}.audit_seals, $1::jsonb)
ON CONFLICT DO NOTHING;

-- [new checks]
-- Parameters: lineage, account, since, checked before. Of the hours since a time, those compared since they were sealed.
SELECT c.* FROM {schema}.audit_completeness AS c
WHERE c.account_id = $2 AND c.hour >= $3 AND c.checked_at < $4 AND c.checked_at > coalesce((
    SELECT max(s.checked_at) FROM {schema}.audit_seals AS s
    JOIN jsonb_to_recordset($1::jsonb) AS l (id text, first bigint, before bigint)
        ON s.incarnation = l.id AND s.number >= l.first AND s.number < l.before
    WHERE s.account_id = $2 AND s.kind = 'compared'), '-infinity')
ORDER BY c.api_version, c.hour, c.checked_at;
