-- The warehouse's tables, each statement safe to repeat. {schema} is PG_SCHEMA.
-- Made before the first load: dlt would make no key, and a unique index of its own that stops create_hypertable.

CREATE TABLE IF NOT EXISTS {schema}.audit_logs (
    event_id         text        NOT NULL,
    "timestamp"      timestamptz NOT NULL,
    account_id       text        NOT NULL,
    api_version      text        NOT NULL,
    action_type      text,
    action_result    text,
    actor_id         text,
    actor_email      text,
    actor_type       text,
    actor_context    text,
    ip_address       text,
    resource_type    text,
    resource_id      text,
    resource_product text,
    zone_id          text,
    zone_name        text,
    metadata         jsonb,
    raw_event        jsonb       NOT NULL,
    ingestion_time   timestamptz NOT NULL DEFAULT now(),
    -- Time before id: 1,000 inserts dirty 49 index pages instead of 1,054.
    PRIMARY KEY (account_id, "timestamp", event_id, api_version)
);

CREATE TABLE IF NOT EXISTS {schema}.audit_logs_rehydrated (LIKE {schema}.audit_logs INCLUDING ALL);

-- The results of comparing API, warehouse and lake, an hour of an account and version each.
CREATE TABLE IF NOT EXISTS {schema}.audit_completeness (
    account_id           text        NOT NULL,
    api_version          text        NOT NULL,
    hour                 timestamptz NOT NULL,
    checked_at           timestamptz NOT NULL,
    status               text        NOT NULL,  -- complete, gap
    api_events           bigint,                -- NULL: the API was not asked
    warehouse_events     bigint,                -- NULL: older than the retention
    lake_events          bigint,                -- NULL: the object cannot be read
    missing_in_warehouse bigint      NOT NULL,
    missing_in_lake      bigint      NOT NULL,
    doubled_in_lake      bigint      NOT NULL,
    differing            bigint,                -- NULL: the payloads were not compared
    missing_in_api       bigint,                -- no gap: the API forgets what is old
    api_digest           text,                  -- of the API's event ids: pipelines/lake/key_tallies.py
    PRIMARY KEY (account_id, api_version, hour, checked_at)
);

CREATE INDEX IF NOT EXISTS audit_completeness_gaps ON {schema}.audit_completeness (hour) WHERE status = 'gap';

CREATE TABLE IF NOT EXISTS {schema}.audit_logs_quarantine (
    digest      text        NOT NULL,
    account_id  text        NOT NULL,
    api_version text        NOT NULL,
    received_at timestamptz NOT NULL,
    reason      text        NOT NULL,
    event_id    text,
    "timestamp" timestamptz,
    raw_event   text        NOT NULL,
    PRIMARY KEY (account_id, api_version, digest)
);

-- A copy of what the seals in the lake say (docs/evidence/seals.md): the seals themselves are the evidence.
CREATE TABLE IF NOT EXISTS {schema}.audit_seals (
    incarnation    text        NOT NULL,
    number         bigint      NOT NULL,
    line           bigint      NOT NULL,  -- 0: the seal itself, others: its entries
    sealed_at      timestamptz NOT NULL,
    kind           text        NOT NULL,  -- seal, hour, amendment, compared, rotation
    account_id     text,
    hour           timestamptz,
    hour_seal      bigint,                -- 1: the hour's first
    events         bigint,                -- of a seal, its entries. Of comparisons, their hours
    root           text,
    added          bigint,
    removed        bigint,
    object_bytes   bigint,
    object_version text,
    checked_at     timestamptz,
    why            text,
    path           text,
    digest         text,
    note           text,                  -- of a seal, its checkpoint: signed
    PRIMARY KEY (incarnation, number, line)
);

CREATE INDEX IF NOT EXISTS audit_seals_hours ON {schema}.audit_seals (account_id, kind, hour, number);
