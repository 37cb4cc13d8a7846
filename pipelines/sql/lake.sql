-- The lake as DuckDB sees it: `.read pipelines/sql/lake.sql` in its shell, after
--     SET VARIABLE lake = 'data/lake/cloudflare';            -- a folder
--     SET VARIABLE lake = 's3://bucket/prefix/cloudflare';   -- a bucket, with a secret of type s3
-- or `python pipelines/ask.py "SELECT …"`, which does both. Times are shown in UTC.

SET TimeZone = 'UTC';

-- The events. What is not named is not read: FROM audit_logs() lists and reads all of the lake,
-- audit_logs('<account>') one account, audit_logs('<account>', '2026-11-20') one folder, and a day may be a pattern,
-- '2026-11-*'. Besides the columns of the events: account, date and hour, those of the path.
CREATE OR REPLACE MACRO audit_logs(account_id := '*', day := '*') AS TABLE
    FROM read_parquet(
        getvariable('lake') || '/audit_logs/account=' || account_id || '/date=' || day || '/hour=*/events.parquet',
        hive_partitioning = true, hive_types = {'account': VARCHAR, 'date': DATE, 'hour': TINYINT});

-- What could not be placed: no readable time, or no event.
CREATE OR REPLACE MACRO audit_logs_quarantine(account_id := '*') AS TABLE
    FROM read_parquet(getvariable('lake') || '/audit_logs_quarantine/account=' || account_id || '/events.parquet');
