-- What the whole fleet did of what one rule is about, by group and window.
SELECT
    group_key,
    window_start,
    rule_id,
    definition,
    group_values,
    "rows",
    machines['distinct'] AS agents,
    people['distinct'] AS users,
    first_seen,
    last_seen,
    evidence
FROM (
    SELECT
        group_key,
        window_start,
        min(rule_id) AS rule_id,
        min(definition) AS definition,
        min(group_values) AS group_values,
        count(*) AS "rows",
        shares(agent_id, 1.0) AS machines,
        shares("user", 1.0) AS people,
        min(event_time) AS first_seen,
        max(event_time) AS last_seen,
        earliest(agent_id, event_time, evidence) AS evidence
    FROM fleet
    GROUP BY group_key, window_start
)
