-- What began and ended, by agent, window and user. The classes are those of the rule suspicious-path.
SELECT
    agent_id,
    window_start,
    "user",
    starts,
    stops,
    first_seen_starts,
    suspicious_paths,
    programs['distinct'] AS distinct_programs,
    CASE WHEN starts > 0 THEN programs['entropy'] END AS program_entropy_bits
FROM (
    SELECT
        agent_id,
        window_start,
        "user",
        count(*) FILTER (WHERE event_type = 'process_started') AS starts,
        count(*) FILTER (WHERE event_type = 'process_stopped') AS stops,
        count(*) FILTER (WHERE event_type = 'process_started' AND first_seen) AS first_seen_starts,
        count(*) FILTER (WHERE event_type = 'process_started' AND path_class IN (
            'user_temp', 'user_roaming', 'user_documents', 'user_downloads', 'temp', 'world_writable'
        )) AS suspicious_paths,
        shares(name, 1.0) FILTER (WHERE event_type = 'process_started') AS programs
    FROM events
    GROUP BY agent_id, window_start, "user"
)
