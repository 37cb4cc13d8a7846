-- Keeps dlt's own tables from growing for ever, each statement safe to repeat. {schema} is PG_SCHEMA.
-- A state counts only with its load: the 10 newest that do are kept, and whatever is being loaded after them.

DELETE FROM {schema}._dlt_pipeline_state
WHERE pipeline_name = '{pipeline}' AND _dlt_load_id < (
    SELECT min(_dlt_load_id) FROM (
        SELECT s._dlt_load_id FROM {schema}._dlt_pipeline_state AS s
        JOIN {schema}._dlt_loads AS l ON l.load_id = s._dlt_load_id AND l.status = 0
        WHERE s.pipeline_name = '{pipeline}' ORDER BY s._dlt_load_id DESC LIMIT 10
    ) AS newest
);

DELETE FROM {schema}._dlt_loads
WHERE load_id < (SELECT min(load_id) FROM (SELECT load_id FROM {schema}._dlt_loads ORDER BY load_id DESC LIMIT 100) AS newest)
    AND load_id NOT IN (SELECT _dlt_load_id FROM {schema}._dlt_pipeline_state);
