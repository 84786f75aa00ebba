-- Whether somebody worked, by agent, window and user. A report without input tells for how long there was none; reports
-- of one run without input tell the same instant of the last input, so different instants are different runs.
SELECT
    agent_id,
    window_start,
    "user",
    activity_reports,
    active['sum'] AS active_s,
    runs['distinct'] AS idle_runs,
    mouse_events,
    keyboard_events
FROM (
    SELECT
        agent_id,
        window_start,
        "user",
        count(*) AS activity_reports,
        gauge(active_s, CAST(NULL AS BOOLEAN), event_time, seq) AS active,
        shares(CAST(last_input AS VARCHAR), 1.0) AS runs,
        sum(mouse_events) AS mouse_events,
        sum(keyboard_events) AS keyboard_events
    FROM (
        SELECT
            *,
            CASE WHEN idle_s > 0.0 AND NOT coalesce(mouse, false) AND NOT coalesce(keyboard, false)
                THEN CAST(event_time AS BIGINT) - CAST(round(idle_s * 1000000.0) AS BIGINT) END AS last_input
        FROM events
    )
    GROUP BY agent_id, window_start, "user"
)
