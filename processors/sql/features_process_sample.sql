-- Which program used the processor most, by agent, window and user.
SELECT
    agent_id,
    window_start,
    "user",
    process_samples,
    programs['top_share'] AS top_process_share
FROM (
    SELECT
        agent_id,
        window_start,
        "user",
        count(*) AS process_samples,
        shares(name, cpu_percent) AS programs
    FROM events
    GROUP BY agent_id, window_start, "user"
)
